"""Reads the header of a GGUF file: metadata and tensor list, never the weights.

Pure Python and bounds-checked, because it reads files that were downloaded: whatever the bytes
are, the result is a `Header` or an `InvalidModel` that says what is wrong, within bounded time and
memory. It reads with `read`, not `mmap`, since a mapped file that shrinks kills the process that
looks at it. Long arrays (a vocabulary has 150,000 strings) are skipped and kept as a position.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

from lmnb.engine.ggml import FILE_TYPES, TENSOR_TYPES
from lmnb.errors import InvalidModel

Kind: TypeAlias = Literal["llm", "embedding"]

_MAX_KEYS = 65_536
_MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 4
# Bounds time and memory, since every element takes bytes. Real headers reach about 15 MiB.
_MAX_HEADER = 64 << 20
_INLINE_ARRAY = 1024  # Longer arrays stay in the file.
_FIRST_READ = 1 << 20

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: _U32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: _U64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9

RANK = 4
"""The pooling type of rerankers."""

# Architectures that have no way to generate, whatever their pooling says.
_ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
_SPLIT_NAME = re.compile(r"^(?P<stem>.*)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array that was left in the file: `count` elements from byte `offset` on."""

    element_type: int
    count: int
    offset: int


Scalar: TypeAlias = int | float | bool | str
Value: TypeAlias = Scalar | tuple[Scalar, ...] | LongArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` is in ggml's order (fastest dimension first), `offset` in the data.

    `size` in bytes is None for a tensor type that this reader does not know. `type_at` is where in
    the file its type stands.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    type_at: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int | None:
        known = TENSOR_TYPES.get(self.type)
        return None if known is None else self.elements // known.block * known.bytes


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_offset: int

    def integer(self, key: str) -> int | None:
        """The value of `key` if it is an integer."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, key: str) -> str | None:
        """The value of `key` if it is a string."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    @property
    def architecture(self) -> str:
        """`general.architecture`; empty if the file does not say."""
        return self.text("general.architecture") or ""

    @property
    def type(self) -> str:
        """`model`, `adapter` or `mmproj`."""
        declared = self.text("general.type") or "model"
        return "mmproj" if self.architecture == "clip" else declared

    @property
    def pooling_type(self) -> int | None:
        """llama.cpp's pooling: 0 none, 1 mean, 2 cls, 3 last, 4 rank; None if not said."""
        return self.integer(f"{self.architecture}.pooling_type")

    @property
    def kind(self) -> Kind:
        """An embedding model pools (mean, cls, last, rank) or is an encoder."""
        pools = (self.pooling_type or 0) > 0
        return "embedding" if pools or self.architecture in _ENCODERS else "llm"

    @property
    def context_length(self) -> int | None:
        """Tokens of context the model was trained for."""
        return self.integer(f"{self.architecture}.context_length")

    @cached_property
    def parameters(self) -> int:
        """Number of weights in this file."""
        return sum(tensor.elements for tensor in self.tensors)

    @cached_property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors of known types."""
        return sum(tensor.size or 0 for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float | None:
        """Average bits a weight takes, to two digits."""
        return round(self.tensor_bytes * 8 / self.parameters, 2) if self.parameters else None

    @property
    def quantization(self) -> str | None:
        """`Q4_K_M`, `F16` and so on: what the file declares, else the type of most weights."""
        file_type = self.integer("general.file_type")
        if file_type in FILE_TYPES:
            return FILE_TYPES[file_type]
        weights: dict[str, int] = {}
        for tensor in self.tensors:
            known = TENSOR_TYPES.get(tensor.type)
            if known:
                weights[known.name] = weights.get(known.name, 0) + tensor.elements
        return max(weights, key=weights.__getitem__) if weights else None

    @property
    def chat_templates(self) -> dict[str, str]:
        """Jinja text by name: `default`, and what a model adds, such as `tool_use`."""
        prefix = "tokenizer.chat_template"
        found = {}
        for key, value in self.metadata.items():
            if isinstance(value, str) and key == prefix:
                found["default"] = value
            elif isinstance(value, str) and key.startswith(prefix + "."):
                found[key[len(prefix) + 1 :]] = value
        return found

    @property
    def split_count(self) -> int:
        """In how many files the model lies."""
        return max(self.integer("split.count") or 1, 1)


def read_header(source: Path | bytes, *, complete: bool = True) -> Header:
    """Read and check the header of a GGUF file.

    Parameters
    ----------
    source
        A file, or the first bytes of one.
    complete
        Check that the file is long enough for its tensors. Pass False for a leading part.

    Raises
    ------
    InvalidModel
        It is not a GGUF file, is damaged or cut off, or cannot be read.
    """
    if isinstance(source, bytes):
        header = _Parser(source, len(source)).header()
        if complete:
            _check_length(header, len(source))
        return header
    try:
        with source.open("rb") as file:
            size = file.seek(0, 2)
            header = _read_growing(file, size)
    except OSError as error:
        raise InvalidModel(f"{source} cannot be read: {error.strerror or error}.") from error
    except InvalidModel as error:
        raise InvalidModel(f"{source.name}: {error.message}", hint=error.hint) from None
    if complete:
        try:
            _check_length(header, size)
        except InvalidModel as error:
            raise InvalidModel(f"{source.name}: {error.message}", hint=error.hint) from None
    return header


def split_paths(first: Path) -> tuple[Path, ...]:
    """All parts of a split model, by the naming rule `name-00001-of-00003.gguf`; else the file."""
    match = _SPLIT_NAME.match(first.name)
    if not match:
        return (first,)
    count = match["count"]
    return tuple(
        first.with_name(f"{match['stem']}-{number:05d}-of-{count}.gguf")
        for number in range(1, int(count) + 1)
    )


def split_part(name: str) -> tuple[str, int, int] | None:
    """Stem, number and count of the name of a part of a split model; None for other names."""
    match = _SPLIT_NAME.match(name)
    return (match["stem"], int(match["no"]), int(match["count"])) if match else None


def _read_growing(file: BinaryIO, size: int) -> Header:
    """Most headers lie in the first MiB; large vocabularies need a second, larger read."""
    wanted = _FIRST_READ
    while True:
        file.seek(0)
        data = file.read(min(wanted, size))
        try:
            return _Parser(data, size).header()
        except _NeedMore:
            if wanted >= _MAX_HEADER:
                raise InvalidModel("Damaged GGUF header: it is longer than 64 MiB.") from None
            wanted *= 8


def _check_length(header: Header, size: int) -> None:
    end = header.data_offset
    for tensor in header.tensors:
        end = max(end, header.data_offset + tensor.offset + (tensor.size or 0))
    # A file without tensors (vocabulary only) need not be padded to where they would begin.
    if header.tensors and end > size:
        raise InvalidModel(
            f"The file is truncated: it has {size:,} bytes of {end:,}.",
            hint="Download or copy it again.",
        )


class _NeedMore(Exception):
    """The file goes on beyond the bytes that were read."""


class _Parser:
    def __init__(self, data: bytes, size: int) -> None:
        self.data = data
        self.size = size  # Of the file; `data` may be its beginning only.
        self.at = 0

    def header(self) -> Header:
        version, tensor_count, key_count = self._preamble()
        metadata: dict[str, Value] = {}
        for _ in range(key_count):
            key = self._string()
            if key in metadata:
                raise InvalidModel(f"Damaged GGUF header: the key {key[:80]!r} appears twice.")
            metadata[key] = self._value(self._u32())
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise InvalidModel("Damaged GGUF header: the alignment is not a power of two.")
        tensors = tuple(self._tensor(alignment) for _ in range(tensor_count))
        return Header(version, metadata, tensors, -(-self.at // alignment) * alignment)

    def _preamble(self) -> tuple[int, int, int]:
        if self.size == 0:
            raise InvalidModel("The file is empty.", hint="Download or copy it again.")
        if self.data[:4] != b"GGUF"[: len(self.data)]:
            raise InvalidModel("This is not a GGUF file.", hint="lmnb loads models in GGUF form.")
        self.at = 4
        version = self._u32()
        if version & 0xFFFF == 0 and version:
            raise InvalidModel("The GGUF file is for big-endian machines.")
        if version not in {2, 3}:
            raise InvalidModel(f"GGUF version {version} is not supported (only 2 and 3 are).")
        tensor_count, key_count = self._u64(), self._u64()
        if key_count > _MAX_KEYS:
            raise InvalidModel(f"Damaged GGUF header: it announces {key_count:,} keys.")
        if tensor_count > _MAX_TENSORS:
            raise InvalidModel(f"Damaged GGUF header: it announces {tensor_count:,} tensors.")
        return version, tensor_count, key_count

    def _take(self, count: int) -> int:
        """The position of the next `count` bytes, which are then behind us."""
        start = self.at
        if start + count > self.size:
            raise InvalidModel(
                "The GGUF header ends too early: the file is truncated or damaged.",
                hint="Download or copy it again.",
            )
        if start + count > len(self.data):
            raise _NeedMore
        self.at = start + count
        return start

    def _u32(self) -> int:
        value: int = _U32.unpack_from(self.data, self._take(4))[0]
        return value

    def _u64(self) -> int:
        value: int = _U64.unpack_from(self.data, self._take(8))[0]
        return value

    def _string(self) -> str:
        length = self._u64()
        start = self._take(length)
        return self.data[start : start + length].decode("utf-8", "replace")

    def _value(self, kind: int) -> Value:
        if kind == _ARRAY:
            return self._array()
        return self._scalar(kind)

    def _scalar(self, kind: int) -> Scalar:
        if kind == _STRING:
            return self._string()
        form = _SCALARS.get(kind)
        if form is None:
            raise InvalidModel(f"Damaged GGUF header: there is no value type {kind}.")
        value: Scalar = form.unpack_from(self.data, self._take(form.size))[0]
        return value

    def _array(self) -> tuple[Scalar, ...] | LongArray:
        kind, count = self._u32(), self._u64()
        if kind == _ARRAY:
            raise InvalidModel("Damaged GGUF header: arrays of arrays are not supported.")
        if count <= _INLINE_ARRAY:
            return tuple(self._scalar(kind) for _ in range(count))
        start = self.at
        if kind == _STRING:
            self._skip_strings(count)
        elif kind in _SCALARS:
            self._take(count * _SCALARS[kind].size)
        else:
            raise InvalidModel(f"Damaged GGUF header: there is no value type {kind}.")
        return LongArray(kind, count, start)

    def _skip_strings(self, count: int) -> None:
        """The one hot loop: 300,000 strings in a large vocabulary with its merges."""
        at, data, read = self.at, self.data, _U64.unpack_from
        end = len(data) - 8
        for _ in range(count):
            if at > end:
                at += 8  # Beyond what was read: `_take` tells whether the file goes on.
                break
            at += 8 + read(data, at)[0]
        self._take(at - self.at)

    def _tensor(self, alignment: int) -> TensorInfo:
        name = self._string()
        dimensions = self._u32()
        if dimensions > _MAX_DIMENSIONS:
            raise InvalidModel(f"Damaged GGUF header: a tensor with {dimensions} dimensions.")
        shape = tuple(self._u64() for _ in range(dimensions))
        if math.prod(shape) >= 1 << 63:
            raise InvalidModel("Damaged GGUF header: a tensor is larger than any file.")
        type_at = self.at
        tensor = TensorInfo(name, shape, self._u32(), self._u64(), type_at)
        if tensor.offset % alignment:
            raise InvalidModel("Damaged GGUF header: a tensor does not lie on a boundary.")
        return tensor
