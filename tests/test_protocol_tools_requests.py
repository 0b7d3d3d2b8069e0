"""Tools as each protocol's callers write them: what is understood, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from starlette.datastructures import Headers

from lmnb.chat.conversation import (
    Image,
    Message,
    OutputFormat,
    Reasoning,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from lmnb.errors import InvalidRequest, LmnbError, NotSupported
from lmnb.server.anthropic import translate as anthropic_translate
from lmnb.server.anthropic.schema import CountBody, MessagesBody
from lmnb.server.openai import chat_request, responses_request
from lmnb.server.openai.body import check
from lmnb.server.openai.chat_request import ChatBody
from lmnb.server.openai.errors import (
    InvalidType,
    InvalidValue,
    MissingParameter,
)
from lmnb.server.openai.responses_request import ResponsesBody
from lmnb.server.openai.toolbox import Known
from lmnb.server.sealing import seal

HEADERS = Headers()
HELLO: dict[str, Any] = {"role": "user", "content": "hello"}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: dict[str, Any] = {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}
IMAGE_URL = "data:image/png;base64,AAAA"
IMAGE = Image(b"\0\0\0", "image/png")
GRAMMAR = {"syntax": "lark", "definition": 'start: "a"+'}
PATCH: dict[str, Any] = {"name": "patch", "description": "Patches."}


def chat_body(**fields: Any) -> ChatBody:
    return check({"model": "m", "messages": [HELLO]} | fields, ChatBody)


def chat(**fields: Any) -> Request:
    return chat_request.translate(chat_body(**fields), HEADERS)[0]


def response_body(**fields: Any) -> ResponsesBody:
    return check({"model": "m", "input": "hello"} | fields, ResponsesBody)


def response(**fields: Any) -> Request:
    return responses_request.translate(response_body(**fields), HEADERS, ())[0]


def message(**fields: Any) -> Request:
    body = {"model": "m", "max_tokens": 9, "messages": [HELLO]} | fields
    return anthropic_translate.translate(msgspec.convert(body, MessagesBody), "m", HEADERS)


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": WEATHER | fields}


def custom(form: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "custom", "custom": PATCH | ({"format": form} if form else {})}


# --- chat completions -----------------------------------------------------------------


def test_chat_functions() -> None:
    bare = {"type": "function", "function": {"name": "clock", "parameters": None}}
    found = chat(tools=[function(strict=True), bare])
    assert found.tools == (
        Tool("weather", "Tells it.", SCHEMA, strict=True),
        Tool("clock", "", None),
    )
    assert found.tool_choice == ToolChoice()
    assert chat(tools=[function()], parallel_tool_calls=False).tool_choice == ToolChoice(
        parallel=False
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", ToolChoice("none")),
        ("auto", ToolChoice("auto")),
        ("required", ToolChoice("required")),
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "function", "function": {"name": "clock"}}, ToolChoice("named", "clock")),
    ],
)
def test_chat_choices(choice: Any, expected: ToolChoice) -> None:
    tools = [function(), function(name="clock")]
    found = chat(tools=tools, tool_choice=choice)
    assert found.tool_choice == expected
    assert len(found.tools) == 2


def test_only_allowed_tools_are_left() -> None:
    tools = [function(), function(name="clock")]
    one = {"type": "function", "function": {"name": "clock"}}
    allowed = {"mode": "required", "tools": [one]}
    found = chat(tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool.name for tool in found.tools] == ["clock"]
    assert found.tool_choice == ToolChoice("required")
    flat = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "clock"}],
    }
    found = response(tools=tools, tool_choice=flat)
    assert [tool.name for tool in found.tools] == ["clock"]
    assert found.tool_choice == ToolChoice("auto")


def test_legacy_functions() -> None:
    found = chat(functions=[WEATHER], function_call={"name": "weather"})
    assert found.tools == (Tool("weather", "Tells it.", SCHEMA),)
    assert found.tool_choice == ToolChoice("named", "weather", parallel=False)
    assert chat_body(functions=[WEATHER]).toolbox.legacy
    assert not chat_body(tools=[function()]).toolbox.legacy
    assert chat(functions=[WEATHER], function_call="none").tool_choice.mode == "none"


INPUT = {"type": "object", "required": ["input"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("form", "words", "schema", "bound"),
    [
        (None, "Patches.", {"type": "string"}, None),
        ({"type": "text"}, "Patches.", {"type": "string"}, None),
        (
            {"type": "grammar", "grammar": GRAMMAR},
            'Patches.\n\nThe input has the form of this Lark grammar:\nstart: "a"+',
            {"type": "string"},
            OutputFormat("lark", definition='start: "a"+'),
        ),
        (
            {"type": "grammar", "syntax": "regex", "definition": "[ab]+"},
            "Patches.\n\nThe input has the form of this regular expression:\n[ab]+",
            {"type": "string", "pattern": "^(?:[ab]+)$"},
            OutputFormat("regex", definition="[ab]+"),
        ),
    ],
)
def test_custom_tools_are_functions_of_one_text(
    form: dict[str, Any] | None, words: str, schema: dict[str, Any], bound: OutputFormat | None
) -> None:
    parameters = INPUT | {"properties": {"input": schema}}
    expected = Tool("patch", words, parameters, input_format=bound)
    assert chat(tools=[custom(form)]).tools == (expected,)
    assert chat_body(tools=[custom(form)]).toolbox.known == {"patch": Known("patch", custom=True)}
    flat = {"type": "custom", **custom(form)["custom"]}
    assert response(tools=[flat]).tools == (expected,)


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"tools": "x"}, InvalidType, "tools"),
        ({"tools": [5]}, InvalidType, "tools[0]"),
        ({"tools": [{"type": "function"}]}, MissingParameter, "tools[0].function"),
        ({"tools": [{"function": {}}]}, MissingParameter, "tools[0].function.name"),
        ({"tools": [function(name="")]}, InvalidValue, "tools[0].function.name"),
        ({"tools": [function(name=5)]}, InvalidType, "tools[0].function.name"),
        ({"tools": [function(parameters=[])]}, InvalidType, "tools[0].function.parameters"),
        ({"tools": [function(description=5)]}, InvalidType, "tools[0].function.description"),
        ({"tools": [{"type": "plane"}]}, InvalidValue, "tools[0].type"),
        ({"tools": [custom({"type": "x"})]}, InvalidValue, "tools[0].custom.format.type"),
        (
            {"tools": [custom({"type": "grammar", "grammar": GRAMMAR | {"syntax": "bnf"}})]},
            InvalidValue,
            "tools[0].custom.format.grammar.syntax",
        ),
        ({"tool_choice": "required"}, InvalidValue, "tool_choice"),
        ({"tools": [function()], "tool_choice": "x"}, InvalidValue, "tool_choice"),
        ({"tools": [function()], "tool_choice": 5}, InvalidType, "tool_choice"),
        ({"tools": [function()], "tool_choice": {"type": "x"}}, InvalidValue, "tool_choice.type"),
        (
            {"tools": [function()], "tool_choice": {"type": "function"}},
            MissingParameter,
            "tool_choice.function",
        ),
        (
            {"tools": [function()], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            InvalidValue,
            "tool_choice.function.name",
        ),
        ({"tools": [function()], "parallel_tool_calls": "x"}, InvalidType, "parallel_tool_calls"),
        ({"tools": [function()], "functions": [WEATHER]}, InvalidValue, "functions"),
        ({"functions": [5]}, InvalidType, "functions[0]"),
        ({"functions": [WEATHER], "function_call": {"name": "x"}}, InvalidValue, "function_call.name"),
    ],
)  # fmt: skip
def test_mistakes_in_chat_name_their_place(
    fields: dict[str, Any], error: type[Exception], param: str
) -> None:
    with pytest.raises(error) as raised:
        chat(**fields)
    assert isinstance(raised.value, LmnbError)
    assert raised.value.status == 400
    assert raised.value.param == param


def test_chat_history_of_calls() -> None:
    called = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            {"id": "2", "type": "custom", "custom": {"name": "patch", "input": 'a"b'}},
        ],
    }
    picture = {"type": "image_url", "image_url": {"url": IMAGE_URL}}
    words = {"type": "text", "text": "wet"}
    results = [
        {"role": "tool", "tool_call_id": "1", "content": [words, picture]},
        {"role": "tool", "tool_call_id": "2", "content": "done"},
    ]
    found = chat(messages=[HELLO, called, *results])
    assert found.messages[1:] == (
        Message(
            "assistant",
            (
                Thinking("hm"),
                ToolCall("1", "weather", "{}"),
                ToolCall("2", "patch", '{"input":"a\\"b"}'),
            ),
        ),
        Message("tool", (ToolResult("1", (Text("wet"), IMAGE)),)),
        Message("tool", (ToolResult("2", (Text("done"),)),)),
    )
    assert not found.continue_final


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Reasoning()),
        ({"reasoning_effort": "none"}, Reasoning(enabled=False)),
        ({"reasoning_effort": "minimal"}, Reasoning(effort="minimal")),
        ({"reasoning_effort": "high"}, Reasoning(enabled=True, effort="high")),
        ({"reasoning": {"effort": "low"}}, Reasoning(enabled=True, effort="low")),
        ({"reasoning": {"enabled": False}}, Reasoning(enabled=False)),
        ({"reasoning": {"max_tokens": 99}}, Reasoning(budget=99)),
        ({"thinking": {"type": "disabled"}}, Reasoning(enabled=False)),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 99}},
            Reasoning(enabled=True, budget=99),
        ),
    ],
)
def test_chat_reasoning(fields: dict[str, Any], expected: Reasoning) -> None:
    assert chat(**fields).reasoning == expected


# --- responses --------------------------------------------------------------------------


def test_responses_tools() -> None:
    space = {
        "type": "namespace",
        "name": "docs",
        "description": "d",
        "tools": [
            {"type": "function", "name": "search", "parameters": SCHEMA},
            {"type": "custom", "name": "edit"},
        ],
    }
    body = response_body(tools=[{"type": "function", **WEATHER}, function(name="clock"), space])
    box = body.toolbox
    assert [tool.name for tool in box.tools] == ["weather", "clock", "docs__search", "docs__edit"]
    assert box.tools[0] == Tool("weather", "Tells it.", SCHEMA)
    assert box.caller_knows("weather") == Known("weather")
    assert box.caller_knows("docs__search") == Known("search", "docs")
    assert box.caller_knows("docs__edit") == Known("edit", "docs", custom=True)


def test_hosted_and_unknown_tools_of_responses_are_left_out() -> None:
    """Agents list them everywhere; a request with nothing else has no tools."""
    hosted = [{"type": "web_search"}, {"type": "local_shell"}, {"type": "something_new", "x": 1}]
    assert response(tools=hosted) == response()
    assert response(tools=hosted, tool_choice={"type": "web_search"}) == response()


def test_what_is_left_out_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    body = response_body(tools=[{"type": "web_search"}])
    responses_request.translate(body, HEADERS, ())
    assert body.toolbox.tools == ()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", ToolChoice("required", None, False)),
        ({"type": "function", "name": "weather"}, ToolChoice("named", "weather", False)),
        (
            {"type": "function", "name": "search", "namespace": "docs"},
            ToolChoice("named", "docs__search", False),
        ),
        ({"type": "custom", "name": "patch"}, ToolChoice("named", "patch", False)),
        ({"type": "file_search"}, ToolChoice("auto", None, False)),
    ],
)
def test_responses_choices(choice: Any, expected: ToolChoice) -> None:
    inner = [{"type": "function", "name": "search"}]
    tools = [
        {"type": "function", **WEATHER},
        {"type": "custom", **PATCH},
        {"type": "namespace", "name": "docs", "tools": inner},
    ]
    found = response(tools=tools, tool_choice=choice, parallel_tool_calls=False)
    assert found.tool_choice == expected


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"tools": [{"type": "function"}]}, MissingParameter, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "a", "tools": [{"type": "function"}]}]},
         MissingParameter, "tools[0].tools[0].name"),
        ({"tools": [{"type": "mcp", "server_url": "http://x"}]}, MissingParameter, "tools[0].server_label"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, InvalidValue, "tool_choice"),
        ({"tools": [function()], "tool_choice": {"type": "function", "name": "x"}},
         InvalidValue, "tool_choice.name"),
        ({"tools": [function()],
          "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]}},
         InvalidValue, "tool_choice.tools"),
    ],
)  # fmt: skip
def test_mistakes_in_responses_name_their_place(
    fields: dict[str, Any], error: type[Exception], param: str
) -> None:
    with pytest.raises(error) as raised:
        response(**fields)
    assert isinstance(raised.value, LmnbError)
    assert raised.value.param == param


def test_items_of_calls() -> None:
    picture = {"type": "input_image", "image_url": IMAGE_URL}
    found = response(
        input=[
            HELLO,
            {"type": "reasoning", "summary": [], "encrypted_content": seal("hm ☂")},
            {"type": "reasoning", "summary": [], "encrypted_content": "from elsewhere"},
            {"type": "function_call", "call_id": "1", "name": "search", "namespace": "docs",
             "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": [picture]},
        ]
    )  # fmt: skip
    assert found.messages[1:] == (
        Message("assistant", (Thinking("hm ☂"), ToolCall("1", "docs__search", "{}"))),
        Message("tool", (ToolResult("1", (IMAGE,)),)),
    )


def test_results_that_belong_to_no_call_are_shown() -> None:
    """Codex reminds the model of a goal that way."""
    call = {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"}
    output = {"type": "function_call_output", "output": "Be done by nine."}
    reminder = output | {"name": "goal", "namespace": "agent"}
    found = response(input=[HELLO, call, output | {"call_id": "1"}, reminder])
    assert found.messages[2].role == "tool"
    assert found.messages[3] == Message("user", (Text("Be done by nine."),))
    with pytest.raises(MissingParameter):
        response(input=[HELLO, output])


def test_damaged_seals_are_no_thoughts() -> None:
    blob = seal("some longer thoughts")
    for damaged in (blob[:-8], blob[:6], blob[:10] + "!" + blob[11:], "lmnb1.====", ""):
        item = {"type": "reasoning", "summary": [], "encrypted_content": damaged}
        assert response(input=[HELLO, item]).messages[1:] == ()


# --- messages ---------------------------------------------------------------------------

LOOK: dict[str, Any] = {"name": "look", "input_schema": SCHEMA}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"tools": [LOOK], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [LOOK], "tool_choice": {"type": "x"}}, "tool_choice"),
        ({"tools": [LOOK | {"input_schema": 5}]}, "tools.0.input_schema"),
    ],
)
def test_mistakes_in_messages_name_their_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        message(**fields)
    assert raised.value.param == param


def test_hidden_thinking_comes_back_in_its_signature() -> None:
    for text, signature in (("", seal("hm")), ("hm", "anything"), ("hm", seal("other"))):
        block = {"type": "thinking", "thinking": text, "signature": signature}
        said = {"role": "assistant", "content": [block, {"type": "text", "text": "so"}]}
        found = message(messages=[HELLO, said, HELLO])
        assert found.messages[1].parts == (Thinking("hm"), Text("so"))


def test_a_call_at_the_end_is_no_prefill() -> None:
    call = {"type": "tool_use", "id": "1", "name": "look", "input": {}}
    assert not message(messages=[HELLO, {"role": "assistant", "content": [call]}]).continue_final
    assert message(messages=[HELLO, {"role": "assistant", "content": "so"}]).continue_final


def test_counting_knows_tools() -> None:
    body = msgspec.convert({"model": "m", "messages": [HELLO], "tools": [LOOK]}, CountBody)
    found = anthropic_translate.translate(body, "m", HEADERS)
    assert found.tools == (Tool("look", "", SCHEMA),)
    with pytest.raises(NotSupported):
        message(tools=[{"type": "web_search_20250305", "name": "web_search"}])


LATER = {"name": "later", "description": "Waits.", "input_schema": SCHEMA, "defer_loading": True}
SEARCHED: list[dict[str, Any]] = [
    HELLO,
    {"role": "assistant",
     "content": [{"type": "tool_use", "id": "1", "name": "look", "input": {}}]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "1", "content": [
            {"type": "text", "text": "Found:"},
            {"type": "tool_reference", "tool_name": "later"},
            {"type": "tool_reference", "tool_name": "gone"},
        ]},
    ]},
]  # fmt: skip
"""A search for tools, and what it found."""


def test_deferred_tools_are_told_of_where_they_were_found() -> None:
    assert message(tools=[LOOK, LATER]).tools == (Tool("look", "", SCHEMA),)
    found = message(tools=[LOOK, LATER], messages=SEARCHED)
    assert found.tools == (
        Tool("look", "", SCHEMA),
        Tool("later", "Waits.", SCHEMA, deferred=True),
    )
    [result] = found.messages[2].parts
    assert isinstance(result, ToolResult)
    [text] = result.parts
    assert isinstance(text, Text)
    assert text.text.splitlines() == [
        "Found:",
        "<functions>",
        "<function>"
        + json.dumps({"description": "Waits.", "name": "later", "parameters": SCHEMA})
        + "</function>",
        '<function>{"description": "", "name": "gone", "parameters": {}}</function>',
        "</functions>",
    ]


def test_tools_that_were_found_may_be_asked_for() -> None:
    choice = {"type": "tool", "name": "later"}
    found = message(tools=[LOOK, LATER], messages=SEARCHED, tool_choice=choice)
    assert found.tool_choice == ToolChoice("named", "later")
    with pytest.raises(InvalidRequest, match="no tool named 'later'"):
        message(tools=[LOOK, LATER], tool_choice=choice)
