"""A conversation in the words of Chat Completions, for a server that renders it itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lmnb.chat.conversation import (
    Audio,
    Document,
    Image,
    Message,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from lmnb.chat.tool_names import Adapted

Json = dict[str, Any]
_SOUNDS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "audio": "wav"}


def write(messages: Iterable[Message], tools: Adapted) -> list[Json]:
    """The messages. Documents have been replaced by their text before; tools have their plain names."""
    return [said for message in messages for said in _message(message, tools)]


def _message(message: Message, tools: Adapted) -> Iterator[Json]:
    if message.role == "assistant":
        yield _assistant(message.parts, tools)
        return
    for part in message.parts:
        if isinstance(part, ToolResult):
            yield {"role": "tool", "tool_call_id": part.id, "content": _result(part)}
    rest = [part for part in message.parts if not isinstance(part, ToolResult)]
    if rest or not message.parts:
        role = "user" if message.role == "tool" else message.role
        yield {"role": role, "content": _content(rest)}


def _assistant(parts: Sequence[Part], tools: Adapted) -> Json:
    thinking = "".join(part.text for part in parts if isinstance(part, Thinking))
    shown = [part for part in parts if not isinstance(part, Thinking | ToolCall)]
    calls = [
        {
            "id": part.id,
            "type": "function",
            "function": {"name": tools.name(part.name), "arguments": part.arguments or "{}"},
        }
        for part in parts
        if isinstance(part, ToolCall)
    ]
    said: Json = {"role": "assistant", "content": _content(shown)}
    if thinking:
        said["reasoning_content"] = thinking
    if calls:
        said["content"] = said["content"] or None
        said["tool_calls"] = calls
    return said


def _result(result: ToolResult) -> str | list[Json]:
    content = _content(result.parts)
    said = content if isinstance(content, str) else ""
    if not result.is_error or "error" in said[:100].lower():
        return content
    if isinstance(content, str):
        return f"Error: {content}"
    return [{"type": "text", "text": "Error: "}, *content]


def _content(parts: Sequence[Part]) -> str | list[Json]:
    """Words alone are a string, which every server takes."""
    if all(isinstance(part, Text) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, Text))
    return [_part(part) for part in parts]


def _part(part: Part) -> Json:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        url = f"data:{part.media_type or 'image/png'};base64,{_base64(part.data)}"
        return {"type": "image_url", "image_url": {"url": url}}
    if isinstance(part, Audio):
        kind = part.media_type.rpartition("/")[2]
        sound = {"data": _base64(part.data), "format": _SOUNDS.get(kind, kind)}
        return {"type": "input_audio", "input_audio": sound}
    assert not isinstance(part, Document | Thinking | ToolCall | ToolResult), part
    raise AssertionError(part)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
