"""Calls as each protocol's SDK reads them, whole and streamed, from synthetic events."""

from __future__ import annotations

import itertools
import json
from typing import Any

import anthropic_synthetic
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_synthetic import chat_frames, finished, response_frames, sdk, whole_chat
from pydantic import BaseModel

from lmnb.chat.conversation import Message, Text, Thinking, ToolCall
from lmnb.chat.events import (
    Event,
    FinishReason,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from lmnb.server.anthropic import blocks
from lmnb.server.openai.custom_input import CustomInput, custom_input
from lmnb.server.openai.responses_objects import in_progress
from lmnb.server.openai.responses_request import ResponsesBody
from lmnb.server.openai.responses_stream import ResponseStream
from lmnb.server.openai.toolbox import Known, Toolbox
from lmnb.server.sealing import seal, unseal

USER: Any = [{"role": "user", "content": "x"}]
CALL: list[Event] = [
    ToolCallStart(0, "call_1", "weather"),
    ToolCallDelta(0, '{"city":'),
    ToolCallDelta(0, '"Ulm"}'),
    ToolCallEnd(0),
]
CUT: list[Event] = [*CALL[:2], ToolCallDelta(0, '"Ul'), finished("length")]
"""A call that the limit cut: it has no end."""
STOPPED: list[FinishReason] = ["stop_string", "stop"]
"""Other reasons for which an answer may end within a call."""


def cut(reason: FinishReason) -> list[Event]:
    end = msgspec.structs.replace(finished(reason), is_cut=True, stop="Ul")
    return [*CUT[:-1], end]


CUSTOM = Toolbox(known={"docs__patch": Known("patch", "docs", custom=True)})
PATCHES: list[Event] = [
    ToolCallStart(0, "call_1", "docs__patch"),
    ToolCallDelta(0, '{"inp'),
    ToolCallDelta(0, 'ut": "a\\'),
    ToolCallDelta(0, 'n\\u00e9"}'),
    ToolCallEnd(0),
    finished("tool_calls"),
]


class Weather(BaseModel):
    """Tells the weather."""

    city: str


def indexed(events: list[Event]) -> list[tuple[int, Event]]:
    return [(0, event) for event in events]


def payloads(body: bytes) -> list[dict[str, Any]]:
    lines = [line for line in body.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


# --- chat completions -----------------------------------------------------------------


def test_a_call_is_parsed_by_the_sdks_helpers() -> None:
    tools = [openai.pydantic_function_tool(Weather, name="weather")]
    events = [*CALL, finished("tool_calls")]
    plain = sdk(whole_chat(events), "application/json")
    parsed = plain.chat.completions.parse(model="m", messages=USER, tools=tools)
    streamed = sdk(chat_frames(indexed(events)))
    with streamed.chat.completions.stream(model="m", messages=USER, tools=tools) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.done") == 1
    for completion in (parsed, final):
        [choice] = completion.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content in (None, "")
        [call] = choice.message.tool_calls or []
        assert call.id == "call_1"
        assert call.function.parsed_arguments == Weather(city="Ulm")


def test_a_whole_answer_of_calls_alone_has_null_content() -> None:
    message = json.loads(whole_chat([*CALL, finished("tool_calls")]))["choices"][0]["message"]
    assert message["content"] is None
    assert "tool_calls" not in json.loads(whole_chat([finished()]))["choices"][0]["message"]


def test_a_cut_call_in_chat() -> None:
    plain = json.loads(whole_chat(CUT))["choices"][0]
    assert plain["finish_reason"] == "length"
    assert plain["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":"Ul'
    with (
        pytest.raises(openai.LengthFinishReasonError),
        sdk(chat_frames(indexed(CUT))).chat.completions.stream(model="m", messages=USER) as stream,
    ):
        stream.get_final_completion()
    chunks = list(
        sdk(chat_frames(indexed(CUT))).chat.completions.create(
            model="m", messages=USER, stream=True
        )
    )
    pieces = [call for chunk in chunks for choice in chunk.choices
              for call in choice.delta.tool_calls or []]  # fmt: skip
    joined = "".join(piece.function.arguments or "" for piece in pieces if piece.function)
    assert joined == '{"city":"Ul'


@pytest.mark.parametrize("reason", STOPPED)
def test_a_call_that_was_cut_otherwise_is_not_to_be_made(reason: FinishReason) -> None:
    assert json.loads(whole_chat(cut(reason)))["choices"][0]["finish_reason"] == "length"
    chunks = payloads(chat_frames(indexed(cut(reason)), usage=False))
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    response = payloads(response_frames(cut(reason)))[-1]
    assert response["type"] == "response.incomplete"
    assert response["response"]["output"][-1]["status"] == "incomplete"
    assert response["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    for streamed in (False, True):
        told = message(cut(reason), streamed=streamed)
        assert (told.stop_reason, told.stop_sequence) == ("max_tokens", None)


def test_a_second_function_call_is_left_out() -> None:
    legacy = Toolbox(legacy=True)
    again: list[Event] = [
        ToolCallStart(1, "call_2", "clock"), ToolCallDelta(1, "{}"), ToolCallEnd(1)
    ]  # fmt: skip
    events = [*CALL, *again, finished("tool_calls")]
    whole = json.loads(whole_chat(events, legacy))["choices"][0]["message"]["function_call"]
    deltas = [
        chunk["choices"][0]["delta"].get("function_call", {})
        for chunk in payloads(chat_frames(indexed(events), toolbox=legacy, usage=False))
    ]
    joined = {key: "".join(delta.get(key, "") for delta in deltas) for key in ("name", "arguments")}
    assert joined == whole == {"name": "weather", "arguments": '{"city":"Ulm"}'}


def test_functions_are_called_in_their_own_form() -> None:
    legacy = Toolbox(legacy=True)
    events = [*CALL, finished("tool_calls")]
    plain = sdk(whole_chat(events, legacy), "application/json")
    [choice] = plain.chat.completions.create(model="m", messages=USER).choices
    assert choice.finish_reason == "function_call"
    assert choice.message.tool_calls is None
    assert choice.message.function_call is not None
    assert choice.message.function_call.name == "weather"
    assert choice.message.function_call.arguments == '{"city":"Ulm"}'
    streamed = sdk(chat_frames(indexed(events), toolbox=legacy))
    chunks = list(streamed.chat.completions.create(model="m", messages=USER, stream=True))
    pieces = [choice.delta.function_call for chunk in chunks for choice in chunk.choices]
    assert [piece.name for piece in pieces if piece and piece.name] == ["weather"]
    assert "".join(piece.arguments or "" for piece in pieces if piece) == '{"city":"Ulm"}'
    assert chunks[-2].choices[0].finish_reason == "function_call"


def test_custom_tools_are_called_with_text() -> None:
    toolbox = Toolbox(known={"docs__patch": Known("docs__patch", custom=True)})
    plain = sdk(whole_chat(PATCHES, toolbox), "application/json")
    [call] = (
        plain.chat.completions.create(model="m", messages=USER).choices[0].message.tool_calls or []
    )
    assert call.type == "custom"
    assert (call.custom.name, call.custom.input) == ("docs__patch", "a\né")
    chunks = payloads(chat_frames(indexed(PATCHES), toolbox=toolbox))
    calls = [call for chunk in chunks for choice in chunk["choices"]
             for call in choice["delta"].get("tool_calls", [])]  # fmt: skip
    assert calls[0] == {
        "index": 0,
        "id": "call_1",
        "type": "custom",
        "custom": {"name": "docs__patch", "input": ""},
    }
    assert all("function" not in call for call in calls)
    assert "".join(call["custom"]["input"] for call in calls) == "a\né"


# --- the input of custom tools --------------------------------------------------------


@given(st.text(), st.booleans(), st.lists(st.integers(0, 80), max_size=6))
def test_any_split_gives_the_same_input(text: str, ascii_: bool, cuts: list[int]) -> None:
    text = text.encode("utf-8", "replace").decode()
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_)
    places = [0, *sorted(min(cut, len(arguments)) for cut in cuts), len(arguments)]
    reader = CustomInput()
    found = "".join(reader.feed(arguments[a:b]) for a, b in itertools.pairwise(places))
    assert found + reader.finish() == text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"patch": "a"}', "a"),
        ('{"patch": "a", "file": "b"}', '{"patch": "a", "file": "b"}'),
        ('{"file": "b", "input": "a"}', "a"),
        ('"a"', "a"),
        ("{}", "{}"),
        ("", ""),
        ('{"input": "a', "a"),
        ('{"input": "a\\', "a"),
        ('{"input": "a\\ud83d', "a"),
        ('{"input": "\\ud83d x"}', "\ufffd x"),
    ],
)
def test_other_arguments_than_asked_for(arguments: str, expected: str) -> None:
    assert custom_input(arguments) == expected


# --- responses ------------------------------------------------------------------------


def test_an_input_that_is_nested_beyond_reason_is_none() -> None:
    assert custom_input('{"x":' + "[" * 100_000) == ""
    assert custom_input('{"x":' + "[" * 100_000 + "]" * 100_000 + "}") == ""


def test_a_call_in_responses_is_parsed_by_the_sdks_helper() -> None:
    tools: Any = [openai.pydantic_function_tool(Weather, name="weather")["function"]]
    tools[0]["type"] = "function"
    body = response_frames([*CALL, finished("tool_calls")])
    with sdk(body).responses.stream(model="m", input="x", tools=tools) as stream:
        kinds = [event.type for event in stream]
        [call] = stream.get_final_response().output
    assert kinds[2:] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert call.type == "function_call"
    assert call.status == "completed"
    assert call.namespace is None


def test_custom_tools_and_namespaces_in_responses() -> None:
    body = response_frames(PATCHES, toolbox=CUSTOM)
    with sdk(body).responses.stream(model="m", input="x") as stream:
        events = list(stream)
        [call] = stream.get_final_response().output
    assert call.type == "custom_tool_call"
    assert (call.call_id, call.name, call.namespace) == ("call_1", "patch", "docs")
    assert call.input == "a\né"
    assert [event.type for event in events][2:] == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_calls_are_remembered_as_the_model_knows_them() -> None:
    answer = ResponseStream(in_progress(ResponsesBody(model="m", input="x")), CUSTOM)
    for event in PATCHES:
        list(answer.feed(event))
    call = ToolCall("call_1", "docs__patch", '{"input": "a\\n\\u00e9"}')
    assert answer.messages == (Message("assistant", (call,)),)


def test_a_cut_call_in_responses() -> None:
    with sdk(response_frames(CUT)).responses.stream(model="m", input="x") as stream:
        last = list(stream)[-1]
    assert last.type == "response.incomplete"
    [call] = last.response.output
    assert call.type == "function_call"
    assert (call.status, call.arguments) == ("incomplete", '{"city":"Ul')


def test_thoughts_are_sealed_if_asked_for() -> None:
    thoughts: list[Event] = [ThinkingDelta("Hm, "), ThinkingDelta("☂.")]
    events = [*thoughts, TextDelta("Rain."), finished()]
    with sdk(response_frames(events, sealed=True)).responses.stream(model="m", input="x") as stream:
        thought, _ = stream.get_final_response().output
    assert thought.type == "reasoning"
    assert unseal(thought.encrypted_content or "") == "Hm, ☂."
    with sdk(response_frames(events)).responses.stream(model="m", input="x") as stream:
        thought, _ = stream.get_final_response().output
    assert thought.type == "reasoning"
    assert thought.encrypted_content is None


def test_thoughts_are_their_own_summary_if_one_is_asked_for() -> None:
    """Vercel's SDK shows nothing else. Both forms at once would be shown twice by Codex."""
    thoughts: list[Event] = [ThinkingDelta("Hm, "), ThinkingDelta("so.")]
    body = response_frames([*thoughts, TextDelta("Yes."), finished()], summary="auto")
    with sdk(body).responses.stream(model="m", input="x") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[2:9] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
    ]
    thought = final.output[0]
    assert thought.type == "reasoning"
    assert [part.text for part in thought.summary] == ["Hm, so."]
    assert not thought.content
    assert final.reasoning is not None
    assert final.reasoning.summary == "auto"


@given(st.text())
def test_seals_open_again(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert unseal(seal(text)) == text


# --- messages -------------------------------------------------------------------------

ASK: Any = {"model": "m", "max_tokens": 9, "messages": USER}


def message(events: list[Event], *, streamed: bool, hide_thinking: bool = False) -> Any:
    if not streamed:
        body = anthropic_synthetic.whole(events, hide_thinking=hide_thinking)
        return anthropic_synthetic.sdk(body, "application/json").messages.create(**ASK)
    body = anthropic_synthetic.frames(events, hide_thinking=hide_thinking)
    with anthropic_synthetic.sdk(body).messages.stream(**ASK) as stream:
        return stream.get_final_message()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": "Ul', {}),
        ('{"city": "Ulm", "days": [1, 2', {"city": "Ulm", "days": [1, 2]}),
        ('{"city": "Ulm"', {"city": "Ulm"}),
        ("{", {}),
        ("", {}),
    ],
)
def test_a_cut_call_has_what_was_whole(arguments: str, expected: Any, *, streamed: bool) -> None:
    pieces: list[Event] = [ToolCallDelta(0, arguments)] if arguments else []
    events = [CALL[0], *pieces, anthropic_synthetic.finished("length")]
    found = message(events, streamed=streamed)
    assert found.stop_reason == "max_tokens"
    [call] = found.content
    assert (call.type, call.name, call.input) == ("tool_use", "weather", expected)


@pytest.mark.parametrize("streamed", [False, True])
def test_ids_have_the_characters_of_anthropics(*, streamed: bool) -> None:
    events: list[Event] = [ToolCallStart(0, "functions.look:0", "look"), ToolCallEnd(0)]
    [call] = message(
        [*events, anthropic_synthetic.finished("tool_calls")], streamed=streamed
    ).content
    assert call.id == "functions_look_0"


@pytest.mark.parametrize("streamed", [False, True])
def test_hidden_thinking_round_trips(*, streamed: bool) -> None:
    events: list[Event] = [
        ThinkingDelta("Hm, "),
        ThinkingDelta("so."),
        TextDelta("Yes."),
        anthropic_synthetic.finished(),
    ]
    found = message(events, streamed=streamed, hide_thinking=True)
    assert [block.type for block in found.content] == ["thinking", "text"]
    assert found.content[0].thinking == ""
    sent = [block.model_dump() for block in found.content]
    assert blocks.parts(sent, "messages.1.content") == [Thinking("Hm, so."), Text("Yes.")]
    shown = message(events, streamed=streamed)
    assert shown.content[0].thinking == "Hm, so."
    assert shown.content[0].signature
    sent = [block.model_dump() for block in shown.content]
    assert blocks.parts(sent, "messages.1.content") == [Thinking("Hm, so."), Text("Yes.")]
