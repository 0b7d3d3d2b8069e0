"""GGUF files made byte by byte, so that the reader is tested against the format, not a writer."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

Value = int | float | bool | str | Sequence[str] | Sequence[int]


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(item: Value) -> bytes:
    """Type and value: uint32, float32, bool, string, or an array of strings or int32."""
    if isinstance(item, bool):
        return struct.pack("<I?", 7, item)
    if isinstance(item, int):
        return struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, str):
        return struct.pack("<I", 8) + text(item)
    strings = all(isinstance(one, str) for one in item)
    head = struct.pack("<IIQ", 9, 8 if strings else 5, len(item))
    return head + b"".join(
        text(one) if isinstance(one, str) else struct.pack("<i", one) for one in item
    )


def make_gguf(
    metadata: Mapping[str, Value] | None = None,
    tensors: Mapping[str, tuple[Sequence[int], int, int]] | None = None,
    *,
    version: int = 3,
    fill: int = 0,
) -> bytes:
    """A GGUF. `tensors`: name → (shape, type, bytes); the data is a pattern that depends on `fill`."""
    if metadata is None:
        metadata = {"general.architecture": "llama", "llama.context_length": 2048}
    if tensors is None:
        tensors = {"token_embd.weight": ((64, 32), 1, 64 * 32 * 2)}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, item in metadata.items():
        head += text(key) + value(item)
    offset = 0
    for name, (shape, kind, size) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", one) for one in shape)
        head += struct.pack("<IQ", kind, offset)
        offset += -(-size // 32) * 32
    head += bytes(-len(head) % 32)
    pattern = bytes((fill + 7 * i) % 251 for i in range(251))
    return head + (pattern * (offset // 251 + 1))[:offset]


def small_model(fill: int = 0, *, kilobytes: int = 300, file_type: int = 15) -> bytes:
    """A readable model file of about that size. Nothing can load it."""
    rows = kilobytes * 1024 // 64
    metadata: dict[str, Value] = {
        "general.architecture": "llama",
        "general.file_type": file_type,
        "general.license": "mit",
        "llama.context_length": 2048,
    }
    return make_gguf(metadata, {"token_embd.weight": ((32, rows), 1, rows * 64)}, fill=fill)
