"""Multi-token prediction: layers of the model itself that foresee the token after the next one.

Models trained for it (DeepSeek V3 began) have one more block. It reads a token together with what the
model computed at the token before it, the *hidden state*, and so guesses one token ahead of the
model; fed with its own state it goes on guessing. It has a small KV cache of its own, which has
to follow the model's: `follow` collects the hidden states of every forward pass, `draft` lets the
layer read what it has not read yet, and guess on from there.

The layer need not have read a text from its beginning. What came out of the prefix cache has no
hidden states, and it starts behind that; its guesses may be worse then, the answers are the same.
"""

from __future__ import annotations

import ctypes
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmnb.engine import native
from lmnb.engine.batch import Batch
from lmnb.engine.config import LoadConfig
from lmnb.engine.context import Context, create, parameters
from lmnb.engine.model import Model
from lmnb.engine.native import L
from lmnb.engine.prefixes import Tokens
from lmnb.engine.sequence import Sequence

Rows = NDArray[np.float32]

_CONTEXT_TYPE = 1
"""llama.h, LLAMA_CONTEXT_TYPE_MTP."""
_MOST_UNREAD = 32
"""Hidden states that are kept for an answer nobody drafts for at the moment."""
_SURE = 0.4
"""Probability that a token must have for the draft to go on."""


class _Trail:
    """What the layer knows of a slot.

    It has read the tokens before position `length`, or as many of them as it was there for. `rows`
    are the hidden states of the tokens from position `length - 1` on: with each of them goes the
    token after it.
    """

    def __init__(self, width: int) -> None:
        self.owner = -1
        self.length = 0
        self.rows: Rows = np.zeros((0, width), np.float32)


class NextTokens:
    """Drafts for the sequences of a model by its own layer. For the engine's thread."""

    def __init__(self, model: Model, context: Context, config: LoadConfig) -> None:
        """Make its context.

        Raises
        ------
        ModelLoadFailed
            There is not enough memory for it.
        """
        self._ext = native.extensions()
        params = parameters(model, config)
        params.ctx_type = _CONTEXT_TYPE
        params.ctx_other = context.handle
        params.n_ctx = context.context_length * context.parallel
        params.n_seq_max = params.n_outputs_max = context.parallel
        self._target = context
        self._handle = create(model, params)
        self._memory = L.llama_get_memory(self._handle)
        self._width = model.embedding_length
        self._n_vocab = model.n_vocab
        self._ends = model.end_tokens
        self._batch = _Batch(L.llama_n_batch(self._handle), self._width)
        self._trails = [_Trail(self._width) for _ in range(context.parallel)]
        self.seconds = 0.0
        # Of every token: asked only for those with logits, graphs return the first ones instead.
        for handle in (context.handle, self._handle):
            self._ext.llama_set_embeddings_nextn(handle, True, False)

    def close(self) -> None:
        """Give the memory back."""
        if self._handle:
            L.llama_free(self._handle)
            self._handle = None

    def wipe(self) -> None:
        """Forget all and overwrite it. No sequence may be running."""
        L.llama_memory_clear(self._memory, True)
        for trail in self._trails:
            trail.owner = -1

    def follow(self, sequences: list[Sequence]) -> None:
        """Note the hidden states of the forward pass that the model has just done over these."""
        batch = self._target.batch
        states = self._states(self._target.handle, batch.size)
        for sequence in sequences:
            if sequence.assisted is None or sequence.assisted.drafter is not self:
                continue
            own = np.flatnonzero(batch.sequence[: batch.size] == sequence.slot)
            trail = self._trail(sequence, int(batch.pos[own[0]]))
            trail.rows = np.concatenate([trail.rows, states[own]])
            if sequence.reading or len(trail.rows) > _MOST_UNREAD:
                self._read(sequence, trail)

    def draft(self, sequences: list[Sequence], count: int, *, alone: bool) -> list[list[int]]:  # noqa: ARG002
        """Up to `count` guesses for each sequence; none for one whose states are not known.

        `sequences` are in the order of their slots.
        """
        guesses: list[list[int]] = [[] for _ in sequences]
        began = monotonic()
        active = self._read_all(sequences)
        while active:
            measured = monotonic() - began
            self.seconds = 0.9 * self.seconds + 0.1 * measured if self.seconds else measured
            logits = native.floats(L.llama_get_logits(self._handle), len(active) * self._n_vocab)
            rows = logits.reshape(len(active), self._n_vocab)
            last = np.flatnonzero(self._batch.output[: self._batch.size])
            states = self._states(self._handle, self._batch.size)[last]
            self._batch.clear()
            sure = []
            for row, state, index in zip(rows, states, active, strict=True):
                token, guess = int(row.argmax()), guesses[index]
                # The probability of the likeliest token is 1 / sum(exp(logit - highest logit)).
                if not _SURE * np.exp(row - row[token]).sum() <= 1:  # or is no number
                    continue
                sequence = sequences[index]
                guess.append(token)
                if token not in self._ends and len(guess) < count:
                    position = sequence.length + len(guess) - 1
                    self._batch.join([token], state[None], position, _slot(sequence), outputs=1)
                    sure.append(index)
            active = sure
            began = monotonic()
            if not active or not self._decode():
                break
        return guesses

    # --- inside ------------------------------------------------------------------------

    def _trail(self, sequence: Sequence, start: int) -> _Trail:
        """A sequence's trail up to the token at `start`, from where on its states are news."""
        trail = self._trails[_slot(sequence)]
        known = start - (trail.length - 1)
        if trail.owner != sequence.id or not 0 <= known <= len(trail.rows):
            self._cut(_slot(sequence), 0)
            trail.owner, trail.length, known = sequence.id, start + 1, 0
        trail.rows = trail.rows[:known]
        return trail

    def _read(self, sequence: Sequence, trail: _Trail) -> None:
        """Let the layer read all tokens that come after a known state but the last."""
        unread = min(len(trail.rows) - 1, sequence.length - trail.length)
        while (count := min(unread, self._batch.capacity)) > 0:
            unread -= count
            self._batch.clear()
            self._add(sequence, trail, count, outputs=0)
            if not self._decode():
                return
            trail.length += count
            trail.rows = trail.rows[count:]

    def _read_all(self, sequences: list[Sequence]) -> list[int]:
        """Let the layer read to the end of each sequence; which of them have logits then."""
        self._batch.clear()
        read = []
        for index, sequence in enumerate(sequences):
            trail = self._trail(sequence, sequence.length - 1)
            count = sequence.length - trail.length
            if 0 < count == len(trail.rows) <= self._batch.capacity - self._batch.size:
                self._add(sequence, trail, count, outputs=1)
                read.append((index, trail, count))
        if not read or not self._decode():
            return []
        for _, trail, count in read:
            trail.length += count
            trail.rows = trail.rows[count:]
        return [index for index, _, _ in read]

    def _add(self, sequence: Sequence, trail: _Trail, count: int, *, outputs: int) -> None:
        self._cut(_slot(sequence), trail.length)  # drops what it has only guessed
        tokens = sequence.tokens[trail.length : trail.length + count]
        self._batch.join(tokens, trail.rows[:count], trail.length, _slot(sequence), outputs=outputs)

    def _cut(self, slot: int, length: int) -> None:
        L.llama_memory_seq_rm(self._memory, slot, length, -1)

    def _decode(self) -> bool:
        batch = self._batch
        batch.raw.n_tokens = batch.size
        threads = self._target.current_threads
        L.llama_set_n_threads(self._handle, threads, threads)
        if L.llama_decode(self._handle, batch.raw) != 0:
            for slot, trail in enumerate(self._trails):  # whatever it knows now, it begins anew
                self._cut(slot, 0)
                trail.owner = -1
            return False
        L.llama_synchronize(self._handle)
        return True

    def _states(self, handle: Any, rows: int) -> Rows:
        """Hidden states of the last forward pass, (rows, width), a view."""
        pointer = self._ext.llama_get_embeddings_nextn(handle)
        return native.floats(pointer, rows * self._width).reshape(rows, self._width)


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot


class _Batch(Batch):
    """Rows of a token together with a hidden state."""

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__(capacity)
        self._states: Rows = np.zeros((capacity, width), np.float32)
        self.raw.embd = self._states.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def join(
        self, tokens: Tokens | list[int], states: Rows, start: int, sequence: int, *, outputs: int
    ) -> None:
        """Append a run of tokens as `add` does, each with the state of the token before it."""
        self._states[self.size : self.size + len(tokens)] = states
        self.add(np.asarray(tokens, np.int32), start, sequence, outputs)
