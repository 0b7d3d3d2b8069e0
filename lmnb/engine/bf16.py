"""Weights held as BF16, which CPUs with AVX512-BF16 multiply two at a time.

llama.cpp maps a copy of the file in memory as it would map the file. In it matrices have another type:

- F16 takes the same two bytes. BF16 has 8 significant bits where F16 has 11, and llama.cpp rounds what
  it multiplies with to the weights' type. For 1,500 paragraphs the vectors of MiniLM kept a cosine of at
  least 0.9999 with those of F16 (0.99999 on average). An answer may change altogether where two tokens
  are nearly equal, so this is the default for embedding models only.
- Quantised weights take two to four times the memory, and an answer alone is written a third slower,
  since every token reads all of them. But many tokens at once are computed in tiles, which llama.cpp
  has for few quantised types: prompts and many answers at once are twice as fast as with Q4_1, of
  which a batch costs nearly as much as its tokens one by one. So this is for loads that ask for it.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import RANK, Header, TensorInfo, read_header
from lmnb.errors import InvalidModel, ModelLoadFailed, NotSupported

_F16, _BF16 = 1, 30
_QUANTISED = frozenset({2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23})
"""ggml's numbers of the types: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS."""
_MOST_BYTES = 1 << 30
"""Of weights, up to which the conversion takes no more than a few seconds of every load."""


def wanted(header: Header, config: LoadConfig, gpu_layers: int) -> list[TensorInfo]:
    """The matrices that are to be converted: if asked for, else where it makes embedding faster.

    Raises
    ------
    NotSupported
        It is asked for and cannot be done.
    """
    possible = sys.platform == "linux" and header.split_count == 1
    if config.bf16_weights is None:
        weights = _matrices(header, {_F16})
        embeds = header.kind == "embedding" and header.pooling_type != RANK
        small = sum(tensor.size or 0 for tensor in weights) <= _MOST_BYTES
        pays = "AVX512_BF16 = 1" in native.system_info() and not gpu_layers
        return weights if possible and embeds and small and pays else []
    if config.bf16_weights and not possible:
        raise NotSupported(
            "bf16_weights needs Linux, and a model in one file.", param="bf16_weights"
        )
    return _matrices(header, {_F16, *_QUANTISED}) if config.bf16_weights else []


def growth(tensors: list[TensorInfo]) -> int:
    """Bytes that they take more when they are converted."""
    return sum(2 * tensor.elements - (tensor.size or 0) for tensor in tensors)


@contextmanager
def converted(path: Path, tensors: list[TensorInfo]) -> Iterator[Path]:
    """A copy of a GGUF file with these of its tensors in BF16, which is there until the block ends.

    Who maps it keeps it.

    Raises
    ------
    InvalidModel
        The file cannot be read any more.
    ModelLoadFailed
        There is not enough memory.
    """
    with os.fdopen(os.memfd_create("lmnb-weights"), "w+b") as copy:
        try:
            with path.open("rb") as file:
                _copy(file, copy, read_header(path), {tensor.name for tensor in tensors})
            copy.flush()
        except (FileNotFoundError, ValueError) as error:
            raise InvalidModel(f"{path} cannot be read: {error}.") from error
        except OSError as error:
            raise ModelLoadFailed(f"The weights cannot be converted: {error}.") from error
        yield Path(f"/proc/self/fd/{copy.fileno()}")


def _matrices(header: Header, types: Collection[int]) -> list[TensorInfo]:
    """Those that the layers multiply with. Token embeddings are looked up only."""
    return [
        tensor
        for tensor in header.tensors
        if tensor.type in types and tensor.name.startswith("blk.") and len(tensor.shape) == 2
    ]


def _copy(file: BinaryIO, copy: BinaryIO, header: Header, names: set[str]) -> None:
    """The header, with types and offsets changed, and the tensors in their order."""
    alignment = header.integer("general.alignment") or 32
    copy.write(file.read(header.data_offset))
    tensors = sorted(header.tensors, key=lambda tensor: tensor.offset)
    ends = [tensor.offset for tensor in tensors[1:]]
    at = 0
    for tensor, end in zip_longest(tensors, ends):
        file.seek(header.data_offset + tensor.offset)
        data, kind = file.read() if end is None else file.read(end - tensor.offset), tensor.type
        if tensor.name in names:
            data, kind = bits(_values(data[: tensor.size], tensor)).tobytes(), _BF16
        copy.seek(tensor.type_at)
        copy.write(struct.pack("<IQ", kind, at))
        copy.seek(header.data_offset + at)
        copy.write(data)
        at += -(-len(data) // alignment) * alignment


def _values(data: bytes, tensor: TensorInfo) -> NDArray[np.floating[Any]]:
    if tensor.type == _F16:
        return np.frombuffer(data, np.float16)
    import gguf

    rows = np.frombuffer(data, np.uint8).reshape(tensor.shape[1], -1)
    values: NDArray[np.float32] = gguf.dequantize(rows, gguf.GGMLQuantizationType(tensor.type))
    return values.reshape(-1)


def bits(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Numbers as BF16, rounded to the nearest, to the even one of two."""
    wide = values.astype(np.float32).view(np.uint32)
    wide[np.isnan(values)] = 0x7FC00000  # one that rounding leaves alone
    return ((wide + (0x7FFF + ((wide >> 16) & 1))) >> 16).astype(np.uint16)
