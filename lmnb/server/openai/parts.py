"""Content of messages: a string or typed parts, in the words of either OpenAI protocol."""

from __future__ import annotations

from typing import Any

from lmnb.chat.conversation import Part, Text, Thinking
from lmnb.server.openai.errors import InvalidType, InvalidValue, UnsupportedValue
from lmnb.server.openai.values import json_type, mapping, string

_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})
_UNSUPPORTED_TYPES = {
    "image_url": "Images are",
    "input_image": "Images are",
    "input_audio": "Audio is",
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
    if kind in _UNSUPPORTED_TYPES:
        raise UnsupportedValue(
            f"{_UNSUPPORTED_TYPES[kind]} not supported ('{where}' has the type '{kind}').",
            hint="Send text only.",
            param=where,
        )
    raise InvalidValue(
        f"Invalid value for '{where}.type': '{kind}' is no known content type.",
        param=f"{where}.type",
    )
