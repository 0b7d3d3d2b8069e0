"""Content of messages: a string or typed parts, in the words of either OpenAI protocol."""

from __future__ import annotations

from typing import Any

from lmnb.chat.conversation import Audio, Document, Image, Part, Text, Thinking
from lmnb.server.media import from_base64, from_data_url
from lmnb.server.openai.errors import InvalidType, InvalidValue, UnsupportedValue
from lmnb.server.openai.values import json_type, mapping, string

_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})


def content(value: Any, where: str) -> tuple[Part, ...]:
    """Content: a string, or an array of typed parts."""
    if isinstance(value, str):
        return (Text(value),)
    if not isinstance(value, list):
        raise InvalidType(
            f"Invalid type for '{where}': expected a string or an array, got {json_type(value)}.",
            param=where,
        )
    return tuple(_part(part, f"{where}[{i}]") for i, part in enumerate(value))


def shown(parts: tuple[Part, ...]) -> tuple[Text | Image | Document, ...]:
    """What a tool's result can hold of a content."""
    return tuple(part for part in parts if isinstance(part, Text | Image | Document))


def _part(part: Any, where: str) -> Part:
    if isinstance(part, str):
        return Text(part)
    part = mapping(part, where)
    kind = string(part, "type", where)
    if kind in _TEXT_TYPES:
        return Text(string(part, "text", where))
    if kind == "refusal":
        return Text(string(part, "refusal", where))
    if kind == "thinking":
        return Thinking(string(part, "thinking", where))
    if kind in {"image_url", "input_image"}:
        return Image(*_image(part, where))
    if kind == "input_audio":
        sound = mapping(part.get("input_audio"), f"{where}.input_audio")
        data = string(sound, "data", f"{where}.input_audio")
        return Audio(from_base64(data, f"{where}.input_audio.data"), "audio")
    if kind in {"file", "input_file"}:
        return _file(part, where)
    raise InvalidValue(
        f"Invalid value for '{where}.type': '{kind}' is no known content type.",
        param=f"{where}.type",
    )


def _file(part: dict[str, Any], where: str) -> Document:
    """Chat Completions has an object `file`, Responses the same fields in the part itself.

    `file_data` is a data URL, or, as some of OpenAI's examples have it, base64 alone.
    """
    if part["type"] == "file":
        where = f"{where}.file"
        part = mapping(part.get("file"), where)
    title = part["filename"] if isinstance(part.get("filename"), str) else None
    if part.get("file_data") is None and part.get("file_url") is not None:
        return Document(*from_data_url(string(part, "file_url", where), f"{where}.file_url"), title)
    if part.get("file_data") is None and part.get("file_id") is not None:
        raise _not_attached(f"{where}.file_id", "Send the file itself, as 'file_data'.")
    data = string(part, "file_data", where)
    if data.startswith("data:"):
        return Document(*from_data_url(data, f"{where}.file_data"), title)
    return Document(from_base64(data, f"{where}.file_data"), "", title)


def _not_attached(where: str, hint: str) -> UnsupportedValue:
    """Ids of files have been replaced before (`lmnb.server.attached`) where they can be used."""
    return UnsupportedValue(
        f"'{where}' is not the id of an uploaded file, or is not read here.", hint=hint, param=where
    )


def _image(part: dict[str, Any], where: str) -> tuple[bytes, str]:
    """Chat Completions has an object with a URL, Responses the URL itself, and files by id."""
    if part.get("image_url") is None and part.get("file_id") is not None:
        raise _not_attached(f"{where}.file_id", "Send the image itself, as a data URL.")
    value = part.get("image_url")
    if isinstance(value, dict):
        return from_data_url(string(value, "url", f"{where}.image_url"), f"{where}.image_url.url")
    return from_data_url(string(part, "image_url", where), f"{where}.image_url")
