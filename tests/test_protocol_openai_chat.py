"""Chat Completions and Completions: the official SDK against the real server and model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from lmnb.client import Client

LLM = "smollm2-135m-instruct"
COLOURS: Any = [{"role": "user", "content": "Name three colours."}]
ENDLESS: Any = {"0": -1000, "2": -1000}
"""The tokens that end a turn, never to be drawn."""


@pytest.fixture
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(_strict_response_validation=True, max_retries=0)


@pytest.fixture
def raw(client: Client) -> Iterator[httpx2.Client]:
    """For what the SDK would not send. A connection of its own, so that it can be dropped."""
    transport = httpx2.HTTPTransport(uds=client.socket)
    with httpx2.Client(transport=transport, base_url="http://local/v1", timeout=60) as http:
        yield http


def wait_until_idle(client: Client) -> None:
    deadline = time.monotonic() + 20
    while any(row["active"] for row in client.ps()):
        assert time.monotonic() < deadline, "the generation goes on"
        time.sleep(0.02)


# --- chat completions ---------------------------------------------------------------


def test_chat(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=LLM, messages=COLOURS, max_tokens=8, temperature=0)
    [choice] = answer.choices
    assert choice.message.content
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "length"
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens > 8
    assert answer._request_id is not None


def test_streamed_and_whole_answers_agree(sdk: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": LLM, "messages": COLOURS, "max_tokens": 12, "temperature": 0}
    whole = sdk.chat.completions.create(**wanted)
    chunks = list(
        sdk.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True})
    )
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert len([text for text in texts if text]) > 3
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 12


def test_chats_of_lm_studios_older_api(client: Client) -> None:
    sdk = client.openai(base_url="http://local/api/v0", _strict_response_validation=True)
    completion = sdk.chat.completions.create(model=LLM, messages=COLOURS, max_tokens=2)
    stats: Any = getattr(completion, "stats", None)
    assert stats["stop_reason"] == "maxPredictedTokensReached"
    stream = sdk.chat.completions.create(model=LLM, messages=COLOURS, max_tokens=2, stream=True)
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"


def test_stream_helper_with_stop(sdk: openai.OpenAI) -> None:
    """A stop string ends the answer and is no part of it; the helper wants a natural end."""
    wanted: dict[str, Any] = {"model": LLM, "messages": COLOURS, "temperature": 0}
    whole = sdk.chat.completions.create(**wanted, max_tokens=12).choices[0].message.content or ""
    stop = whole.split()[2]
    with sdk.chat.completions.stream(**wanted, stop=stop, max_tokens=40) as stream:
        for _ in stream:
            pass
        [choice] = stream.get_final_completion().choices
    assert choice.finish_reason == "stop"
    assert choice.message.content == whole.split(stop)[0]


def test_several_choices_share_the_prompt(sdk: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": LLM, "messages": COLOURS, "max_tokens": 10, "seed": 7}
    three = sdk.chat.completions.create(**wanted, n=3, temperature=1.5)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert three.usage is not None
    one = sdk.chat.completions.create(**wanted, temperature=1.5)
    assert one.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 30
    assert one.choices[0].message.content == texts[0], "the seed decides"


def test_several_choices_streamed(sdk: openai.OpenAI) -> None:
    seen: dict[int, str] = {}
    ends: dict[int, str | None] = {}
    for chunk in sdk.chat.completions.create(
        model=LLM, messages=COLOURS, max_tokens=6, n=3, stream=True
    ):
        for choice in chunk.choices:
            seen[choice.index] = seen.get(choice.index, "") + (choice.delta.content or "")
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    assert sorted(seen) == [0, 1, 2]
    assert all(seen.values())
    assert set(ends.values()) <= {"length", "stop"}


def test_logprobs(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=LLM, messages=COLOURS, max_tokens=4, logprobs=True, top_logprobs=3, temperature=0
    )
    known = answer.choices[0].logprobs
    assert known is not None
    assert known.content is not None
    assert len(known.content) == 4
    assert "".join(token.token for token in known.content) == answer.choices[0].message.content
    for token in known.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob, "greedy takes the likeliest"


def test_logprobs_streamed(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model=LLM, messages=COLOURS, max_tokens=4, logprobs=True, stream=True
    )
    tokens = [
        token
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs and choice.logprobs.content
        for token in choice.logprobs.content
    ]
    assert len(tokens) == 4
    assert all(token.top_logprobs == [] for token in tokens)


def test_the_last_words_of_the_assistant_are_continued(sdk: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is"},
    ]
    answer = sdk.chat.completions.create(model=LLM, messages=messages, max_tokens=3, temperature=0)
    assert (answer.choices[0].message.content or "").startswith(" Paris")


def test_extra_samplers_reach_the_engine(sdk: openai.OpenAI) -> None:
    """Top-k of one is greedy, however hot."""
    wanted: dict[str, Any] = {"model": LLM, "messages": COLOURS, "max_tokens": 6}
    greedy = sdk.chat.completions.create(**wanted, temperature=0)
    hot = sdk.chat.completions.create(**wanted, temperature=5, extra_body={"top_k": 1})
    assert hot.choices[0].message.content == greedy.choices[0].message.content


def test_logit_bias_reaches_the_engine(sdk: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": LLM, "messages": COLOURS, "max_tokens": 5, "temperature": 0}
    answer = sdk.chat.completions.create(**wanted, logit_bias={"100": 1000}, logprobs=True)
    known = answer.choices[0].logprobs
    assert known is not None
    assert len({token.token for token in known.content or []}) == 1


def test_async_client_with_eight_requests_at_once(client: Client) -> None:
    async def run() -> list[str]:
        transport = httpx2.AsyncHTTPTransport(uds=client.socket)
        async with (
            httpx2.AsyncClient(transport=transport, timeout=120) as http,
            openai.AsyncOpenAI(
                api_key="lm-studio",
                base_url="http://local/v1",
                http_client=http,
                _strict_response_validation=True,
            ) as sdk,
        ):

            async def ask(number: int) -> str:
                stream = await sdk.chat.completions.create(
                    model=LLM,
                    messages=[{"role": "user", "content": f"What comes after {number}?"}],
                    max_tokens=8,
                    temperature=0,
                    stream=True,
                )
                pieces = [c.choices[0].delta.content or "" async for c in stream if c.choices]
                return "".join(pieces)

            return await asyncio.gather(*(ask(number) for number in range(8)))

    answers = asyncio.run(run())
    assert len(answers) == 8
    assert all(answers)


def test_a_client_that_leaves_its_stream_frees_the_engine(
    client: Client, raw: httpx2.Client
) -> None:
    body = {"model": LLM, "messages": COLOURS, "stream": True, "n": 2, "logit_bias": ENDLESS}
    with raw.stream("POST", "/chat/completions", json=body) as response:
        lines = response.iter_lines()  # named: dropping it would close the stream
        for _ in range(10):
            next(lines)
        assert sum(row["active"] for row in client.ps()) == 2
    wait_until_idle(client)


@pytest.mark.parametrize("words", [1, 5000])
def test_a_client_that_stops_waiting_frees_the_engine(
    client: Client, raw: httpx2.Client, words: int
) -> None:
    """While it answers, and while it still reads the prompt."""
    messages = [{"role": "user", "content": "word " * words}]
    body = {"model": LLM, "messages": messages, "logit_bias": ENDLESS}
    with pytest.raises(httpx2.ReadTimeout):
        raw.post("/chat/completions", json=body, timeout=0.5)
    wait_until_idle(client)


# --- completions --------------------------------------------------------------------


def test_completions(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(
        model=LLM, prompt=["Once upon a", "The sky is"], n=2, max_tokens=3, echo=True, temperature=0
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in answer.choices]
    assert texts[0] == texts[1]
    assert texts[0].startswith("Once upon a")
    assert texts[2].startswith("The sky is")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens == 6, "the prompts count once each"


def test_completion_logprobs(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(
        model=LLM, prompt="Once upon a", max_tokens=3, logprobs=2, temperature=0
    )
    known = answer.choices[0].logprobs
    assert known is not None
    assert known.tokens is not None
    assert known.text_offset is not None
    assert "".join(known.tokens) == answer.choices[0].text
    assert known.text_offset[0] == 0
    assert known.text_offset[1] == len(known.tokens[0])
    assert [len(top) for top in known.top_logprobs or []] == [2, 2, 2]


def test_completions_streamed(client: Client) -> None:
    """Not strictly: the SDK's own type forbids the null that OpenAI puts into every chunk."""
    stream = client.openai().completions.create(
        model=LLM,
        prompt="Once upon a",
        max_tokens=3,
        echo=True,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text.startswith("Once upon a")
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_completion_of_token_ids(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model=LLM, prompt=[504, 3575, 282], max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3


# --- bad input ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/responses", "/embeddings"])
@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b'{"model": "m"}', b"null"])
def test_malformed_bodies(raw: httpx2.Client, path: str, body: bytes) -> None:
    response = raw.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert response.headers["x-request-id"]


def test_an_unknown_model(sdk: openai.OpenAI) -> None:
    for stream in (True, False):
        with pytest.raises(openai.NotFoundError) as raised:
            sdk.chat.completions.create(model="no/such", messages=COLOURS, stream=stream)
        assert raised.value.code == "model_not_found"
        assert raised.value.param == "model"
        assert "no/such" in raised.value.message


def test_an_embedding_model_cannot_chat(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="embedding model"):
        sdk.chat.completions.create(model="all-minilm-l6-v2", messages=COLOURS)


def test_a_prompt_longer_than_the_context(sdk: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "word " * 10_000}]
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError) as raised:
            sdk.chat.completions.create(model=LLM, messages=messages, stream=stream)
        assert raised.value.code == "context_length_exceeded"


def test_a_demanded_call(sdk: openai.OpenAI) -> None:
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools: Any = [{"type": "function", "function": {"name": "f.g", "parameters": parameters}}]
    choice: Any = {"type": "function", "function": {"name": "f.g"}}
    answer = sdk.chat.completions.create(
        model=LLM, messages=COLOURS, tools=tools, tool_choice=choice, max_tokens=80
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "f.g"
    assert isinstance(json.loads(call.function.arguments)["n"], int)


def test_paths_and_methods(raw: httpx2.Client) -> None:
    assert raw.get("/chat/completions").status_code == 405
    response = raw.post("/chat/nothing", json={})
    assert response.status_code == 404
    assert isinstance(response.json()["error"]["message"], str)
