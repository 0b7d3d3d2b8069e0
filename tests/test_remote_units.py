"""What endpoints are asked, and what is made of their answers, without a server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint, running
from hypothesis import given
from hypothesis import strategies as st

from lmnb.chat.conversation import (
    Image,
    Message,
    OutputFormat,
    Reasoning,
    Request,
    SamplingOptions,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from lmnb.chat.events import Event, Finished, TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from lmnb.errors import (
    ConfigError,
    ContextOverflow,
    EndpointBusy,
    EndpointFailed,
    InvalidRequest,
    LmnbError,
    ModelNotFound,
    NotSupported,
)
from lmnb.models.remote.answers import error_of
from lmnb.models.remote.cooldown import FIRST, LONGEST, Cooldown
from lmnb.models.remote.endpoint import Endpoint, Flavour, make
from lmnb.models.remote.keys import Keys
from lmnb.models.remote.link import Link
from lmnb.models.remote.listing import parse
from lmnb.server.remote.chunks import Chunks
from lmnb.server.remote.request import chat_body, text_body, tools_of

ASKED = Request(model="m", messages=(Message("user", (Text("Hello"),)),))


def body(request: Request, flavour: Flavour = "other") -> dict[str, Any]:
    return chat_body(request, "theirs", flavour, tools_of(request))


def asked(**fields: Any) -> Request:
    return Request(**{"model": "m", "messages": ASKED.messages} | fields)


# --- the circuit breaker ------------------------------------------------------------------


def test_pauses_double_and_end_with_a_probe_and_one_try() -> None:
    now = [0.0]
    breaker = Cooldown(now=lambda: now[0])
    pauses = []
    for _ in range(10):
        breaker.fail("it was down")
        assert not breaker.is_usable
        pauses.append(breaker.seconds_left)
        breaker.answered()  # too early
        assert breaker.circuit == "open"
        now[0] += breaker.seconds_left
        assert breaker.wants_probe
    assert pauses[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert pauses[-1] == LONGEST
    breaker.answered()
    assert (breaker.circuit, breaker.is_usable, breaker.wants_probe) == ("half-open", True, False)
    breaker.begin()
    assert not breaker.is_usable
    breaker.give_up()  # its client has left: the next request tries it
    breaker.begin()
    breaker.fail("still")
    assert breaker.seconds_left == LONGEST
    now[0] += LONGEST
    breaker.answered()
    breaker.begin()
    breaker.succeed()
    assert (breaker.circuit, breaker.failures, breaker.cause) == ("closed", 0, None)


def test_requests_that_fail_together_are_one_failure_and_a_wish_is_heard() -> None:
    breaker = Cooldown(now=lambda: 0.0)
    for _ in range(5):
        breaker.fail("it was down")
    assert (breaker.failures, breaker.seconds_left) == (1, FIRST)
    other = Cooldown(now=lambda: 0.0)
    other.fail("busy", 45.0)
    assert other.seconds_left == 45.0


# --- names, keys, lists -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address", "name"),
    [
        ("http://gpu:8000", "http://gpu:8000/v1", "gpu-8000"),
        ("http://gpu:8000/", "http://gpu:8000/v1", "gpu-8000"),
        ("https://gpu.example/openai/v1/", "https://gpu.example/openai/v1", "gpu.example"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1", "1-8000"),
    ],
)
def test_addresses(url: str, address: str, name: str) -> None:
    found = make(url, None, None)
    assert found.url == address
    assert found.name.strip("-") == name


def test_a_key_file_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(tmp_path)
    with pytest.raises(ConfigError, match=r"A_KEY.* is not set"):
        keys.find("A_KEY")
    keys.save("A_KEY", "sk-1")
    keys.save("B_KEY", "sk-2")
    path = tmp_path / "secrets.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text()) == {"A_KEY": "sk-1", "B_KEY": "sk-2"}
    assert Keys(tmp_path).find("B_KEY") == "sk-2"
    monkeypatch.setenv("A_KEY", "sk-3")
    assert keys.find("A_KEY") == "sk-3"
    keys.bring("A_KEY", "sk-4")
    assert keys.find("A_KEY") == "sk-4"
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read it"):
        keys.find("B_KEY")
    with pytest.raises(InvalidRequest, match="no HTTP header"):
        keys.bring("A_KEY", "sk-\n1")


def test_who_chose_an_endpoint_before_it_was_disconnected_is_told(tmp_path: Path) -> None:
    async def ask(url: str) -> None:
        link = Link(Endpoint(name="gone", url=url), Keys(tmp_path), lambda: 5.0, str)
        async with link.request("GET", "/models"):
            pass
        await link.close(when_idle=True)
        with pytest.raises(EndpointFailed, match="The endpoint gone was disconnected"):
            async with link.request("GET", "/models"):
                pass

    with running(FakeEndpoint("gone", [])) as endpoint:
        asyncio.run(ask(endpoint.url))


def test_lists_tell_whose_server_it_is() -> None:
    vllm = {"data": [{"id": "q", "owned_by": "vllm", "max_model_len": 4096}, {"id": 3}, "x"]}
    found = parse("e", json.dumps(vllm).encode(), {})
    assert (found.flavour, [(one.id, one.context) for one in found.models]) == (
        "vllm",
        [("q", 4096)],
    )
    cpp = {"data": [{"id": "q", "owned_by": "llamacpp", "meta": {"n_ctx_train": 512}}]}
    assert parse("e", json.dumps(cpp).encode(), {}).flavour == "llama.cpp"
    plain = {"data": [{"id": "BAAI/bge-m3"}, {"id": "qwen"}]}
    assert [one.kind for one in parse("e", json.dumps(plain).encode(), {}).models] == [
        "embedding",
        "llm",
    ]
    for wrong in (b"<html>", b"[]", b'{"models": []}', b'{"data": 3}'):
        with pytest.raises(EndpointFailed, match="not with a list of models"):
            parse("e", wrong, {})


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (400, {"error": {"message": "no"}}, InvalidRequest),
        (422, {"detail": [{"msg": "no"}]}, InvalidRequest),
        (404, {"error": {"message": "The model `x` does not exist."}}, ModelNotFound),
        (404, {"detail": "Not Found"}, NotSupported),
        (401, None, EndpointFailed),
        (429, "slow down", EndpointBusy),
        (503, {"error": "loading"}, EndpointBusy),
        (500, None, EndpointFailed),
        (302, None, EndpointFailed),
        (400, {"error": {"n_prompt_tokens": 9, "n_ctx": 5, "message": "no"}}, ContextOverflow),
        (400, {"message": "maximum context length is 5 tokens. You requested 9"}, ContextOverflow),
    ],
)
def test_refusals_have_their_kind(status: int, said: Any, kind: type[LmnbError]) -> None:
    error = error_of("gpu", said, status)
    assert type(error) is kind
    if isinstance(error, ContextOverflow):
        assert (error.prompt_tokens, error.context_length) == (9, 5)
    else:
        assert "gpu" in str(error)


# --- what is asked ------------------------------------------------------------------------


def test_a_conversation_is_sent_as_it_is() -> None:
    request = asked(
        messages=(
            Message("system", (Text("Be brief."),)),
            Message("user", (Text("What is this?"), Image(b"png", "image/png"))),
            Message("assistant", (Thinking("Hm."), Text("I look."), ToolCall("c1", "a.b", "{}"))),
            Message("tool", (ToolResult("c1", (Text("broken"),), is_error=True),)),
            Message("user", (Text("And now?"),)),
        ),
        tools=(Tool("a.b", "Looks.", {"type": "object", "properties": {}}),),
        tool_choice=ToolChoice("named", "a.b", parallel=False),
    )
    sent = body(request)
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "a_b", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Error: broken"},
        {"role": "user", "content": "And now?"},
    ]
    assert sent["tools"][0]["function"]["name"] == "a_b"
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "a_b"}}
    assert sent["parallel_tool_calls"] is False


def test_servers_are_asked_in_their_own_words() -> None:
    request = asked(
        sampling=SamplingOptions(repeat_penalty=1.1, top_k=5, logit_bias={7: -1.0}),
        reasoning=Reasoning(enabled=False, effort="low", budget=50),
        continue_final=True,
    )
    vllm, other = body(request, "vllm"), body(request)
    assert (vllm["repetition_penalty"], other["repeat_penalty"]) == (1.1, 1.1)
    assert vllm["continue_final_message"] is True
    assert (vllm["thinking_token_budget"], other["thinking_budget_tokens"]) == (50, 50)
    for sent in (vllm, other):
        assert sent["logit_bias"] == {"7": -1.0}
        assert sent["chat_template_kwargs"] == {"enable_thinking": False}
        assert sent["reasoning_effort"] == "low"
    regex = OutputFormat("regex", definition="a+", param="response_format.definition")
    assert body(asked(output_format=regex), "vllm")["structured_outputs"] == {"regex": "a+"}
    assert body(asked(output_format=regex), "lmnb")["response_format"]["syntax"] == "regex"
    for flavour in ("llama.cpp", "other"):
        with pytest.raises(NotSupported) as caught:
            body(asked(output_format=regex), flavour)
        assert caught.value.param == "response_format.definition"
    raw = Request(model="m", prompt="One,")
    assert text_body(raw, "theirs", "other")["max_tokens"] is None
    assert "max_tokens" not in text_body(raw, "theirs", "lmnb")


# --- what is answered ---------------------------------------------------------------------


def read(*chunks: Any) -> list[Event]:
    reader = Chunks("gpu", "gpu/q", ASKED, tools_of(ASKED))
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return [*events, *reader.finish()]


def choice(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@given(st.lists(st.text(max_size=5), max_size=6), st.sampled_from(["stop", "length", "weird"]))
def test_words_come_as_they_are(pieces: list[str], finish: str) -> None:
    *said, end = read(*(choice(content=piece) for piece in pieces), choice(finish))
    assert "".join(one.text for one in said if isinstance(one, TextDelta)) == "".join(pieces)
    assert isinstance(end, Finished)
    assert end.reason == ("length" if finish == "length" else "stop")


_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "index",
                    "id",
                    "finish_reason",
                    "usage",
                    "logprobs",
                    "error",
                    "token",
                    "bytes",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(_JSON, max_size=4))
def test_nonsense_is_an_error_or_events_in_their_order(chunks: list[Any]) -> None:
    try:
        events = read(*chunks)
    except EndpointFailed:
        return
    assert isinstance(events[-1], Finished)
    is_open = False
    for event in events[:-1]:
        if isinstance(event, ToolCallStart):
            assert not is_open
            is_open = True
        elif isinstance(event, ToolCallDelta | ToolCallEnd):
            assert is_open
            is_open = not isinstance(event, ToolCallEnd)


def test_the_reason_of_the_end_is_as_exact_as_it_is_told() -> None:
    end = read(choice("stop"), {"choices": [], "stats": {"stop_reason": "contextLengthReached"}})
    assert isinstance(end[-1], Finished)
    assert end[-1].reason == "context"
    used = {"prompt_tokens": 5, "completion_tokens": "x", "prompt_tokens_details": None}
    counted = read(choice("stop"), {"choices": [], "usage": used})[-1]
    assert isinstance(counted, Finished)
    assert (counted.usage.input, counted.usage.output) == (5, 0)
    assert counted.instance == "gpu/q"
