"""Input items of Responses as a conversation (protocols, 1.3).

Clients replay what earlier versions of OpenAI sent them, so an item of an
unknown type is left out with a note, never refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from lmnb.chat.conversation import Message, Part, Text, Thinking, ToolCall, ToolResult
from lmnb.errors import NotFound
from lmnb.server.notes import note
from lmnb.server.openai.chat_messages import ROLES, arguments
from lmnb.server.openai.errors import InvalidType, InvalidValue, ItemNotFound
from lmnb.server.openai.parts import content, shown
from lmnb.server.openai.responses_mcp_items import call_and_result, denied
from lmnb.server.openai.responses_mcp_past import McpPast, approves, mcp_items
from lmnb.server.openai.toolbox import arguments_of, flat_name
from lmnb.server.openai.values import array, json_type, mapping, string
from lmnb.server.sealing import unseal


def translate(
    value: Any, where: str = "input", requests: Mapping[str, dict[str, Any]] = MappingProxyType({})
) -> tuple[Message, ...]:
    """The messages of `input`: a string, which may be empty, or items. `where` is for errors.

    `requests` are earlier items that ask for approval, by their ids.
    """
    if isinstance(value, str):
        return (Message("user", (Text(value),)),)
    if not isinstance(value, list):
        raise InvalidType(
            f"Invalid type for '{where}': expected a string or an array, got {json_type(value)}.",
            param=where,
        )
    turns = _Turns(requests)
    for i, item in enumerate(value):
        _add(turns, mapping(item, f"{where}[{i}]"), f"{where}[{i}]")
    return turns.messages()


Find: TypeAlias = Callable[[str], Awaitable[dict[str, Any]]]


async def resolve(value: Any, find: Find, where: str = "input") -> Any:
    """`input` with stored items in the places of references to them.

    Raises
    ------
    ItemNotFound
        `find`, which is asked for the item of an id, raised `NotFound`.
    """
    if not isinstance(value, list):
        return value
    return [await _resolve(item, f"{where}[{i}]", find) for i, item in enumerate(value)]


async def _resolve(item: Any, where: str, find: Find) -> Any:
    if not isinstance(item, dict):
        return item
    kind = item.get("type")
    if kind != "item_reference" and (kind is not None or "role" in item or "id" not in item):
        return item
    try:
        return await find(string(item, "id", where))
    except NotFound:
        raise ItemNotFound(
            f"Item with id '{item['id']}' not found.",
            hint="Send the item itself.",
            param=f"{where}.id",
        ) from None


class _Turns:
    """Collects messages; what the model said in one turn comes as several items.

    Reasoning, text and calls in a row are one assistant message. Text after a call belongs
    to that message too, so that nothing stands between a call and its result.
    """

    def __init__(self, requests: Mapping[str, dict[str, Any]]) -> None:
        self.requests = dict(requests)
        self._done: list[Message] = []
        self._open: list[Part] = []

    def add(self, message: Message) -> None:
        self._close()
        self._done.append(message)

    def say(self, *parts: Part) -> None:
        """More of the model's turn."""
        speaks = any(isinstance(part, Text) for part in parts)
        if speaks and self._has(Text) and not self._has(ToolCall):
            self._close()
        self._open.extend(parts)

    def called(self, found: tuple[ToolCall, Message] | None) -> None:
        """A call that was made here, and its result: what comes behind is another turn."""
        if found is not None:
            call, result = found
            self.say(call)
            self.add(result)

    def messages(self) -> tuple[Message, ...]:
        self._close()
        return tuple(self._done)

    def _has(self, kind: type[Part]) -> bool:
        return any(isinstance(part, kind) for part in self._open)

    def _close(self) -> None:
        if self._open:
            parts = sorted(self._open, key=_place)
            self._done.append(Message("assistant", tuple(parts)))
            self._open = []


def _place(part: Part) -> int:
    """Thinking, then text, then calls."""
    return 2 if isinstance(part, ToolCall) else not isinstance(part, Thinking)


def _add(turns: _Turns, item: dict[str, Any], where: str) -> None:
    match item.get("type") or "message":
        case "message":
            _message(turns, item, where)
        case "reasoning":
            turns.say(*_thinking(item, where))
        case "function_call":
            turns.say(_call(item, where, arguments(item.get("arguments"), where)))
        case "custom_tool_call":
            turns.say(_call(item, where, arguments_of(string(item, "input", where))))
        case "function_call_output" | "custom_tool_call_output":
            turns.add(_output(item, where))
        case "mcp_list_tools":
            pass  # The servers that a request names are asked anew.
        case "mcp_call":
            turns.called(call_and_result(item, where))
        case "mcp_approval_request":
            turns.requests |= McpPast(mcp_items([item])).requests
        case "mcp_approval_response":
            if not approves(item, where):
                turns.called(denied(item, turns.requests))
        case kind:
            note(f"An input item of the type {kind!r} was left out.")


def _output(item: dict[str, Any], where: str) -> Message:
    """A call's result. One of no call at all, which Codex adds by itself, is what the user shows."""
    output = shown(content(item.get("output") or "", f"{where}.output"))
    if item.get("call_id") is None and isinstance(item.get("name"), str):
        return Message("user", output)
    return Message("tool", (ToolResult(string(item, "call_id", where), output),))


def _call(item: dict[str, Any], where: str, arguments_: str) -> ToolCall:
    namespace = item.get("namespace")
    name = flat_name(string(item, "name", where), namespace if isinstance(namespace, str) else None)
    return ToolCall(string(item, "call_id", where), name, arguments_)


def _message(turns: _Turns, item: dict[str, Any], where: str) -> None:
    name = string(item, "role", where)
    role = ROLES.get(name)
    if role is None or role == "tool":
        raise InvalidValue(
            f"Invalid value for '{where}.role': expected 'user', 'assistant', 'system' or "
            f"'developer', got '{name}'.",
            param=f"{where}.role",
        )
    parts = content(_content(item, where), f"{where}.content")
    if role == "assistant":
        turns.say(*parts)
    else:
        turns.add(Message(role, parts))


def _content(item: dict[str, Any], where: str) -> Any:
    """An item's content; an assistant's may be null."""
    value = item.get("content")
    if value is None and item["role"] != "assistant":
        return string(item, "content", where)
    return [] if value is None else value


def _thinking(item: dict[str, Any], where: str) -> list[Thinking]:
    """The reasoning text, or its summary where that is all the client was given."""
    for field in ("content", "summary"):
        parts = [mapping(part, f"{where}.{field}") for part in array(item.get(field), where)]
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
        if texts:
            return [Thinking("".join(texts))]
    blob = item.get("encrypted_content")
    sealed = unseal(blob) if isinstance(blob, str) else None
    return [Thinking(sealed)] if sealed else []
