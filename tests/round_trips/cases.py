"""What a model says in the round trips: a feature each, of those that the table has columns for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmnb.chat.conversation import Message, Part, Text, Thinking, Tool, ToolCall

THOUGHT = "The user wants to know.\nI look it up, 5 < 6 & so on."
WORDS = 'In Zürich it is 3 °C 🏔, "sunny" they say:\n\n- {one}\n- [two] & a < b\n\n天気'
SHORT = "I look that up."


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


TOOLS = (
    Tool("look_up", "Find something.", _object(query={"type": "string", "description": "What."})),
    Tool(
        "set_values",
        "Keep values.",
        _object(
            text={"type": "string"},
            count={"type": "integer"},
            ratio={"type": "number"},
            on={"type": "boolean"},
            nothing={"type": "null"},
            items={"type": "array", "items": {"type": ["string", "integer"]}},
            nested={"type": "object"},
            digits={"type": "string"},
            empty={"type": "string"},
        ),
    ),
    Tool("now", "The time.", {"type": "object", "properties": {}}),
)

VALUES = {
    "text": "plain words",
    "count": -42,
    "ratio": 0.25,
    "on": True,
    "nothing": None,
    "items": ["a", 1, "b c"],
    "nested": {"deep": {"list": [1, [False, None]], "é": "ü"}, "none": {}},
    "digits": "007",
    "empty": "",
}
TEXTS = (
    "She said \"hi\", 'hello' and `x`.",
    '{brace} [bracket] }]) {"key": "value"}',
    "line one\n  line two\n\n\ttab",
    'back\\slash \\n \\" \\u00e9',
    "Zürich 🏔 天気 & <b>",
    "print(f(a=1, b='c'))",
)


@dataclass(frozen=True)
class Case:
    """One thing a model may say.

    feature
        The column of the table.
    after_result
        It is the answer to a call's result, which stands between the question and this.
    """

    feature: str
    message: Message
    after_result: bool = False

    @property
    def thinks(self) -> bool:
        return any(isinstance(part, Thinking) for part in self.message.parts)


def call(name: str, arguments: Mapping[str, Any], number: int = 1) -> ToolCall:
    """A call with an id of nine letters and digits, which all families take."""
    return ToolCall(f"call0000{number}", name, json.dumps(arguments, ensure_ascii=False))


def _says(*parts: Part) -> Message:
    return Message("assistant", parts)


def cases(markers: Sequence[str]) -> tuple[Case, ...]:
    """All cases; `markers` are those of the family, for arguments that contain them."""
    look = call("look_up", {"query": "weather in Zürich"})
    both = (look, call("set_values", {**VALUES, "count": 7}, 2))
    same = (look, call("look_up", {"query": "and in Bern"}, 2))
    texts = [call("look_up", {"query": text}, n) for n, text in enumerate(TEXTS, 1)]
    marked = call("look_up", {"query": f"a {' b '.join(markers)} c"})
    return (
        Case("words", _says(Text(WORDS))),
        Case("thinking", _says(Thinking(THOUGHT), Text(WORDS))),
        Case("call", _says(look)),
        Case("call after words", _says(Text(SHORT), look)),
        Case("call after thinking", _says(Thinking(THOUGHT), look)),
        Case("call after both", _says(Thinking(THOUGHT), Text(SHORT), look)),
        Case("two calls", _says(*both)),
        Case("two calls", _says(*same)),
        Case("types", _says(call("set_values", VALUES))),
        Case("no arguments", _says(call("now", {}))),
        *(Case("odd texts", _says(one)) for one in texts),
        Case("own markers", _says(marked)),
        Case("answer after result", _says(Text(WORDS)), after_result=True),
        Case("call after result", _says(call("look_up", {"query": "more"}, 2)), after_result=True),
    )
