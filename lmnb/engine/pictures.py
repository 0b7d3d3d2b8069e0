"""Looks at media files before a C library does: kind, size, and whether they would burst.

Only headers are read here. What passes is decoded by the libraries in llama.cpp's mtmd (stb_image,
miniaudio), which take the sizes in a file at their word.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from lmnb.errors import InvalidRequest

MAX_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
"""150 MB once decoded; more than any camera in a phone has."""
MAX_SIDE = 1 << 16
_MAX_SCANS = 64
"""A progressive JPEG has about ten; each is a pass over the whole image."""
_MAX_SOUND_SECONDS = 3600
_MAX_MP3_BYTES = 16 << 20
_PIECE = 1 << 20

_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # fmt: skip


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int


def is_sound(data: bytes) -> bool:
    """Whether a file claims to be a sound rather than a picture."""
    return (
        data[:3] == b"ID3"
        or (data[:1] == b"\xff" and len(data) > 1 and data[1] & 0xE0 == 0xE0 and data[1] != 0xFF
            and data[:3] != b"\xff\xd8\xff")
        or (data[:4] == b"RIFF" and data[8:12] == b"WAVE")
        or data[:4] == b"fLaC"
    )  # fmt: skip


def check_picture(data: bytes) -> Size:
    """Kind and size of a picture.

    Raises
    ------
    InvalidRequest
        It is no PNG, JPEG, GIF or BMP, damaged, or too large.
    """
    if len(data) > MAX_BYTES:
        raise _bad(f"An image of {len(data) / 1e6:.0f} MB is too large", "Send a smaller one.")
    try:
        size = _size(data)
    except (struct.error, IndexError):
        raise _bad("The image is damaged: its header ends early") from None
    if size.width < 1 or size.height < 1:
        raise _bad(f"The image is {size.width} x {size.height} pixels")
    if max(size) > MAX_SIDE or size.width * size.height > MAX_PIXELS:
        raise _bad(
            f"An image of {size.width} x {size.height} pixels is too large",
            f"At most {MAX_PIXELS / 1e6:.0f} million pixels can be read.",
        )
    if data.startswith(_PNG):
        _check_png(data, size)
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > _MAX_SCANS:
        raise _bad("The image has more scans than any real one")
    return size


def check_sound(data: bytes) -> None:
    """Raise `InvalidRequest` unless a sound is a whole WAV or MP3 file of at most an hour."""
    if data[:4] == b"fLaC":
        raise _bad("FLAC is not supported", "Send WAV or MP3.")
    if data[:4] != b"RIFF":
        if len(data) > _MAX_MP3_BYTES:
            raise _bad("The sound is too long", "Send at most an hour.")
        return
    try:
        rate, seconds = _wave(data)
    except struct.error:
        raise _bad("The sound is damaged: its header ends early") from None
    if not 4000 <= rate <= 400_000:
        raise _bad(f"A sound of {rate} samples a second cannot be read")
    if not 0 < seconds <= _MAX_SOUND_SECONDS:
        raise _bad("The sound is empty or too long", "Send at most an hour.")


def _size(data: bytes) -> Size:
    if data.startswith(_PNG):
        return Size(*struct.unpack_from(">II", data, 16))
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(data)
    if data[:6] in {b"GIF87a", b"GIF89a"}:
        return Size(*struct.unpack_from("<HH", data, 6))
    if data[:2] == b"BM" and struct.unpack_from("<I", data, 14)[0] >= 40:
        width, height = struct.unpack_from("<ii", data, 18)
        return Size(width, abs(height))
    kind = "WebP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "This kind of image"
    raise _bad(f"{kind} cannot be read" if data else "The image is empty", "Send PNG or JPEG.")


def _jpeg_size(data: bytes) -> Size:
    """From the frame header (SOF), which comes after any number of other segments."""
    position = 2
    while True:
        marker, kind, length = struct.unpack_from(">BBH", data, position)
        if marker != 0xFF or length < 2:
            raise _bad("The image is damaged: no JPEG segment where one should be")
        if kind == 0xFF:  # fill bytes
            position += 1
        elif 0xC0 <= kind <= 0xCF and kind not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return Size(width, height)
        elif kind == 0xDA:
            raise _bad("The image is damaged: a JPEG scan without a frame")
        else:
            position += 2 + length


def _check_png(data: bytes, size: Size) -> None:
    """Unpack the pixels, piece by piece and for nothing, to see that they are no more than said.

    stb_image unpacks whatever there is: a few MB of PNG can become 4 GB.
    """
    depth, colour = data[24], data[25]
    interlaced = data[28]
    channels = _CHANNELS.get(colour, 0)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for left, top, across, down in passes:
        columns, rows = -(-(size.width - left) // across), -(-(size.height - top) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + (columns * channels * depth + 7) // 8)
    unpacker, unpacked, position = zlib.decompressobj(), 0, len(_PNG)
    try:
        while position + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            rest = data[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
            while rest:
                unpacked += len(unpacker.decompress(rest, _PIECE))
                rest = unpacker.unconsumed_tail
                if unpacked > expected:
                    raise _bad("The image holds more pixels than its header says")
            position += 12 + length
    except zlib.error:
        raise _bad("The image is damaged: its pixels cannot be unpacked") from None


def _wave(data: bytes) -> tuple[int, float]:
    """Samples a second, and seconds."""
    position, rate, frame = 12, 0, 0
    while True:
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"fmt ":
            rate, frame = struct.unpack_from("<I4xH", data, position + 12)
        elif kind == b"data":
            if not rate or not frame or position + 8 + length > len(data):
                raise _bad("The sound is damaged: it is shorter than its header says")
            return rate, length / (rate * frame)
        position += 8 + length + length % 2


def _bad(text: str, hint: str | None = None) -> InvalidRequest:
    return InvalidRequest(f"{text}.", hint=hint, param="messages")
