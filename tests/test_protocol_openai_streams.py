"""Synthetic events through our writers into the official SDK, strict validation on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_synthetic import chat_frames, finished, logprob, response_frames, sdk

from lmnb.chat.conversation import Message, Text, Thinking, ToolCall
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
from lmnb.errors import ContextOverflow, EngineCrashed, ModelUnloaded
from lmnb.server import sse
from lmnb.server.conversations import ConversationStore
from lmnb.server.database import Database
from lmnb.server.openai.replies import error_frame
from lmnb.server.openai.responses_objects import in_progress
from lmnb.server.openai.responses_request import ResponsesBody
from lmnb.server.openai.responses_run import Run
from lmnb.server.openai.responses_stream import ResponseStream
from lmnb.server.sse import frame
from lmnb.server.store import ResponseStore

USER: Any = [{"role": "user", "content": "hi"}]
TOOLS: tuple[Event, ...] = (
    Loading("m", 0.5),
    Prompt(10, 10, 4),
    ThinkingDelta("Let me "),
    ThinkingDelta("see."),
    TextDelta("I look."),
    ToolCallStart(0, "call_1", "weather"),
    ToolCallDelta(0, '{"city":'),
    ToolCallDelta(0, '"Ulm"}'),
    ToolCallEnd(0),
    ToolCallStart(1, "call_2", "clock"),
    ToolCallEnd(1),
    finished("tool_calls", reasoning=2),
)


def payloads(body: bytes) -> list[dict[str, Any]]:
    lines = [line for line in body.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


# --- chat completions ---------------------------------------------------------------


def test_chat_stream_in_the_sdks_accumulator() -> None:
    events = [(0, event) for event in (TextDelta("Hel"), TextDelta("lo"), finished())]
    client = sdk(chat_frames(events))
    with client.chat.completions.stream(model="m", messages=USER) as stream:
        seen = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(seen) == "Hello"
    assert final.choices[0].message.content == "Hello"
    assert final.choices[0].finish_reason == "stop"
    assert final.usage is not None
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (10, 3)
    assert final.usage.prompt_tokens_details is not None
    assert final.usage.prompt_tokens_details.cached_tokens == 4


def test_chat_tool_calls_and_thinking() -> None:
    client = sdk(chat_frames([(0, event) for event in TOOLS]))
    with client.chat.completions.stream(model="m", messages=USER) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    [choice] = final.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.role == "assistant"
    assert choice.message.content == "I look."
    assert getattr(choice.message, "reasoning_content", None) == "Let me see."
    calls = choice.message.tool_calls or []
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_1", "weather", '{"city":"Ulm"}'),
        ("call_2", "clock", ""),
    ]
    assert final.usage is not None
    assert final.usage.completion_tokens_details is not None
    assert final.usage.completion_tokens_details.reasoning_tokens == 2


def test_chat_chunks_say_role_id_and_name_once() -> None:
    chunks = payloads(chat_frames([(0, event) for event in TOOLS]))
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert [delta.get("role") for delta in deltas].count("assistant") == 1
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [call["id"] for call in calls if "id" in call] == ["call_1", "call_2"]
    assert [call["type"] for call in calls if "type" in call] == ["function", "function"]
    assert all("index" in call and "arguments" in call["function"] for call in calls)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert not any("error" in chunk for chunk in chunks)
    assert [bool(chunk["choices"]) for chunk in chunks][-2:] == [True, False]
    assert [chunk.get("usage") is not None for chunk in chunks].count(True) == 1


def test_chat_choices_are_announced_in_order() -> None:
    """The SDK's accumulator fails on a choice that comes before a smaller index."""
    events: list[tuple[int, Event]] = [
        (2, TextDelta("c")),
        (0, TextDelta("a")),
        (1, TextDelta("b")),
    ]
    events += [(i, finished()) for i in (1, 2, 0)]
    client = sdk(chat_frames(events, choices=3))
    with client.chat.completions.stream(model="m", messages=USER, n=3) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["a", "b", "c"]
    assert final.usage is not None
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (10, 9)


def test_chat_stream_without_usage_has_none() -> None:
    body = chat_frames([(0, finished())], usage=False)
    assert not any("usage" in chunk for chunk in payloads(body))
    assert body.endswith(b"data: [DONE]\n\n")


def test_chat_logprobs() -> None:
    events: list[tuple[int, Event]] = [(0, TextDelta("Hi", (logprob("Hi"),))), (0, finished())]
    client = sdk(chat_frames(events, logprobs=True))
    with client.chat.completions.stream(model="m", messages=USER, logprobs=True) as stream:
        for _ in stream:
            pass
        found = stream.get_final_completion().choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert found.content[0].token == "Hi"
    assert found.content[0].bytes == [72, 105]
    assert [top.logprob for top in found.content[0].top_logprobs] == [-0.5, -9999.0]


@pytest.mark.parametrize(
    ("reason", "calls", "expected"),
    [
        ("stop", 0, "stop"),
        ("stop_string", 0, "stop"),
        ("length", 0, "length"),
        ("context", 0, "length"),
        ("tool_calls", 0, "stop"),
        ("tool_calls", 1, "tool_calls"),
        ("stop", 1, "tool_calls"),
        ("length", 1, "length"),
    ],
)
def test_chat_finish_reasons_agree_with_the_calls(
    reason: FinishReason, calls: int, expected: str
) -> None:
    made: list[Event] = [ToolCallStart(i, f"call_{i}", "f") for i in range(calls)]
    chunks = payloads(chat_frames([(0, event) for event in (*made, finished(reason))]))
    assert chunks[-2]["choices"][0]["finish_reason"] == expected


# --- responses ----------------------------------------------------------------------


def test_response_stream_in_the_sdks_accumulator() -> None:
    body = response_frames([TextDelta("Hel"), TextDelta("lo"), finished()])
    with sdk(body).responses.stream(model="m", input="hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final.output_text == "Hello"
    assert final.status == "completed"
    assert final.usage is not None
    assert final.usage.input_tokens_details.cached_tokens == 4
    assert final.usage.input_tokens_details.cache_write_tokens == 6
    assert final.usage.total_tokens == 13


def test_response_tool_calls_and_thinking() -> None:
    body = response_frames(TOOLS, heartbeat_after=5)
    with sdk(body).responses.stream(model="m", input="hi") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [item.type for item in final.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    call = final.output[2]
    assert call.type == "function_call"
    assert (call.call_id, call.name, call.arguments) == ("call_1", "weather", '{"city":"Ulm"}')
    thought = final.output[0]
    assert thought.type == "reasoning"
    assert [part.text for part in thought.content or []] == ["Let me see."]
    assert [event.type for event in events].count("response.in_progress") == 2
    numbers = [event.sequence_number for event in events]
    assert numbers == list(range(len(events)))


def test_response_events_point_at_their_items() -> None:
    """Same ids in added, deltas, done and completed; parts announced before their deltas."""
    events = payloads(response_frames(TOOLS))
    added = {e["output_index"]: e["item"] for e in events if e["type"].endswith("item.added")}
    done = {e["output_index"]: e["item"] for e in events if e["type"].endswith("item.done")}
    assert list(added) == list(done) == [0, 1, 2, 3]
    assert [item["id"] for item in added.values()] == [item["id"] for item in done.values()]
    assert events[-1]["response"]["output"] == list(done.values())
    assert all(e["item_id"] == added[e["output_index"]]["id"] for e in events if "item_id" in e)
    parts: set[str] = set()
    for event in events:
        if event["type"] == "response.content_part.added":
            parts.add(event["item_id"])
        if event["type"] in {"response.output_text.delta", "response.reasoning_text.delta"}:
            assert event["item_id"] in parts
            assert event["content_index"] == 0


def test_response_created_is_a_full_response() -> None:
    created = payloads(response_frames([finished()]))[0]["response"]
    assert created["output"] == []
    assert created["status"] == "in_progress"
    assert created["model"] == "m"
    assert isinstance(created["created_at"], int)
    assert {"tools", "tool_choice", "text", "usage", "error", "metadata"} <= created.keys()


@pytest.mark.parametrize("reason", ["length", "context"])
def test_response_cut_short_is_incomplete(reason: FinishReason) -> None:
    body = response_frames([TextDelta("Hel"), finished(reason)])
    events = list(sdk(body).responses.create(model="m", input="hi", stream=True))
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    message = last.response.output[0]
    assert message.type == "message"
    assert message.status == "incomplete"
    assert last.response.output_text == "Hel"


def test_an_empty_response_has_an_empty_message() -> None:
    with sdk(response_frames([finished()])).responses.stream(model="m", input="") as stream:
        final = stream.get_final_response()
    assert final.output_text == ""
    assert [item.type for item in final.output] == ["message"]


def test_response_logprobs() -> None:
    body = response_frames([TextDelta("Hi", (logprob("Hi"),)), finished()])
    with sdk(body).responses.stream(model="m", input="hi") as stream:
        final = stream.get_final_response()
    message = final.output[0]
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert part.logprobs[0].bytes == [72, 105]


def test_a_failed_response_keeps_what_was_said() -> None:
    answer = ResponseStream(in_progress(ResponsesBody(model="m", input="hi")))
    sent = [*answer.start(), *answer.feed(TextDelta("Hel"))]
    answer.fail(EngineCrashed("The process crashed."))
    sent.append(answer.end())
    body = b"".join(frame(event, event.type) for event in sent)
    last = list(sdk(body).responses.create(model="m", input="hi", stream=True))[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert last.response.error.message == "The process crashed."
    assert last.response.output_text == "Hel"


def test_a_silent_response_repeats_that_it_is_in_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codex gives up after five minutes without an event; comments do not count."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.01)
    body = asyncio.run(_served(TextDelta("Hel"), None, TextDelta("lo"), finished()))
    with sdk(body).responses.stream(model="m", input="hi") as stream:
        events = list(stream)
        assert stream.get_final_response().output_text == "Hello"
    assert [event.type for event in events].count("response.in_progress") > 2
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def _served(*events: Event | None) -> bytes:
    """What a client of a streamed response reads; None is a long silence."""
    pieces: list[bytes] = []

    async def source() -> AsyncGenerator[Event, None]:
        for event in events:
            if event is None:
                while b"".join(pieces).count(b"event: response.in_progress") < 3:
                    await asyncio.sleep(0.005)
            else:
                yield event

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        pieces.append(message.get("body", b""))

    body = ResponsesBody(model="m", input="hi", store=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Database(Path(folder, "lmnb.db"))) as database,
    ):
        run = Run(
            answer=ResponseStream(in_progress(body)),
            conversation=(),
            input=[],
            responses=ResponseStore(database),
            conversations=ConversationStore(database),
        )
        served = sse.stream(run.frames(source()), on_error=run.on_error, keep_alive=run.keep_alive)
        await served({"type": "http"}, receive, send)
    return b"".join(pieces)


def test_failure_codes_are_those_clients_act_on() -> None:
    answer = ResponseStream(in_progress(ResponsesBody(model="m", input="hi")))
    answer.fail(ContextOverflow(9000, 4096))
    assert answer.response.error is not None
    assert answer.response.error.code == "context_length_exceeded"
    answer.fail(ModelUnloaded("Gone."))
    assert answer.response.error.code == "server_error"


def test_the_answer_becomes_a_turn_of_the_conversation() -> None:
    answer = ResponseStream(in_progress(ResponsesBody(model="m", input="hi")))
    for event in TOOLS:
        list(answer.feed(event))
    assert answer.messages == (
        Message(
            "assistant",
            (
                Thinking("Let me see."),
                Text("I look."),
                ToolCall("call_1", "weather", '{"city":"Ulm"}'),
                ToolCall("call_2", "clock", ""),
            ),
        ),
    )


# --- both ---------------------------------------------------------------------------


@given(st.text(max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_any_split_of_the_text_gives_the_same_answer(text: str, cuts: list[int]) -> None:
    text = text.encode("utf-8", "replace").decode()
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    events: list[Event] = [*(TextDelta(piece) for piece in pieces), finished()]
    chunks = payloads(chat_frames([(0, event) for event in events]))
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == text
    last = payloads(response_frames(events))[-1]["response"]
    assert last["output"][0]["content"][0]["text"] == text


def test_an_error_in_mid_stream_raises_in_the_sdk() -> None:
    body = chat_frames([(0, TextDelta("Hel"))]).removesuffix(b"data: [DONE]\n\n")
    client = sdk(body + error_frame(EngineCrashed("The process crashed.")))
    stream = client.chat.completions.create(model="m", messages=USER, stream=True)
    with pytest.raises(openai.APIError, match=r"The process crashed\."):
        for _ in stream:
            pass
