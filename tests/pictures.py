"""PNG files made by hand."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def picture(seed: int, width: int = 48, height: int = 40) -> bytes:
    """Random pixels."""
    random = np.random.default_rng(seed)
    return png(random.integers(0, 256, (height, width, 3)).astype(np.uint8))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """(height, width, 3) as a file."""
    height, width, _ = pixels.shape
    return raw_png(width, height, zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels)))


def raw_png(width: int, height: int, data: bytes) -> bytes:
    """A file that says what it likes of its size; `data` is its pixel chunk."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
