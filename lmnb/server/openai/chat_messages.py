"""The messages of Chat Completions as a conversation (protocols, 1.2)."""

from __future__ import annotations

from typing import Any

import msgspec

from lmnb.chat.conversation import Message, Part, Role, Text, Thinking, ToolCall, ToolResult
from lmnb.server.openai.errors import InvalidType, InvalidValue, MissingParameter
from lmnb.server.openai.parts import content, shown
from lmnb.server.openai.toolbox import arguments_of
from lmnb.server.openai.values import array, json_type, mapping, string

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def translate(messages: list[Any]) -> tuple[Message, ...]:
    """The conversation. System messages stay where they are; names are dropped.

    Raises
    ------
    MissingParameter, InvalidType, InvalidValue, UnsupportedValue
        With `param` naming the place, such as `messages[2].content`.
    """
    if not messages:
        raise InvalidValue("'messages' is empty; at least one message is needed.", param="messages")
    return tuple(_message(message, f"messages[{i}]") for i, message in enumerate(messages))


def _message(message: Any, where: str) -> Message:
    message = mapping(message, where)
    name = string(message, "role", where)
    role = ROLES.get(name)
    if role is None:
        raise InvalidValue(
            f"Invalid value for '{where}.role': expected one of {', '.join(ROLES)}, got '{name}'.",
            param=f"{where}.role",
        )
    if role == "assistant":
        return Message(role, _assistant(message, where))
    if message.get("content") is None:
        raise MissingParameter(
            f"Missing required parameter: '{where}.content'.", param=f"{where}.content"
        )
    parts = content(message["content"], f"{where}.content")
    if role == "tool":
        # The legacy role "function" names the function where "tool" names the call.
        call = string(message, "name" if name == "function" else "tool_call_id", where)
        return Message(role, (ToolResult(call, shown(parts)),))
    return Message(role, parts)


def _assistant(message: dict[str, Any], where: str) -> tuple[Part, ...]:
    """Thinking, then text, then calls: the order in which the model wrote them."""
    parts: list[Part] = []
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thinking, str):
        parts.append(Thinking(thinking))
    if message.get("content") is not None:
        parts.extend(content(message["content"], f"{where}.content"))
    elif isinstance(message.get("refusal"), str):
        parts.append(Text(message["refusal"]))
    calls = array(message.get("tool_calls"), f"{where}.tool_calls")
    parts.extend(_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls))
    if message.get("function_call") is not None:
        at = f"{where}.function_call"
        function = mapping(message["function_call"], at)
        name = string(function, "name", at)
        parts.append(ToolCall(name, name, arguments(function.get("arguments"), at)))
    return tuple(parts)


def _tool_call(call: Any, where: str) -> ToolCall:
    call = mapping(call, where)
    if call.get("type") == "custom":
        at = f"{where}.custom"
        custom = mapping(call.get("custom"), at)
        input_ = arguments_of(string(custom, "input", at))
        return ToolCall(string(call, "id", where), string(custom, "name", at), input_)
    at = f"{where}.function"
    function = mapping(call.get("function"), at)
    return ToolCall(
        string(call, "id", where),
        string(function, "name", at),
        arguments(function.get("arguments"), at),
    )


def arguments(value: Any, where: str) -> str:
    """The JSON text of a call's arguments; some proxies send the object itself."""
    if value is None or value == "":
        return "{}"
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    if isinstance(value, str):
        return value
    raise InvalidType(
        f"Invalid type for '{where}.arguments': expected a string, got {json_type(value)}.",
        param=f"{where}.arguments",
    )
