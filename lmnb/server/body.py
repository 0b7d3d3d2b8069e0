"""Request bodies: from bytes to a typed value, errors in the caller's terms."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from lmnb.errors import InvalidRequest
from lmnb.server.compression import TooLarge, decompress, encoding_of
from lmnb.server.errors import (
    InvalidJson,
    InvalidType,
    MissingParameter,
    PayloadTooLarge,
    UnknownField,
)

MAX_BODY = 64 * 1024 * 1024
"""Bytes, compressed or not. Room for a few images in base64; what Ollama's gateway allows."""

T = TypeVar("T")

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>.*)`)?$", re.DOTALL)
_FIELD = re.compile(r"^Object (?P<what>missing required|contains unknown) field `(?P<name>.*)`$")
_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


async def read_bytes(request: Request) -> bytes:
    """The body, decompressed.

    Raises
    ------
    PayloadTooLarge
        It has more than `MAX_BODY` bytes, or stands for more; the rest is not read.
    UnsupportedEncoding, InvalidCompression
        It is compressed in another way than gzip, zstd and deflate, or not as it says.
    """
    encoding = encoding_of(request.headers.get("content-encoding"))
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise _too_large()
        parts.append(part)
    data = b"".join(parts)
    if encoding is None:
        return data
    try:
        return await asyncio.to_thread(decompress, data, encoding, MAX_BODY)
    except TooLarge:
        raise _too_large() from None


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {MAX_BODY >> 20} MiB.")


async def read(request: Request, kind: type[T]) -> T:
    """The body as a `kind`, a msgspec struct.

    Raises
    ------
    PayloadTooLarge, UnsupportedEncoding, InvalidCompression, InvalidJson
        It is no JSON of at most `MAX_BODY` bytes.
    MissingParameter, UnknownField, InvalidType
        A field is wrong; `param` says which.
    """
    content = await read_bytes(request)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidJson("The request body is nested too deeply.") from None


def explain(text: str) -> InvalidRequest:
    """A validation error of msgspec in words for people who know JSON, not Python."""
    place = _PLACE.match(text)
    assert place is not None
    what, path = place["what"], place["path"] or ""
    if field := _FIELD.match(what):
        path = f"{path}.{field['name']}" if path else field["name"]
        if field["what"] == "contains unknown":
            return UnknownField(f"'{path}' is not a field of this request.", param=path)
        return MissingParameter(f"'{path}' is required.", param=path)
    wanted = re.sub(r"`([^`]*)`", lambda found: _types(found[1]), what.removeprefix("Expected "))
    name = f"'{path}'" if path else "The request body"
    return InvalidType(f"{name} must be {wanted}.".replace(", got ", ", not "), param=path or None)


def _types(names: str) -> str:
    words = [_WORDS.get(name, name) for name in names.split(" | ") if name != "null"]
    return " or ".join(words) or "null"
