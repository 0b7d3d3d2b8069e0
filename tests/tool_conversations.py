"""A conversation with tools, and the renderer that tests show it to templates with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from test_chat_template import say, text

from lmnb.chat.conversation import (
    Message,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from lmnb.chat.rendering.renderer import Prompted, Renderer

CALLING = (
    "{% macro write(call) %}<call>{{ call.function.name }} {{ call.function.arguments | tojson }}"
    "</call>{% endmacro %}"
)
HERMES = (
    CALLING
    + "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    + "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    + "{% for call in m.tool_calls or [] %}{{ write(call) }}{% endfor %}{% endfor %}"
)
"""Shows everything; the others are strict about one thing."""

TOOLS = (
    Tool("weather", "Looks at the sky.", {"type": "object", "properties": {"city": {}}}),
    Tool("ping"),
)
CITY = '{"city": "Rome"}'
CONVERSATION = (
    say("user", "Question"),
    Message("assistant", (ToolCall("call_1", "weather", CITY),)),
    Message("tool", (ToolResult("call_1", (Text("Sunny"),)),)),
    say("assistant", "Answer"),
    say("user", "More"),
)


def kept_renderer() -> Iterator[None]:
    """A module's fixture: one rendering process for all its tests that do not end it."""
    with asyncio.Runner() as runner:
        renderer = Renderer()
        _kept.append((runner, renderer))
        yield
        runner.run(renderer.close())
        _kept.clear()


_kept: list[tuple[asyncio.Runner, Renderer]] = []


def render(template: str | None, *messages: Message, **options: Any) -> Prompted:
    runner, renderer = _kept[0]
    return runner.run(renderer.render(template, messages, **options))


def shown(template: str, *messages: Message, tools: tuple[Tool, ...] = TOOLS) -> str:
    return text(render(template, *messages, tools=tools))


def calling(*calls: ToolCall, words: str = "", thinking: str = "") -> Message:
    parts = [Thinking(thinking)] if thinking else []
    return Message("assistant", (*parts, *([Text(words)] if words else []), *calls))


def result(call: str, words: str) -> Message:
    return Message("tool", (ToolResult(call, (Text(words),)),))
