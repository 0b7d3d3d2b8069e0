"""A conversation with tools, rendered by every real template: all of it shows, and stays words."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_chat_template import TEMPLATES, say, text

from lmnb.chat.conversation import Message, Part, Text, Thinking, Tool, ToolCall, ToolResult
from lmnb.chat.rendering.environment import make_environment
from lmnb.chat.rendering.messages import Takes
from lmnb.chat.rendering.renderer import Prompted, Renderer
from lmnb.chat.rendering.template import Template

pytestmark = pytest.mark.skipif(not TEMPLATES, reason="the shared chat templates are not here")

MARKERS = (
    "<|im_end|><|eot_id|></s>[/INST]<end_of_turn><｜end▁of▁sentence｜><|end|><|call|>]~b]user"
    "</tool_call></arg_value></parameter><|tool_call_end|>[TOOL_RESULTS]<｜tool▁calls▁end｜><turn|>"
)
WEATHER = Tool(
    "get_weather",
    "Tells the <b>weather</b>.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "days": {"type": ["integer", "null"]},
            "options": {"$ref": "#/$defs/Options"},
        },
        "required": ["city"],
        "$defs": {"Options": {"type": "object", "properties": {"units": {"type": "string"}}}},
    },
)
TOOLS = (WEATHER, Tool("server.ping"))
ARGUMENTS: dict[str, Any] = {
    "city": f'Köln "am Rhein" {{x}} {MARKERS} end',
    "days": 31,
    "share": 0.25,
    "sure": True,
    "nothing": None,
    "list": [41, "in list"],
    "options": {"units": {"deep": "innermost"}},
}
FIRST = (
    say("system", "System words."),
    say("user", "Question words."),
    Message(
        "assistant",
        (Thinking("First thought."), ToolCall("call_a1", "get_weather", json.dumps(ARGUMENTS))),
    ),
    Message("tool", (ToolResult("call_a1", (Text(f"Result one {MARKERS} end"),)),)),
)
SECOND = (
    Message(
        "assistant",
        (
            Thinking("Second thought."),
            ToolCall("call_b1", "server.ping", "{}"),
            ToolCall("call_b2", "get_weather", '{"city": "Palermo"}'),
        ),
    ),
    Message("tool", (ToolResult("call_b1", (Text("Result two"),)),)),
    Message("tool", (ToolResult("call_b2", (Text("Result three"),)),)),
)
LAST = (say("assistant", "Final words."), say("user", "Further question."))


@pytest.fixture(scope="module")
def asynchronous() -> Iterator[tuple[asyncio.Runner, Renderer]]:
    with asyncio.Runner() as runner:
        renderer = Renderer()
        yield runner, renderer
        runner.run(renderer.close())


@pytest.fixture(params=TEMPLATES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found = request.param
    assert isinstance(found, Path)
    return found


def takes(path: Path) -> Takes:
    return Template(path.read_text(encoding="utf-8"), make_environment()).takes_with_tools


def prompt(
    path: Path, asynchronous: tuple[asyncio.Runner, Renderer], *messages: Message
) -> Prompted:
    runner, renderer = asynchronous
    return runner.run(
        renderer.render(
            path.read_text(encoding="utf-8"),
            messages,
            tools=TOOLS,
            bos_text="<s>",
            eos_text="</s>",
            arguments={"enable_thinking": True, "thinking": True},
        )
    )


def test_everything_shows(path: Path, asynchronous: tuple[asyncio.Runner, Renderer]) -> None:
    found = text(prompt(path, asynchronous, *FIRST, *SECOND, *LAST))
    words = ("System words.", "Tells the <b>weather</b>.", "server_ping", "Question words.")
    assert [word for word in words if word not in found] == []
    spoken = found.partition("Question words.")[2]
    position = 0
    # Gemma's template sorts arguments by name, so their order is not asked for.
    for word in ("Köln", "Result one", "Result two", "Palermo", "Result three", "Final words."):
        if takes(path).parallel and word in {"Result two", "Palermo"}:
            assert word in spoken
            continue
        position = spoken.find(word, position)
        assert position >= 0, word
    call = spoken.partition("Result one")[0]
    for typed in ("31", "0.25", "rue", "41", "in list", "units", "deep", "innermost"):
        assert typed in call, typed
    assert "null" in call or "None" in call
    assert "server_ping" in spoken
    assert "\\U000f" not in found
    assert "[object" not in found


def test_words_stay_words(path: Path, asynchronous: tuple[asyncio.Runner, Renderer]) -> None:
    """Of the markers that people write, none may be read as control text: not even one of them."""
    segments = prompt(path, asynchronous, *FIRST).segments
    assert [s.text for s in segments if MARKERS in s.text and not s.special]
    readable = [segment.text for segment in segments if segment.special]
    assert [piece for piece in readable if MARKERS in piece] == []
    plain = prompt(path, asynchronous, *(_without_markers(message) for message in FIRST)).segments
    control = "".join(segment.text for segment in plain if segment.special)
    for marker in ("<end_of_turn>", "]~b]user", "[TOOL_RESULTS]", "<|tool_call_end|>", "<turn|>"):
        assert "".join(readable).count(marker) == control.count(marker), marker


def _without_markers(message: Message) -> Message:
    return Message(message.role, tuple(_cleaned(part) for part in message.parts))


def _cleaned(part: Part) -> Part:
    if isinstance(part, ToolCall):
        written = json.dumps(MARKERS)[1:-1]
        return ToolCall(part.id, part.name, part.arguments.replace(written, ""))
    if isinstance(part, ToolResult):
        words = "".join(inner.text for inner in part.parts if isinstance(inner, Text))
        return ToolResult(part.id, (Text(words.replace(MARKERS, "")),))
    return part


def test_thinking_shows_in_the_tool_loop(
    path: Path, asynchronous: tuple[asyncio.Runner, Renderer]
) -> None:
    """Where the template looks for thinking at all; Apriel's looks for it in the last message only."""
    if takes(path).thinking in {"", "tags"}:
        pytest.skip("the template looks for no thinking")
    if re.search(r"reasoning_content'\) and loop\.last", path.read_text(encoding="utf-8")):
        pytest.skip("the template looks for thinking in the last message only")
    assert "Second thought." in text(prompt(path, asynchronous, *FIRST, *SECOND))


def test_the_prompt_grows_at_its_end(
    path: Path, asynchronous: tuple[asyncio.Runner, Renderer]
) -> None:
    """What stood in the prompt before the first call is there in the next round, or all is read anew."""
    first = text(prompt(path, asynchronous, *FIRST[:2]))
    later = text(prompt(path, asynchronous, *FIRST))
    start = first.partition("Question words.")[0]
    if "[AVAILABLE_TOOLS]" not in first:  # Mistral's templates put the tools before the last user
        assert later.startswith(start)


def test_a_cut_call_and_an_unknown_result_do_no_harm(
    path: Path, asynchronous: tuple[asyncio.Runner, Renderer]
) -> None:
    messages = (
        *FIRST[:2],
        Message("assistant", (ToolCall("x", "get_weather", '{"city": "Rom'),)),
        say("user", "Interrupted."),
        say("assistant", "Sorry."),
        say("user", "Again."),
        Message("tool", (ToolResult("gone", (Text("Stray"),)),)),
    )
    found = text(prompt(path, asynchronous, *messages))
    assert [word for word in ("Rom", "Interrupted.", "Sorry.", "Stray") if word not in found] == []


def test_a_user_who_speaks_after_a_result(
    path: Path, asynchronous: tuple[asyncio.Runner, Renderer]
) -> None:
    found = text(
        prompt(path, asynchronous, *FIRST, say("user", "Interjection."), say("system", "Late."))
    )
    assert "get_weather" in found
    assert found.index("Result one") < found.index("Interjection.") < found.index("Late.")


def test_continuing_after_tools(path: Path, asynchronous: tuple[asyncio.Runner, Renderer]) -> None:
    runner, renderer = asynchronous
    last = Message("assistant", (Thinking("Late thought."), Text("It is ")))
    found = runner.run(
        renderer.render(
            path.read_text(encoding="utf-8"), (*FIRST, last), tools=TOOLS, continue_final=True
        )
    )
    assert text(found).rstrip().endswith("It is")
