"""What an answer has said so far: its events, collected."""

from __future__ import annotations

from typing import TypeAlias

from lmnb.chat.conversation import Part, Text, Thinking, ToolCall
from lmnb.chat.events import (
    Event,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)

_Kind: TypeAlias = type[Thinking] | type[Text] | ToolCallStart


class Said:
    """The parts of an answer, in the order in which they came. None is empty but calls."""

    def __init__(self) -> None:
        self._parts: list[tuple[_Kind, list[str]]] = []
        self._call: list[str] = []
        self._ended = 0

    def feed(self, event: Event) -> None:
        """Add what `event` says, if it says anything."""
        if isinstance(event, ThinkingDelta):
            self._add(Thinking, event.text)
        elif isinstance(event, TextDelta):
            self._add(Text, event.text)
        elif isinstance(event, ToolCallStart):
            self._call = []
            self._parts.append((event, self._call))
        elif isinstance(event, ToolCallDelta):
            self._call.append(event.json)
        elif isinstance(event, ToolCallEnd):
            self._ended += 1

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of them. Of a call that was cut the arguments are the beginning of JSON text."""
        return tuple(
            ToolCall(kind.id, kind.name, "".join(texts))
            if isinstance(kind, ToolCallStart)
            else kind("".join(texts))
            for kind, texts in self._parts
        )

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls among them."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def cut(self) -> ToolCall | None:
        """The last call, if it has begun and not ended."""
        calls = self.calls
        return calls[-1] if len(calls) > self._ended else None

    def _add(self, kind: type[Thinking | Text], text: str) -> None:
        if not text:
            return
        if not self._parts or self._parts[-1][0] is not kind:
            self._parts.append((kind, []))
        self._parts[-1][1].append(text)
