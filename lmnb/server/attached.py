"""Stored files that messages refer to: their content takes the place of the reference.

What has been filled in is what a client could have sent itself, in its protocol's own form, so that
everything behind this knows nothing of stored files.
"""

from __future__ import annotations

import asyncio
import base64
import mimetypes
from collections.abc import Callable
from typing import Any

from lmnb.server.body import MAX_BODY
from lmnb.server.errors import PayloadTooLarge
from lmnb.server.files import File, Files, not_found


async def attach(messages: Any, files: Files) -> Any:
    """`messages` (or items), with the content of files in the places of their ids.

    Raises
    ------
    NotFound
        There is no such file.
    PayloadTooLarge
        All of them together are larger than a body may be.
    """
    if not isinstance(messages, list) or not any(map(_refers, messages)):
        return messages
    return await asyncio.to_thread(_filled, messages, _Contents(files))


def _refers(value: Any) -> bool:
    """Whether there is a reference in what is said; what tools were given is not looked at."""
    if isinstance(value, list):
        return any(map(_refers, value))
    if not isinstance(value, dict):
        return False
    return _place(value) is not None or any(_refers(value.get(name)) for name in _INNER)


def _filled(value: Any, contents: _Contents) -> Any:
    if isinstance(value, list):
        return [_filled(one, contents) for one in value]
    if not isinstance(value, dict):
        return value
    if (place := _place(value)) is not None:
        id_, fill = place
        return {**value, **fill(value, *contents.read(id_))}
    return value | {name: _filled(value[name], contents) for name in _INNER if name in value}


_INNER = ("content", "output")
"""Where messages, items and results of tools have their parts."""

_Fill = Callable[[dict[str, Any], File, str], dict[str, Any]]


def _place(part: dict[str, Any]) -> tuple[str, _Fill] | None:
    """The id that a part refers to, and how its content is put there."""
    kind, source, file = part.get("type"), part.get("source"), part.get("file")
    if kind in {"document", "image"} and isinstance(source, dict) and source.get("type") == "file":
        return _given(source, _source)
    if kind == "file" and isinstance(file, dict) and file.get("file_data") is None:
        return _given(file, _file)
    if kind == "input_file" and part.get("file_data") is None and part.get("file_url") is None:
        return _given(part, _input_file)
    if kind == "input_image" and part.get("image_url") is None:
        return _given(part, _input_image)
    return None


def _given(holder: dict[str, Any], fill: _Fill) -> tuple[str, _Fill] | None:
    id_ = holder.get("file_id")
    return (id_, fill) if isinstance(id_, str) else None


def _source(part: dict[str, Any], file: File, data: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": _media_type(file), "data": data}
    return {"source": source, "title": part.get("title") or file.filename}


def _file(_part: dict[str, Any], file: File, data: str) -> dict[str, Any]:
    return {"file": _input_file({}, file, data)}


def _input_file(_part: dict[str, Any], file: File, data: str) -> dict[str, Any]:
    return {"file_data": _data_url(file, data), "filename": file.filename}


def _input_image(_part: dict[str, Any], file: File, data: str) -> dict[str, Any]:
    return {"image_url": _data_url(file, data)}


def _data_url(file: File, data: str) -> str:
    return f"data:{_media_type(file)};base64,{data}"


def _media_type(file: File) -> str:
    return mimetypes.guess_type(file.filename)[0] or "application/octet-stream"


class _Contents:
    """What one request may read. A short request can refer to a large file many times."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._left = MAX_BODY

    def read(self, id_: str) -> tuple[File, str]:
        """A file and its content as base64. Blocks (disk)."""
        file = self._files.find(id_)
        self._left -= file.bytes
        if self._left < 0:
            raise PayloadTooLarge(
                f"The files that this request refers to are larger than {MAX_BODY >> 20} MiB."
            )
        try:
            data = self._files.path(id_).read_bytes()
        except FileNotFoundError:  # deleted meanwhile
            raise not_found(id_) from None
        return file, base64.b64encode(data).decode()
