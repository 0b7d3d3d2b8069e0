"""Bodies of every sort: what is understood, what is refused, and in which words."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from lmnb.chat.conversation import (
    Audio,
    Image,
    Message,
    OutputFormat,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from lmnb.errors import InvalidRequest, LmnbError, ModelNotFound, NotSupported
from lmnb.server.openai import (
    chat_request,
    completions_request,
    responses_request,
    token_arrays,
)
from lmnb.server.openai.body import check, decode
from lmnb.server.openai.chat_request import ChatBody
from lmnb.server.openai.completions_request import CompletionsBody
from lmnb.server.openai.embeddings import EmbeddingsBody
from lmnb.server.openai.errors import (
    InvalidJson,
    InvalidType,
    InvalidValue,
    MissingParameter,
    UnsupportedParameter,
    UnsupportedValue,
)
from lmnb.server.openai.responses_request import ResponsesBody

HEADERS = Headers()
HELLO: dict[str, Any] = {"role": "user", "content": "hello"}
CHAT: dict[str, Any] = {"model": "m", "messages": [HELLO]}
RESPONSE: dict[str, Any] = {"model": "m", "input": "hello"}


def chat(**fields: Any) -> Request:
    return chat_request.translate(check(CHAT | fields, ChatBody), HEADERS)[0]


def response(**fields: Any) -> Request:
    return responses_request.translate(check(RESPONSE | fields, ResponsesBody), HEADERS, ())[0]


# --- JSON ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b'"text"',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":' + b"[" * 100_000,
        b'{"model":"m"} trailing',
    ],
)
def test_what_is_no_json_object(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        decode(body)


@given(st.binary(max_size=60))
def test_random_bytes_are_json_or_an_error(body: bytes) -> None:
    with contextlib.suppress(InvalidJson):
        assert isinstance(decode(body), dict)


# --- fields -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"temperature": "hot"}, InvalidType, "temperature"),
        ({"temperature": True}, InvalidType, "temperature"),
        ({"temperature": -1}, InvalidValue, "temperature"),
        ({"top_p": 1.5}, InvalidValue, "top_p"),
        ({"max_tokens": "10"}, InvalidType, "max_tokens"),
        ({"max_tokens": 1.5}, InvalidType, "max_tokens"),
        ({"stream": "yes"}, InvalidType, "stream"),
        ({"stop": 7}, InvalidType, "stop"),
        ({"stop": ["a", 7]}, InvalidType, "stop[1]"),
        ({"n": 0}, InvalidValue, "n"),
        ({"n": 10_000}, InvalidValue, "n"),
        ({"seed": "x"}, InvalidType, "seed"),
        ({"top_logprobs": 21}, InvalidValue, "top_logprobs"),
        ({"logit_bias": {"word": 1}}, InvalidValue, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, InvalidType, "logit_bias.1"),
        ({"logit_bias": []}, InvalidType, "logit_bias"),
        ({"stream_options": 1}, InvalidType, "stream_options"),
        ({"model": 5}, InvalidType, "model"),
        ({"model": None}, MissingParameter, "model"),
        ({"messages": "hi"}, InvalidType, "messages"),
        ({"messages": None}, MissingParameter, "messages"),
        ({"messages": []}, InvalidValue, "messages"),
        ({"messages": ["hi"]}, InvalidType, "messages[0]"),
        ({"messages": [{"content": "x"}]}, MissingParameter, "messages[0].role"),
        ({"messages": [{"role": "bot", "content": "x"}]}, InvalidValue, "messages[0].role"),
        ({"messages": [HELLO, {"role": "user"}]}, MissingParameter, "messages[1].content"),
        ({"messages": [{"role": "user", "content": 5}]}, InvalidType, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            MissingParameter,
            "messages[0].content[0].text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            InvalidValue,
            "messages[0].content[0].type",
        ),
        ({"tool_choice": "required"}, InvalidValue, "tool_choice"),
        ({"tools": 5}, InvalidType, "tools"),
        ({"response_format": {"type": "yaml"}}, InvalidValue, "response_format.type"),
        ({"response_format": "json"}, InvalidType, "response_format"),
        (
            {"response_format": {"type": "json_schema"}},
            MissingParameter,
            "response_format.json_schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": True}}},
            InvalidType,
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "grammar", "syntax": "lark"}},
            MissingParameter,
            "response_format.definition",
        ),
        (
            {"response_format": {"type": "grammar", "syntax": "gbnf", "definition": "x"}},
            InvalidValue,
            "response_format.syntax",
        ),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], error: type[Exception], param: str) -> None:
    with pytest.raises(error) as raised:
        chat(**fields)
    assert isinstance(raised.value, LmnbError)
    assert raised.value.status == 400
    assert raised.value.param == param
    assert param in raised.value.message


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
REMOTE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/picture.png"}}
FILE = {"type": "file", "file": {"file_id": "1"}}
PART = "messages[0].content[0]"


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"messages": [HELLO | {"content": [REMOTE]}]}, NotSupported, f"{PART}.image_url.url"),
        ({"messages": [HELLO | {"content": [FILE]}]}, UnsupportedValue, f"{PART}.file.file_id"),
        ({"modalities": ["text", "audio"]}, UnsupportedValue, "modalities"),
        ({"grammar": "root ::= [a-z]+"}, UnsupportedParameter, "grammar"),
        ({"guided_json": {"type": "object"}}, UnsupportedParameter, "guided_json"),
        ({"structured_outputs": {"regex": "a"}}, UnsupportedParameter, "structured_outputs"),
    ],
)
def test_what_is_not_offered_is_refused(
    fields: dict[str, Any], error: type[Exception], param: str
) -> None:
    with pytest.raises(error) as raised:
        chat(**fields)
    assert isinstance(raised.value, LmnbError)
    assert raised.value.param == param


def test_images_and_sounds_are_read() -> None:
    request = chat(messages=[HELLO | {"content": [IMAGE, "what?", SOUND]}])
    wanted = (Image(b"\0\0\0", "image/png"), Text("what?"), Audio(b"\0\0\0", "audio"))
    assert request.messages[0].parts == wanted
    part = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    request = response(input=[{"role": "user", "content": [part]}])
    assert request.messages[0].parts == wanted[:1]


def test_null_is_not_given_and_unknown_fields_are_ignored() -> None:
    nothing = dict.fromkeys(
        ["temperature", "stop", "n", "tools", "tool_choice", "response_format", "stream_options",
         "max_tokens", "logprobs", "seed", "reasoning_effort", "modalities", "logit_bias"]
    )  # fmt: skip
    assert chat(**nothing, verbosity="low", store=True, made_up={"a": 1}) == chat()


def test_an_empty_name_is_no_model() -> None:
    with pytest.raises(ModelNotFound):
        chat(model=" ")
    with pytest.raises(ModelNotFound):
        check({"model": "", "input": "x"}, EmbeddingsBody)


def test_what_asks_for_nothing_is_as_if_not_given() -> None:
    assert chat(tools=[], tool_choice="auto") == chat()
    assert chat(response_format={"type": "text"}) == chat()


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize("strict", [True, None, "true", False, "false"])
def test_schemas_are_taken_in_both_shapes(strict: object) -> None:
    inner = {"name": "n", "schema": SCHEMA, "strict": strict}
    nested = {"type": "json_schema", "json_schema": inner}
    flat = {"type": "json_schema", **inner}
    expected = OutputFormat("json_schema", SCHEMA, name="n", strict=strict not in (False, "false"))

    def without_param(form: OutputFormat) -> OutputFormat:
        assert form.param
        assert form.param.endswith("schema")
        return msgspec.structs.replace(form, param=None)

    for shape in (nested, flat):
        assert without_param(chat(response_format=shape).output_format) == expected
        assert without_param(response(response_format=shape).output_format) == expected
        assert without_param(response(text={"format": shape}).output_format) == expected


def test_grammars_have_the_form_of_custom_tools() -> None:
    for syntax in ("lark", "regex"):
        form = {"type": "grammar", "syntax": syntax, "definition": "a"}
        found = chat(response_format=form).output_format
        assert (found.type, found.definition) == (syntax, "a")
        assert response(text={"format": form}).output_format.type == syntax
    assert chat(response_format={"type": "json_object"}).output_format.type == "json_object"


def test_sampling_reaches_the_request() -> None:
    request = chat(
        temperature=0, top_p=0.5, top_k=7, min_p=0.1, typical_p=0.9, repeat_penalty=1.1,
        presence_penalty=1, frequency_penalty=-1, seed=42, logit_bias={"17": -100},
        stop="END", max_tokens=5.0, top_logprobs=3, logprobs=True, ttl=60, prompt_cache_key="k",
        reasoning_effort="low", chat_template_kwargs={"a": 1},
    )  # fmt: skip
    options = request.sampling
    assert (options.temperature, options.top_p, options.top_k, options.min_p) == (0, 0.5, 7, 0.1)
    assert (options.typical_p, options.repeat_penalty) == (0.9, 1.1)
    assert (options.presence_penalty, options.frequency_penalty) == (1, -1)
    assert (options.seed, options.logit_bias) == (42, {17: -100})
    assert (request.stop, request.max_tokens, request.logprobs) == (("END",), 5, 3)
    assert (request.ttl, request.cache_key) == (60, "k")
    assert (request.reasoning.effort, request.template_kwargs) == ("low", {"a": 1})


EVERY_OPTION: dict[str, Any] = {
    "temperature": 0.5, "dynatemp_range": 0.1, "dynatemp_exponent": 2, "top_k": 7, "top_p": 0.5,
    "min_p": 0.1, "typical_p": 0.9, "top_n_sigma": 1.5, "xtc_probability": 0.3,
    "xtc_threshold": 0.2, "repeat_penalty": 1.1, "repeat_last_n": -1, "presence_penalty": 1,
    "frequency_penalty": -1, "dry_multiplier": 0.8, "dry_base": 1.5, "dry_allowed_length": 3,
    "dry_penalty_last_n": 100, "dry_sequence_breakers": ["a"], "mirostat": 2, "mirostat_tau": 4,
    "mirostat_eta": 0.2, "seed": 42,
}  # fmt: skip


@pytest.mark.parametrize("name", EVERY_OPTION)
def test_every_sampling_option_reaches_the_request(name: str) -> None:
    value = EVERY_OPTION[name]
    found = getattr(chat(**EVERY_OPTION).sampling, name)
    assert found == (tuple(value) if isinstance(value, list) else value)
    assert getattr(chat().sampling, name) is None
    if name != "dry_sequence_breakers":
        with pytest.raises(InvalidType, match=name):
            chat(**{name: "many"})


def test_choices_have_seeds_of_their_own() -> None:
    def seeds(seed: int | None) -> list[int | None]:
        body = check(CHAT | {"n": 3, "seed": seed}, ChatBody)
        return [one.sampling.seed for one in chat_request.translate(body, HEADERS)]

    assert seeds(5) == [5, 6, 7]
    assert seeds(2**32 - 1) == [2**32 - 1, 0, 1]
    assert seeds(None) == seeds(-1) == [None] * 3


@pytest.mark.parametrize("limit", [None, 0, -1])
def test_no_limit(limit: int | None) -> None:
    assert chat(max_tokens=limit).max_tokens is None


def test_limits_of_any_size() -> None:
    assert chat(max_completion_tokens=7, max_tokens=9).max_tokens == 7
    assert chat(max_tokens=10**30).max_tokens == 2**31 - 1


def test_session_headers_are_cache_keys() -> None:
    def key(**fields: Any) -> str | None:
        headers = Headers({"X-Session-Id": "later", "x-session-affinity": "first"})
        return chat_request.translate(check(CHAT | fields, ChatBody), headers)[0].cache_key

    assert key() == "first"
    assert key(prompt_cache_key="body") == "body"


# --- messages -----------------------------------------------------------------------


def test_messages_become_a_conversation() -> None:
    request = chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "2", "function": {"name": "g", "arguments": {"x": 1}}},
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "out"}]},
            {"role": "assistant", "content": "done", "name": "ignored"},
            {"role": "system", "content": "Still brief."},
        ]
    )
    assert request.messages == (
        Message("system", (Text("Be brief."),)),
        Message("user", (Text("a"), Text("b"))),
        Message(
            "assistant", (Thinking("hm"), ToolCall("1", "f", "{}"), ToolCall("2", "g", '{"x":1}'))
        ),
        Message("tool", (ToolResult("1", (Text("out"),)),)),
        Message("assistant", (Text("done"),)),
        Message("system", (Text("Still brief."),)),
    )
    assert not request.continue_final


def test_legacy_function_messages() -> None:
    request = chat(
        messages=[
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "f", "arguments": "{}"},
            },
            {"role": "function", "name": "f", "content": "out"},
        ]
    )
    assert request.messages == (
        Message("assistant", (ToolCall("f", "f", "{}"),)),
        Message("tool", (ToolResult("f", (Text("out"),)),)),
    )


def test_a_last_word_of_the_assistant_is_continued() -> None:
    said = {"role": "assistant", "content": "Once"}
    called = said | {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
    assert chat(messages=[HELLO, said]).continue_final
    assert not chat(messages=[HELLO, called]).continue_final
    assert not chat().continue_final


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "id",
                         "arguments", "name", "call_id", "output", "summary"]),
        children, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300)
@given(JSON, JSON)
def test_any_messages_are_understood_or_refused(messages: Any, other: Any) -> None:
    for body, model, translate in (
        (CHAT | {"messages": messages, "tools": other}, ChatBody, chat_request.translate),
        (CHAT | {"messages": [messages, HELLO], "stop": other}, ChatBody, chat_request.translate),
        (
            CHAT | {"tool_choice": messages, "response_format": other},
            ChatBody,
            chat_request.translate,
        ),
        (
            {"model": "m", "prompt": messages, "stream_options": other},
            CompletionsBody,
            completions_request.translate,
        ),
    ):
        try:
            translate(check(body, model), HEADERS)  # type: ignore[arg-type]
        except InvalidRequest as error:
            assert error.message  # noqa: PT017 - either outcome is right


@settings(max_examples=300)
@given(JSON, JSON)
def test_any_input_is_understood_or_refused(value: Any, other: Any) -> None:
    for fields in ({"input": value}, {"input": [value]}, {"text": value, "metadata": other}):
        try:
            response(**fields)
        except InvalidRequest as error:
            assert error.message  # noqa: PT017
    try:
        _ = check({"model": "m", "input": value}, EmbeddingsBody).inputs
    except InvalidRequest as error:
        assert error.message  # noqa: PT017


# --- responses ----------------------------------------------------------------------


def test_input_may_be_an_empty_string() -> None:
    """Codex preloads a model with it."""
    assert response(input="", max_output_tokens=1).messages == (Message("user", (Text(""),)),)


def test_instructions_are_not_stored() -> None:
    body = check(RESPONSE | {"instructions": "Be brief."}, ResponsesBody)
    history = (Message("user", (Text("a"),)), Message("assistant", (Text("b"),)))
    request, conversation = responses_request.translate(body, HEADERS, history)
    hello = Message("user", (Text("hello"),))
    assert conversation == (*history, hello)
    assert request.messages == (Message("system", (Text("Be brief."),)), *history, hello)


def test_items_of_one_turn_are_one_message() -> None:
    request = response(
        input=[
            {"role": "user", "content": "hi"},
            {"type": "reasoning", "id": "rs", "summary": [], "content": None},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
            {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "raw"},
            {"type": "function_call_output", "call_id": "1", "output": "out"},
            {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "o"}]},
            {"type": "web_search_call", "id": "ws", "status": "completed"},
            {"role": "assistant", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"type": "something_new", "x": 1},
            {"role": "developer", "content": [{"type": "input_text", "text": "sys"}]},
        ]
    )  # fmt: skip
    assert request.messages == (
        Message("user", (Text("hi"),)),
        Message(
            "assistant",
            (Thinking("hm"), Text("so"), ToolCall("1", "f", "{}"), ToolCall("2", "g", '{"input":"raw"}')),
        ),
        Message("tool", (ToolResult("1", (Text("out"),)),)),
        Message("tool", (ToolResult("2", (Text("o"),)),)),
        Message("assistant", (Text("one"),)),
        Message("assistant", (Text("two"),)),
        Message("system", (Text("sys"),)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"input": None}, MissingParameter, "input"),
        ({"input": 5}, InvalidType, "input"),
        ({"input": []}, InvalidValue, "input"),
        ({"input": [5]}, InvalidType, "input[0]"),
        ({"input": [{"role": "user"}]}, MissingParameter, "input[0].content"),
        ({"input": [{"role": "bot", "content": "x"}]}, InvalidValue, "input[0].role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            MissingParameter,
            "input[0].content[0].image_url",
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, MissingParameter, "input[0].call_id"),
        ({"max_output_tokens": "x"}, InvalidType, "max_output_tokens"),
        ({"metadata": {"a": 1}}, InvalidType, "metadata.a"),
        ({"text": {"format": {"type": "json_schema"}}}, MissingParameter, "text.format.schema"),
        ({"text": {"format": {"type": "yaml"}}}, InvalidValue, "text.format.type"),
        ({"response_format": {"type": "yaml"}}, InvalidValue, "response_format.type"),
        ({"background": True, "store": False}, InvalidValue, "background"),
        ({"background": True, "generate": False}, InvalidValue, "generate"),
        ({"conversation": "a", "previous_response_id": "b"}, InvalidValue, "conversation"),
        ({"conversation": {"name": "a"}}, InvalidType, "conversation"),
        (
            {"tools": [{"type": "mcp", "server_url": "http://x"}]},
            MissingParameter,
            "tools[0].server_label",
        ),
        ({"prompt": {"id": "p"}}, UnsupportedParameter, "prompt"),
    ],
)
def test_responses_fields_are_named(
    fields: dict[str, Any], error: type[Exception], param: str
) -> None:
    with pytest.raises(error) as raised:
        response(**fields)
    assert isinstance(raised.value, LmnbError)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"top_logprobs": 0}, None),
        ({"top_logprobs": 2}, 2),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["reasoning.encrypted_content"]}, None),
    ],
)
def test_responses_logprobs(fields: dict[str, Any], expected: int | None) -> None:
    assert response(**fields).logprobs == expected


# --- completions and embeddings -----------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
        (["a", [1]], ["a", (1,)]),
    ],
)
def test_prompts(prompt: Any, expected: list[Any]) -> None:
    body = check({"model": "m", "prompt": prompt, "n": 2, "seed": 1}, CompletionsBody)
    groups = completions_request.translate(body, HEADERS)
    assert [[one.prompt for one in group] for group in groups] == [[p, p] for p in expected]
    assert [[one.sampling.seed for one in group] for group in groups] == [[1, 2]] * len(expected)


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"prompt": 5}, InvalidType, "prompt"),
        ({"prompt": []}, InvalidValue, "prompt"),
        ({"prompt": [[]]}, InvalidType, "prompt[0]"),
        ({"prompt": [1, "a"]}, InvalidType, "prompt[0]"),
        ({"prompt": [-1]}, InvalidType, "prompt[0]"),
        ({"prompt": [True]}, InvalidType, "prompt[0]"),
        ({"suffix": "end", "prompt": [1]}, UnsupportedParameter, "suffix"),
        ({"suffix": "end", "echo": True, "logprobs": 1}, UnsupportedParameter, "echo"),
        ({"best_of": 4, "stream": True}, UnsupportedParameter, "best_of"),
        ({"best_of": 1, "n": 2}, InvalidValue, "best_of"),
    ],
)
def test_completions_fields_are_named(
    fields: dict[str, Any], error: type[Exception], param: str
) -> None:
    body = check({"model": "m", "prompt": "p"} | fields, CompletionsBody)
    with pytest.raises(error) as raised:
        completions_request.translate(body, HEADERS)
    assert isinstance(raised.value, LmnbError)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([[1, 2], "a"], InvalidType),
        ([1, "a"], InvalidType),
        ([[]], InvalidValue),
        ([[True]], InvalidType),
        ([], InvalidValue),
        ("", InvalidValue),
        (["a", ""], InvalidValue),
        (5, InvalidType),
        ([None], InvalidType),
        ([True], InvalidType),
    ],
)
def test_embedding_inputs_that_are_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        _ = check({"model": "m", "input": value}, EmbeddingsBody).inputs
    assert "input" in str(raised.value)


def test_token_ids_are_taken_for_text_where_there_is_a_tokenizer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(UnsupportedValue, match="check_embedding_ctx_length=False"):
        token_arrays.texts([[1, 2]])
    # OpenAI's vocabulary is not ours to carry: one of its form, with bytes and a pair.
    ranks = {bytes([n]): n for n in range(256)} | {b"he": 256}
    toy = tiktoken.Encoding("toy", pat_str=r"\S+|\s", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _name: toy)
    (tmp_path / token_arrays._VOCABULARY).touch()
    assert token_arrays.texts([toy.encode("hello there"), [104]]) == ["hello there", "h"]
    for bad in (300, -1, 2**40):
        with pytest.raises(InvalidValue, match="cl100k_base"):
            token_arrays.texts([[bad]])


def test_thinking_is_bounded_by_the_same_field_in_both_protocols() -> None:
    fields = {"reasoning": {"effort": "high", "max_tokens": 300}}
    for request in (chat(**fields), response(**fields)):
        assert (request.reasoning.effort, request.reasoning.budget) == ("high", 300)
