"""Compressed request bodies: decoded within bounds, whatever they claim to be.

A few kilobytes can stand for gigabytes, so that decoders stop soon after the limit, and the memory
that they may take for their window is bounded as well.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import zstandard

from lmnb.errors import InvalidRequest

_ZSTD_WINDOW = 8 << 20
"""Bytes: what RFC 8878 (3.1.1.1.2) asks every decoder to support, and what Ollama allows."""
_ZSTD_SLICE = 512
"""Bytes decoded at a time: 4 bytes can stand for a block of 128 KiB, so that this is 16 MiB at most."""
_MEMBERS = 1000
"""Most gzip members of a body. Empty ones cost 20 bytes each, and a start of the decoder."""


class UnsupportedEncoding(InvalidRequest):
    """The body is compressed in a way that is not known here."""

    code = "unsupported_content_encoding"
    status = 415


class InvalidCompression(InvalidRequest):
    """The body is not what its `Content-Encoding` says."""

    code = "invalid_content_encoding"


class TooLarge(Exception):
    """What the body stands for is larger than the limit."""


def encoding_of(header: str | None) -> str | None:
    """The one coding of a `Content-Encoding` header; None if the body is sent as it is.

    Raises
    ------
    UnsupportedEncoding
        It is not known here, or there are several.
    """
    names = [name.strip().lower() for name in (header or "").split(",")]
    codings = [name for name in names if name not in {"", "identity"}]
    if not codings:
        return None
    if len(codings) == 1 and codings[0] in _DECODERS:
        return codings[0]
    raise UnsupportedEncoding(
        f"Request bodies compressed with {', '.join(codings)} are not supported.",
        hint="Send the body as it is, or compressed with one of: gzip, zstd, deflate.",
    )


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """What `data` stands for. Blocks; takes memory for `limit` bytes and some 24 MiB at most.

    Raises
    ------
    TooLarge
        It stands for more than `limit` bytes; the rest has not been decoded.
    InvalidCompression
        It is damaged, cut, or followed by something else.
    """
    try:
        decoded = _DECODERS[encoding](data, limit + 1)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise InvalidCompression(
            f"The request body is not valid {encoding}: {error}.",
            hint="Content-Encoding has to say how the body is really compressed.",
        ) from None
    if len(decoded) > limit:
        raise TooLarge
    return decoded


def _gzip(data: bytes, most: int) -> bytes:
    """One member after another (RFC 1952, 2.2)."""
    parts: list[bytes] = []
    for _ in range(_MEMBERS):
        part, data = _inflate(data, most, zlib.MAX_WBITS | 16)
        parts.append(part)
        most -= len(part)
        if not (data and most > 0):
            return b"".join(parts)
    raise EOFError(f"it has more than {_MEMBERS} members")


def _deflate(data: bytes, most: int) -> bytes:
    """With zlib's header, as RFC 9110 (8.4.1.2) has it, or without, as many clients send it."""
    has_header = len(data) >= 2 and data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    window = zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
    decoded, rest = _inflate(data, most, window)
    if rest and len(decoded) < most:
        raise EOFError("there is something behind its end")
    return decoded


def _inflate(data: bytes, most: int, window: int) -> tuple[bytes, bytes]:
    """At most `most` bytes, and what comes behind the end of the stream."""
    decoder = zlib.decompressobj(window)
    decoded = decoder.decompress(data, most)
    if not decoder.eof and len(decoded) < most:
        raise EOFError("it ends too early")
    return decoded, decoder.unused_data


def _zstd(data: bytes, most: int) -> bytes:
    """One frame after another (RFC 8878, 3.1)."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    decoder = decompressor.decompressobj()
    parts: list[bytes] = []
    view = memoryview(data)
    while view and most > 0:
        if decoder.eof:
            decoder = decompressor.decompressobj()
        part = decoder.decompress(view[:_ZSTD_SLICE])
        parts.append(part)
        most -= len(part)
        view = view[len(view[:_ZSTD_SLICE]) - len(decoder.unused_data) :]
    if most > 0 and not decoder.eof:
        raise EOFError("it ends too early")
    return b"".join(parts)


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
}
