"""Content of messages: a string or typed parts, in the words of either OpenAI protocol."""

from __future__ import annotations

from typing import Any

from lmnb.chat.conversation import Audio, Document, Image, Part, Text, Thinking
from lmnb.server.media import from_base64, from_data_url
from lmnb.server.openai.errors import InvalidType, InvalidValue, UnsupportedValue
from lmnb.server.openai.values import json_type, mapping, string

_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})
_UNSUPPORTED_TYPES = {
    "file": "Files are",
    "input_file": "Files are",
}


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
    if kind in _UNSUPPORTED_TYPES:
        raise UnsupportedValue(
            f"{_UNSUPPORTED_TYPES[kind]} not supported ('{where}' has the type '{kind}').",
            hint="Send text or images.",
            param=where,
        )
    raise InvalidValue(
        f"Invalid value for '{where}.type': '{kind}' is no known content type.",
        param=f"{where}.type",
    )


def _image(part: dict[str, Any], where: str) -> tuple[bytes, str]:
    """Chat Completions has an object with a URL, Responses the URL itself, and files by id."""
    if part.get("image_url") is None and part.get("file_id") is not None:
        raise UnsupportedValue(
            f"There are no stored files here ('{where}.file_id').",
            hint="Send the image itself, as a data URL.",
            param=f"{where}.file_id",
        )
    value = part.get("image_url")
    if isinstance(value, dict):
        return from_data_url(string(value, "url", f"{where}.image_url"), f"{where}.image_url.url")
    return from_data_url(string(part, "image_url", where), f"{where}.image_url")
