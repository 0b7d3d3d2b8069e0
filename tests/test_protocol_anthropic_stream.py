"""Events → Anthropic's stream and answer, judged by the SDK's own accumulator, strictly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import anthropic
import pytest
from anthropic_synthetic import finished, frames, parse, sdk, whole
from own_server import app_with, serving
from starlette.requests import Request
from starlette.responses import Response

from lmnb.chat.events import (
    Event,
    FinishReason,
    Loading,
    Prompt,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from lmnb.errors import ContextOverflow, EngineCrashed, LmnbError
from lmnb.server import sse
from lmnb.server.anthropic import stream as streaming
from lmnb.server.anthropic.stream import MessageStream

ASK: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}

EVERYTHING: list[Event] = [
    Loading("m", 0.5),
    Prompt(5, 10, 4),
    Prompt(10, 10, 4),
    ThinkingDelta("Let me "),
    ThinkingDelta("see."),
    TextDelta("I'll look\u2028 "),
    TextDelta(""),
    TextDelta('up "both".'),
    ToolCallStart(0, "toolu_1", "look"),
    ToolCallDelta(0, '{"city": "Pa'),
    ToolCallDelta(0, 'ris", "n": [1, 2]}'),
    ToolCallEnd(0),
    ToolCallStart(1, "toolu_2", "now"),
    ToolCallEnd(1),
    finished("tool_calls"),
]


def check(message: anthropic.types.Message) -> None:
    thinking, text, one, two = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "Let me see."
    assert thinking.signature
    assert text.type == "text"
    assert text.text == 'I\'ll look\u2028 up "both".'
    assert one.type == two.type == "tool_use"
    assert (one.id, one.name, one.input) == ("toolu_1", "look", {"city": "Paris", "n": [1, 2]})
    assert (two.id, two.name, two.input) == ("toolu_2", "now", {})
    assert message.stop_reason == "tool_use"
    assert message.usage.input_tokens == 6
    assert message.usage.cache_read_input_tokens == 4
    assert message.usage.cache_creation_input_tokens == 0
    assert message.usage.output_tokens == 3


def test_everything_streamed() -> None:
    with sdk(frames(EVERYTHING)).messages.stream(**ASK) as stream:
        seen = [event.type for event in stream]
        check(stream.get_final_message())
    assert seen[0] == "message_start"
    assert seen[-1] == "message_stop"


def test_everything_whole() -> None:
    check(sdk(whole(EVERYTHING), "application/json").messages.create(**ASK))


def test_the_order_of_events() -> None:
    names = [
        (data["type"], data.get("index"), data.get("delta", {}).get("type"))
        for name, data in parse(frames(EVERYTHING))
        if name == data["type"]
    ]
    assert names == [
        ("message_start", None, None),
        ("content_block_start", 0, None),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_delta", 0, "signature_delta"),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, None),
        ("content_block_delta", 1, "text_delta"),
        ("content_block_delta", 1, "text_delta"),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, None),
        ("content_block_delta", 2, "input_json_delta"),
        ("content_block_delta", 2, "input_json_delta"),
        ("content_block_stop", 2, None),
        ("content_block_start", 3, None),
        ("content_block_delta", 3, "input_json_delta"),
        ("content_block_stop", 3, None),
        ("message_delta", None, None),
        ("message_stop", None, None),
    ]


def test_blocks_start_with_the_base_that_clients_add_to() -> None:
    starts = [
        data["content_block"] for n, data in parse(frames(EVERYTHING)) if n.endswith("k_start")
    ]
    assert starts == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ]


def test_message_start_has_the_counts_of_the_prompt() -> None:
    name, data = parse(frames(EVERYTHING))[0]
    assert name == "message_start"
    message = data["message"]
    assert message["usage"]["input_tokens"] == 6
    assert message["usage"]["cache_read_input_tokens"] == 4
    assert message["content"] == []
    assert message["stop_reason"] is None
    assert message["id"].startswith("msg_")


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("context", "model_context_window_exceeded"),
        ("stop_string", "stop_sequence"),
    ],
)
def test_stop_reasons(reason: FinishReason, told: str) -> None:
    stop = "END" if reason == "stop_string" else None
    events: list[Event] = [TextDelta("x"), finished(reason, stop)]
    with sdk(frames(events)).messages.stream(**ASK) as stream:
        streamed = stream.get_final_message()
    plain = sdk(whole(events), "application/json").messages.create(**ASK)
    for message in (streamed, plain):
        assert message.stop_reason == told
        assert message.stop_sequence == stop


def test_an_empty_answer() -> None:
    with sdk(frames([Prompt(10, 10, 0), finished()])).messages.stream(**ASK) as stream:
        message = stream.get_final_message()
    assert message.content == []
    assert message.stop_reason == "end_turn"


def test_a_call_that_was_cut_is_no_broken_json() -> None:
    events: list[Event] = [
        ToolCallStart(0, "toolu_1", "look"),
        ToolCallDelta(0, '{"city": "Pa'),
        ToolCallEnd(0),
        finished("length"),
    ]
    message = sdk(whole(events), "application/json").messages.create(**ASK)
    [call] = message.content
    assert call.type == "tool_use"
    assert call.input == {}


# --- silence and errors -------------------------------------------------------------


def writer() -> MessageStream:
    return MessageStream("m", "req_1")


def test_short_silences_are_pings() -> None:
    assert parse(writer().keep_alive(15)) == [("ping", {"type": "ping"})]


def test_long_silences_have_an_event_that_counts() -> None:
    """Claude Code's watchdog is not fed by pings."""
    one = writer()
    first = parse(one.keep_alive(60))
    assert [name for name, _ in first] == ["ping", "message_start", "message_delta"]
    assert [name for name, _ in parse(one.keep_alive(75))] == ["ping", "message_delta"]
    rest = [name for name, _ in parse(one.feed(TextDelta("x")))]
    assert "message_start" not in rest


def test_the_sdk_takes_heartbeats_anywhere() -> None:
    one = writer()
    sent = one.keep_alive(15) + one.keep_alive(60)
    for event in EVERYTHING:
        sent += one.feed(event) + one.keep_alive(15) + one.keep_alive(90)
    # Nothing follows message_stop.
    sent = (
        sent[: sent.index(b"event: message_stop")]
        + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    with sdk(sent).messages.stream(**ASK) as stream:
        check(stream.get_final_message())


def test_a_long_prefill_feeds_clients_that_watch_for_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With seconds as milliseconds. The prompt is read until the client has seen two heartbeats."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.015)
    monkeypatch.setattr(streaming, "_HEARTBEAT_SECONDS", 0.06)
    types: list[str] = []
    watched = asyncio.Event()

    async def prefill() -> AsyncGenerator[Event, None]:
        yield Prompt(0, 10, 4)
        await asyncio.wait_for(watched.wait(), 10)
        for event in EVERYTHING[1:]:
            yield event

    def answer(request: Request) -> Response:
        one = writer()
        return sse.stream(one.frames(prefill()), on_error=one.error, keep_alive=one.keep_alive)

    async def run() -> None:
        async with serving(app_with("/v1/messages", answer)) as http:
            client = anthropic.AsyncAnthropic(
                api_key="x", base_url=str(http.base_url), _strict_response_validation=True
            )
            async with client, client.messages.stream(**ASK) as stream:
                async for event in stream:
                    types.append(event.type)
                    if types.count("message_delta") == 2:
                        watched.set()
                check(await stream.get_final_message())

    asyncio.run(run())
    assert types[:3] == ["message_start", "message_delta", "message_delta"]
    assert types[-1] == "message_stop"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (EngineCrashed("It crashed."), "api_error", "It crashed."),
        (
            ContextOverflow(215000, 200000),
            "invalid_request_error",
            "prompt is too long: 215000 tokens > 200000 maximum",
        ),
    ],
)
def test_errors_in_mid_stream(error: LmnbError, kind: str, message: str) -> None:
    one = writer()
    body = one.feed(Prompt(10, 10, 0)) + one.feed(TextDelta("Hel")) + one.error(error)
    assert parse(body)[-1] == (
        "error",
        {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"},
    )
    with (
        pytest.raises(anthropic.APIStatusError, match=message),
        sdk(body).messages.stream(**ASK) as stream,
    ):
        stream.get_final_message()


def test_frames_close_their_events() -> None:
    closed = []

    async def events() -> AsyncGenerator[Event, None]:
        try:
            for event in EVERYTHING:
                yield event
        finally:
            closed.append(True)

    async def run() -> None:
        found = writer().frames(events())
        await anext(found)
        await found.aclose()

    asyncio.run(run())
    assert closed
