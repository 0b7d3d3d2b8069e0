"""Weights of F16 as BF16, which CPUs with AVX512-BF16 multiply two at a time.

Both take two bytes, so that a copy of the file in memory needs its tensors' types and values changed
and nothing else. llama.cpp maps that copy as it would map the file. BF16 has 8 significant bits where
F16 has 11, and llama.cpp rounds what it multiplies with to the weights' type. For 1,500 paragraphs
the vectors of MiniLM kept a cosine of at least 0.9999 with those of F16 (0.99999 on average). An answer
may change altogether where two tokens are nearly equal, so this is for embedding models only.
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import RANK, Header, TensorInfo, read_header
from lmnb.errors import InvalidModel, InvalidRequest, ModelLoadFailed, NotSupported

_F16, _BF16 = 1, 30
"""ggml's numbers of the types."""
_MOST_BYTES = 1 << 30
"""Of weights, up to which the conversion takes no more than a few seconds of every load."""


def is_wanted(header: Header, config: LoadConfig, gpu_layers: int) -> bool:
    """Whether a model is to be converted: if asked for, else where it makes embedding faster.

    Raises
    ------
    InvalidRequest, NotSupported
        It is asked for and cannot be done.
    """
    weights = _halves(header)
    possible = sys.platform == "linux" and header.split_count == 1
    if config.bf16_weights is None:
        embeds = header.kind == "embedding" and header.pooling_type != RANK
        small = sum(tensor.size or 0 for tensor in weights) <= _MOST_BYTES
        pays = "AVX512_BF16 = 1" in native.system_info() and not gpu_layers
        return bool(weights) and possible and embeds and small and pays
    if config.bf16_weights and header.kind != "embedding":
        raise InvalidRequest("bf16_weights is for embedding models only.", param="bf16_weights")
    if config.bf16_weights and not possible:
        raise NotSupported(
            "bf16_weights needs Linux, and a model in one file.", param="bf16_weights"
        )
    return config.bf16_weights and bool(weights)


@contextmanager
def converted(path: Path) -> Iterator[Path]:
    """A copy of a GGUF file with its weights in BF16, which is there until the block ends.

    Who maps it keeps it.

    Raises
    ------
    InvalidModel
        The file cannot be read any more.
    ModelLoadFailed
        There is not enough memory.
    """
    with os.fdopen(os.memfd_create("lmnb-weights"), "w+b", buffering=0) as copy:
        try:
            with path.open("rb") as file:
                shutil.copyfileobj(file, copy, 1 << 20)
        except FileNotFoundError as error:
            raise InvalidModel(f"{path} cannot be read: {error.strerror}.") from error
        except OSError as error:
            raise ModelLoadFailed(f"The weights cannot be converted: {error}.") from error
        name = Path(f"/proc/self/fd/{copy.fileno()}")
        header = read_header(name)
        content = np.memmap(copy, np.uint8, "r+")
        for tensor in _halves(header):
            _convert(content, header.data_offset, tensor)
        yield name


def _halves(header: Header) -> list[TensorInfo]:
    """The matrices of F16 that the layers multiply with. Token embeddings are looked up only."""
    return [
        tensor
        for tensor in header.tensors
        if tensor.type == _F16 and tensor.name.startswith("blk.") and len(tensor.shape) == 2
    ]


def _convert(content: NDArray[np.uint8], data: int, tensor: TensorInfo) -> None:
    start = data + tensor.offset
    values = content[start : start + 2 * tensor.elements]
    values[:] = bits(values.view(np.float16)).view(np.uint8)
    content[tensor.type_at : tensor.type_at + 4] = np.frombuffer(struct.pack("<I", _BF16), np.uint8)


def bits(values: NDArray[np.float16]) -> NDArray[np.uint16]:
    """Numbers as BF16, rounded to the nearest, to the even one of two."""
    wide = values.astype(np.float32).view(np.uint32)
    wide[np.isnan(values)] = 0x7FC00000  # one that rounding leaves alone
    return ((wide + (0x7FFF + ((wide >> 16) & 1))) >> 16).astype(np.uint16)
