"""Turns as the variables of a template, in the manner that the template takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lmnb.chat.conversation import Tool, ToolCall
from lmnb.chat.rendering.job import Turn
from lmnb.chat.rendering.marks import mark_values, read_marked
from lmnb.chat.rendering.schemas import Schemas, plain_parameters

ThinkingKey = Literal[
    "", "reasoning_content", "thinking", "reasoning", "thought", "tool_plan", "chunk", "tags"
]
Ids = Literal["kept", "counted", "numbered", "nine"]

SWITCHES = ("enable_thinking", "thinking", "reasoning")
"""Variables by which families let thinking be switched on and off: most, DeepSeek and Granite, Cohere."""


@dataclass(frozen=True)
class Takes:
    """What a template was found to take, by trying it (`lmnb.chat.rendering.takes`).

    no_tools
        Variables where there are no tools: `tools` is None, as in transformers; but templates made
        for tools alone want an empty list (some as JSON, and the date with it).
    typed_content
        Contents must be lists of `{"type": "text", "text": …}`: a string is dropped.
    system, inner_system
        System turns at the head, and between other turns, appear where they stand.
    thinking
        Where a message's thinking is looked for: under that key, in a typed content (`chunk`),
        between `<think>` tags in the content (`tags`), nowhere ("").
    tools
        The variable whose tools are shown: `tools`, or `functions` as JSON text; "": none are.
    calls
        Calls of earlier turns are shown. What follows says how, if so.
    arguments
        Whether a call's arguments are a mapping, or JSON text.
    empty
        The content beside calls when nothing is said: "" or None; "absent": the key is missing.
    ids
        `kept` as they are; `nine`: nine letters and digits (Mistral); `counted` and `numbered`:
        `functions.NAME:N`, which such templates print instead of the name, or print for results
        only. N counts the calls of the conversation, or those of the turn.
    parallel
        Several calls in a turn are shown, with their results.
    words
        Where words beside calls are shown: in the same message (`beside`), in the same if it has
        no thinking (`unthinking`), only as thinking (`thinking`), only in a message before
        (`apart`), nowhere ("").
    results
        The role of a result; "": no role that was tried is shown.
    schemas
        Whether schemas with `$defs`, lists of types and alternatives are shown as well as plain
        ones (`lmnb.chat.rendering.schemas`).
    """

    no_tools: dict[str, Any] = field(default_factory=dict)
    typed_content: bool = False
    system: bool = False
    inner_system: bool = False
    thinking: ThinkingKey = ""
    tools: Literal["", "tools", "functions"] = ""
    calls: bool = False
    arguments: Literal["mapping", "text"] = "mapping"
    empty: Literal["", "absent"] | None = ""
    ids: Ids = "kept"
    parallel: bool = True
    words: Literal["beside", "unthinking", "thinking", "apart", ""] = "beside"
    results: str = ""
    schemas: Schemas = "rich"


def tool_variables(tools: Sequence[Mapping[str, Any]], takes: Takes) -> dict[str, Any]:
    """The variables that tell of tools; `tools` are those of `tool_objects`."""
    if not tools:
        return takes.no_tools
    if takes.tools == "functions":
        text = json.dumps(tools, ensure_ascii=False, indent=4)
        return takes.no_tools | {"tools": list(tools), "functions": text}
    return takes.no_tools | {"tools": list(tools)}


def tool_objects(tools: Iterable[Tool], takes: Takes) -> list[dict[str, Any]]:
    """Tools as OpenAI's function objects, which all templates start from. Their words are marked."""
    return [
        {
            "type": "function",
            "function": mark_values(
                {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": _parameters(tool, takes),
                }
            ),
        }
        for tool in tools
    ]


def _parameters(tool: Tool, takes: Takes) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    if takes.schemas == "rich":
        return parameters
    return plain_parameters(parameters, closed=takes.schemas == "closed")


def messages(turns: Iterable[Turn], takes: Takes) -> list[dict[str, Any]]:
    """The variable `messages`."""
    ids = _Ids(takes.ids)
    return [_message(turn, takes, ids) for turn in turns]


def _message(turn: Turn, takes: Takes, ids: _Ids) -> dict[str, Any]:
    if turn.role == "tool":
        result = {"tool_call_id": ids.of_result(turn.call_id), "name": turn.name}
        return {
            "role": takes.results or "tool",
            "content": _content(turn, takes),
            **{key: value for key, value in result.items() if value},
        }
    message: dict[str, Any] = {"role": turn.role, "content": _content(turn, takes)}
    if turn.thinking and takes.thinking not in {"", "chunk", "tags"}:
        message[takes.thinking] = turn.thinking
    if turn.calls:
        if not turn.content and takes.thinking != "chunk":
            message["content"] = takes.empty
            if takes.empty == "absent":
                del message["content"]
        message["tool_calls"] = [
            {
                "id": ids.of_call(call, number),
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call, takes)},
            }
            for number, call in enumerate(turn.calls)
        ]
    return message


def _content(turn: Turn, takes: Takes) -> Any:
    text = turn.content
    if turn.thinking and takes.thinking == "tags":
        text = f"<think>\n{turn.thinking}\n</think>\n\n{text}"
    if turn.thinking and takes.thinking == "chunk":
        thought = {"type": "thinking", "thinking": turn.thinking}
        return [thought, {"type": "text", "text": text}] if text else [thought]
    return [{"type": "text", "text": text}] if takes.typed_content else text


def _arguments(call: ToolCall, takes: Takes) -> Any:
    if takes.arguments == "text":
        return call.arguments
    try:
        value = read_marked(call.arguments)
    except (ValueError, RecursionError):
        value = call.arguments  # the call was cut, or the model wrote nonsense
    return value if isinstance(value, dict) else {"arguments": value}


class _Ids:
    """Ids of calls as the template wants them, given out in the order of the conversation."""

    def __init__(self, style: Ids) -> None:
        self._style = style
        self._given: dict[str, str] = {}
        self._count = 0

    def of_call(self, call: ToolCall, number: int) -> str:
        if self._style == "kept":
            made = call.id
        elif self._style == "nine":
            made = _nine(call.id)
        else:
            made = f"functions.{call.name}:{self._count if self._style == 'counted' else number}"
        self._count += 1
        self._given[call.id] = made
        return made

    def of_result(self, call_id: str) -> str:
        """That of its call; a result without one has to do with its own."""
        return self._given.get(call_id) or (_nine(call_id) if self._style == "nine" else call_id)


def _nine(text: str) -> str:
    if len(text) == 9 and text.isascii() and text.isalnum():
        return text
    return hashlib.sha256(text.encode()).hexdigest()[:9]
