"""The rows of one forward pass, as llama.cpp wants them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmnb.engine.native import L


class Batch:
    """The rows of one forward pass: token, position, sequence and whether logits are wanted.

    The arrays are ours and numpy writes them in slices; setting them through ctypes one by one
    costs ten times as much.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.outputs = 0
        self.runs: list[tuple[int, int]] = []
        """Sequence and first position of each run of tokens."""
        self.token = np.zeros(capacity, np.int32)
        self.pos = np.zeros(capacity, np.int32)
        self.sequence = np.zeros(capacity, np.int32)
        self.output = np.zeros(capacity, np.int8)
        self._ones = np.ones(capacity, np.int32)
        first = self.sequence.ctypes.data
        self._pointers = (ctypes.POINTER(ctypes.c_int32) * capacity)(
            *(
                ctypes.cast(first + 4 * row, ctypes.POINTER(ctypes.c_int32))
                for row in range(capacity)
            )
        )
        i32, i8 = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int8)
        self.raw = L.llama_batch(
            n_tokens=0,
            token=self.token.ctypes.data_as(i32),
            embd=None,
            pos=self.pos.ctypes.data_as(i32),
            n_seq_id=self._ones.ctypes.data_as(i32),
            seq_id=ctypes.cast(self._pointers, ctypes.POINTER(i32)),
            logits=self.output.ctypes.data_as(i8),
        )

    def clear(self) -> None:
        """Forget all rows."""
        self.size = self.outputs = 0
        self.runs.clear()

    def add(self, tokens: NDArray[np.int32], start: int, sequence: int, outputs: int) -> None:
        """Append a run of text at positions from `start`; logits for the last `outputs` of them."""
        begin, end = self.size, self.size + len(tokens)
        if len(tokens) == 1:  # every answer's, and written as a slice it costs three times as much
            self.token[begin], self.pos[begin] = tokens[0], start
            self.sequence[begin], self.output[begin] = sequence, outputs
        else:
            self.token[begin:end] = tokens
            self.pos[begin:end] = np.arange(start, start + len(tokens), dtype=np.int32)
            self.sequence[begin:end] = sequence
            self.output[begin : end - outputs] = 0
            self.output[end - outputs : end] = 1
        self.size = end
        self.outputs += outputs
        self.runs.append((sequence, start))

    def of_embeddings(
        self, rows: NDArray[np.float32], places: NDArray[np.int32], sequence: int
    ) -> Any:
        """A batch of embeddings, (tokens, width), without logits. The arrays are not copied.

        `places`: (1, tokens), or (4, tokens) for a model with M-RoPE.
        """
        self.clear()
        self.sequence[: len(rows)] = sequence
        self.output[: len(rows)] = 0
        raw = self.raw
        return L.llama_batch(
            n_tokens=len(rows),
            token=None,
            embd=rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=places.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=raw.n_seq_id,
            seq_id=raw.seq_id,
            logits=raw.logits,
        )
