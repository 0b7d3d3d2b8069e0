"""Messages: the official SDK, strictly, against the real server and model."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import psutil
import pytest
from anthropic_synthetic import parse
from server_home import ServerHome, wait_for

from lmnb.client import Client

LLM = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"
COLOURS: Any = [{"role": "user", "content": "Name three colours."}]
LONG: Any = {  # greedily, the small model repeats itself until the context is full
    "model": LLM,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
}
PREFILLED: Any = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is"},
]
GREEDY: Any = {"temperature": 0}


@pytest.fixture
def sdk(client: Client) -> anthropic.Anthropic:
    return client.anthropic(_strict_response_validation=True, max_retries=0)


@pytest.fixture
def raw(client: Client) -> Iterator[httpx2.Client]:
    """For what the SDK would not send. A connection of its own, so that it can be dropped."""
    transport = httpx2.HTTPTransport(uds=client.socket)
    with httpx2.Client(transport=transport, base_url="http://local", timeout=60) as http:
        yield http


def ask(**more: Any) -> Any:
    return {"model": LLM, "max_tokens": 8, "messages": COLOURS, "extra_body": GREEDY, **more}


def error_of(response: httpx2.Response) -> Any:
    body = response.json()
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    return body["error"]


def wait_until_idle(client: Client) -> None:
    deadline = time.monotonic() + 20
    while any(row["active"] for row in client.ps()):
        assert time.monotonic() < deadline, "the generation goes on"
        time.sleep(0.02)


# --- answers ------------------------------------------------------------------------


def test_message(sdk: anthropic.Anthropic) -> None:
    message = sdk.messages.create(**ask())
    [block] = message.content
    assert block.type == "text"
    assert block.text
    assert message.model == LLM
    assert message.role == "assistant"
    assert message.stop_reason == "max_tokens"
    assert message.stop_sequence is None
    assert message.usage.output_tokens == 8
    assert message._request_id is not None
    assert message._request_id.startswith("req_")


def test_streamed_and_whole_answers_agree(sdk: anthropic.Anthropic) -> None:
    whole = sdk.messages.create(**ask(max_tokens=12))
    with sdk.messages.stream(**ask(max_tokens=12)) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == whole.content[0].text
    assert stream.get_final_text() == whole.content[0].text
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    one, two = whole.usage, streamed.usage
    assert one.input_tokens + (one.cache_read_input_tokens or 0) == two.input_tokens + (
        two.cache_read_input_tokens or 0
    )


def test_raw_stream(sdk: anthropic.Anthropic) -> None:
    types = [event.type for event in sdk.messages.create(**ask(stream=True))]
    assert types[:2] == ["message_start", "content_block_start"]
    assert types[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(types[2:-3]) == {"content_block_delta"}


def test_the_prefix_cache_is_counted(sdk: anthropic.Anthropic) -> None:
    words = "Remember the number 4711 and the colour green. " * 6
    messages = [{"role": "user", "content": words + str(time.time())}]
    first = sdk.messages.create(**ask(messages=messages)).usage
    second = sdk.messages.create(**ask(messages=messages)).usage
    total = first.input_tokens + (first.cache_read_input_tokens or 0)
    assert second.input_tokens + (second.cache_read_input_tokens or 0) == total
    assert (second.cache_read_input_tokens or 0) > 0.9 * total
    assert second.input_tokens > 0
    assert second.cache_creation_input_tokens == 0
    with sdk.messages.stream(**ask(messages=messages)) as stream:
        started = next(iter(stream))
    assert started.type == "message_start"
    assert started.message.usage.cache_read_input_tokens == second.cache_read_input_tokens


def test_stop_sequence(sdk: anthropic.Anthropic) -> None:
    messages = [
        {"role": "user", "content": "Count from 1 to 10."},
        {"role": "assistant", "content": "1, 2, 3, 4,"},  # so that it counts on every machine
    ]
    wanted = ask(messages=messages, stop_sequences=["7", "XYZ"], max_tokens=60)
    message = sdk.messages.create(**wanted)
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == "7"
    assert message.content[0].text == " 5, 6, "


def test_end_turn(sdk: anthropic.Anthropic) -> None:
    """Claude Code asks for 32000 tokens whatever the context, so that must be clamped."""
    message = sdk.messages.create(**ask(messages=PREFILLED, max_tokens=32000))
    assert message.stop_reason == "end_turn"


def test_prefill_is_continued(sdk: anthropic.Anthropic) -> None:
    message = sdk.messages.create(**ask(messages=PREFILLED, max_tokens=5))
    assert message.content[0].text.startswith(" Paris")


def test_no_tokens_at_all_read_the_prompt_into_the_cache(sdk: anthropic.Anthropic) -> None:
    wanted = ask(messages=[{"role": "user", "content": "Remember 4711. " * 20}], max_tokens=0)
    first = sdk.messages.create(**wanted)
    assert (first.content, first.stop_reason) == ([], "max_tokens")
    assert first.usage.output_tokens == 0
    with sdk.messages.stream(**wanted) as stream:
        second = stream.get_final_message()
    assert (second.content, second.stop_reason) == ([], "max_tokens")
    assert (second.usage.cache_read_input_tokens or 0) > 100


def test_seed(sdk: anthropic.Anthropic) -> None:
    def text(seed: int) -> str:
        hot = {"temperature": 1.5, "seed": seed}
        message = sdk.messages.create(**ask(extra_body=hot, max_tokens=12))
        return str(message.content[0].text)

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_thinking_is_no_reason_to_fail(sdk: anthropic.Anthropic) -> None:
    message = sdk.messages.create(**ask(thinking={"type": "enabled", "budget_tokens": 1024}))
    assert message.content


@pytest.mark.parametrize("name", ["claude-unknown-9", "Claude-Haiku", "anthropic/claude-x"])
def test_names_of_claude_mean_the_loaded_model(sdk: anthropic.Anthropic, name: str) -> None:
    sdk.messages.create(**ask())
    message = sdk.messages.create(**ask(model=name))
    assert message.model == LLM
    with sdk.messages.stream(**ask(model=name)) as stream:
        assert stream.get_final_message().model == LLM


# --- counting -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"system": "Be brief. <|im_end|>"},
        {"tools": [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"messages": PREFILLED},
    ],
    ids=["system", "tools", "thinking", "prefill"],
)
def test_count_tokens_is_what_a_message_uses(sdk: anthropic.Anthropic, more: Any) -> None:
    wanted: Any = {"model": LLM, "messages": COLOURS, **more}
    counted = sdk.messages.count_tokens(**wanted).input_tokens
    usage = sdk.messages.create(max_tokens=1, **wanted).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_count_tokens_with_thinking_and_a_claude_name(sdk: anthropic.Anthropic) -> None:
    counted = sdk.beta.messages.count_tokens(
        model="claude-opus-4-5",
        messages=[{"role": "user", "content": "foo"}],
        thinking={"type": "enabled", "budget_tokens": 2048},
        betas=["claude-code-20250219"],
    )
    assert counted.input_tokens > 1


def test_control_tokens_of_users_are_words(sdk: anthropic.Anthropic) -> None:
    def count(words: str) -> int:
        messages: Any = [{"role": "user", "content": words}]
        return sdk.messages.count_tokens(model=LLM, messages=messages).input_tokens

    assert count("a <|im_end|> b") > count("a b") + 3


# --- mistakes -----------------------------------------------------------------------


def test_unknown_model(sdk: anthropic.Anthropic) -> None:
    for stream in (False, True):
        with pytest.raises(anthropic.NotFoundError) as caught:
            sdk.messages.create(**ask(model="nobody/nothing", stream=stream))
        body: Any = caught.value.body
        assert body["error"]["type"] == "not_found_error"
        assert body["error"]["message"].startswith("model: ")
        assert "nobody/nothing" in body["error"]["message"]


def test_a_prompt_that_is_too_long(sdk: anthropic.Anthropic) -> None:
    messages = [{"role": "user", "content": "word " * 9000}]
    for stream in (False, True):
        with pytest.raises(
            anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > \d+"
        ):
            sdk.messages.create(**ask(messages=messages, stream=stream))


def test_tools_with_the_real_model(sdk: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool: Any = {"name": "get_weather", "input_schema": schema}
    choice = {"type": "any", "disable_parallel_tool_use": True}
    wanted = ask(tools=[tool], tool_choice=choice, max_tokens=120)
    found = sdk.messages.create(**wanted)
    (block,) = found.content
    assert found.stop_reason == "tool_use"
    assert isinstance(block, anthropic.types.ToolUseBlock)
    assert block.name == "get_weather"
    assert isinstance(block.input["city"], str)
    assert sdk.messages.create(**ask(tools=[tool], tool_choice={"type": "none"})).content


def test_a_tool_that_is_found_later_leaves_the_prompt_before_it_as_it_was(
    sdk: anthropic.Anthropic,
) -> None:
    schema: Any = {"type": "object", "properties": {}}
    search: Any = {"name": "search_tools", "input_schema": schema}
    later: Any = {"name": "get_weather", "input_schema": schema, "defer_loading": True}
    before = sdk.messages.create(**ask(tools=[later, search])).usage
    reference = {"type": "tool_reference", "tool_name": "get_weather"}
    call = {"type": "tool_use", "id": "1", "name": "search_tools", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [reference]}
    searched = [
        *COLOURS,
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    wanted = ask(tools=[later, search], messages=searched, max_tokens=60)
    found = sdk.messages.create(**wanted, tool_choice={"type": "tool", "name": "get_weather"})
    assert [block.name for block in found.content if block.type == "tool_use"] == ["get_weather"]
    whole = before.input_tokens + (before.cache_read_input_tokens or 0)
    assert (found.usage.cache_read_input_tokens or 0) >= whole


def test_an_embedding_model_cannot_chat(sdk: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="embedding model"):
        sdk.messages.create(**ask(model=EMBEDDER))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "must be an object"),
        (b'{"model":"m"}', "'messages' is required"),
        (b'{"model":1,"messages":[]}', "'model' must be a string"),
        (b'{"model":"m","messages":"hi"}', "'messages' must be an array"),
        (b'{"model":"m","messages":[{"role":"user","content":5}]}', "'messages[0].content'"),
        (b'{"model":"m","messages":[],"max_tokens":1}', "at least one message"),
        (
            b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":"9"}',
            "'max_tokens'",
        ),
        (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', "not valid JSON"),
        (b'{"extra":' * 100_000, "nested too deeply"),
    ],
)
def test_bad_bodies(raw: httpx2.Client, body: bytes, words: str) -> None:
    response = raw.post("/v1/messages", content=body)
    assert response.status_code == 400
    error = error_of(response)
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]


def test_documents_within_documents(raw: httpx2.Client) -> None:
    """Deeper than the stack is, but not too deep for JSON."""
    block: Any = {"type": "text", "text": "x"}
    for _ in range(300):
        block = {"type": "document", "source": {"type": "content", "content": [block]}}
    body = {"model": LLM, "max_tokens": 1, "messages": [{"role": "user", "content": [block]}]}
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        response = raw.post(path, json=body)
        assert response.status_code == 400
        assert error_of(response)["message"] == "The request is nested too deeply."


def test_numbers_beyond_64_bits(raw: httpx2.Client) -> None:
    body = {"model": LLM, "messages": COLOURS, "max_tokens": 2**70, "stop_sequences": ["e"]}
    for more in ({}, {"thinking": {"type": "enabled", "budget_tokens": 2**70}}):
        assert raw.post("/v1/messages", json=body | more).json()["stop_reason"] == "stop_sequence"
    kwargs = {"model": LLM, "messages": COLOURS, "chat_template_kwargs": {"number": 2**70}}
    response = raw.post("/v1/chat/completions", json=kwargs)
    assert response.status_code == 400
    assert "64 bits" in response.text


def test_sampling_out_of_range(raw: httpx2.Client) -> None:
    response = raw.post("/v1/messages", json={"model": LLM, "messages": COLOURS, "top_p": 2})
    assert response.status_code == 400
    assert "top_p must be between 0 and 1" in error_of(response)["message"]


def test_paths(raw: httpx2.Client) -> None:
    body = {"model": LLM, "messages": COLOURS, "max_tokens": 1}
    for path in ("/v1/messages?beta=true", "/messages", "/v1/v1/messages"):
        assert raw.post(path, json=body).json()["type"] == "message"
    assert "input_tokens" in raw.post("/v1/messages/count_tokens?beta=true", json=body).json()
    missing = raw.post("/v1/messages/nothing", json=body)
    assert missing.status_code == 404
    assert error_of(missing)["type"] == "not_found_error"
    assert raw.get("/v1/messages").status_code == 405


def test_wire_format(raw: httpx2.Client) -> None:
    body = {"model": LLM, "messages": COLOURS, "max_tokens": 3, "stream": True}
    response = raw.post("/v1/messages", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["request-id"]
    events = parse(response.content)
    assert all(name == data["type"] for name, data in events)
    assert b"[DONE]" not in response.content


# --- leaving and failing ------------------------------------------------------------


def test_leaving_a_stream_ends_the_generation(client: Client, raw: httpx2.Client) -> None:
    body = {**LONG, "stream": True}
    with raw.stream("POST", "/v1/messages", json=body) as response:
        chunks = response.iter_bytes()
        next(chunks)
        assert any(row["active"] for row in client.ps())
    wait_until_idle(client)


def test_leaving_a_plain_request_ends_the_generation(client: Client) -> None:
    async def leave() -> None:
        transport = httpx2.AsyncHTTPTransport(uds=client.socket)
        async with httpx2.AsyncClient(transport=transport, base_url="http://local") as http:
            task = asyncio.create_task(http.post("/v1/messages", json=LONG, timeout=60))
            while not any(row["active"] for row in await asyncio.to_thread(client.ps)):
                await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    wait_until_idle(client)


def test_many_at_once(client: Client) -> None:
    async def run() -> list[anthropic.types.Message]:
        transport = httpx2.AsyncHTTPTransport(uds=client.socket)
        sdk = anthropic.AsyncAnthropic(
            api_key="x",
            base_url="http://local",
            http_client=httpx2.AsyncClient(transport=transport, timeout=120),
            _strict_response_validation=True,
        )
        async with sdk:
            asks = (
                sdk.messages.create(**ask(messages=[{"role": "user", "content": f"Say {n}."}]))
                for n in range(8)
            )
            return list(await asyncio.gather(*asks))

    messages = asyncio.run(run())
    assert len({message.id for message in messages}) == 8
    assert all(message.usage.output_tokens for message in messages)


def test_json_of_answers_is_valid_utf8(raw: httpx2.Client) -> None:
    words = "Repeat: 𝄞 é \u2028 ü"
    body = {"model": LLM, "messages": [{"role": "user", "content": words}], "max_tokens": 20}
    assert json.loads(raw.post("/v1/messages", json=body).content)["content"]


def test_counting_does_not_wait_for_a_generation(
    client: Client, raw: httpx2.Client, sdk: anthropic.Anthropic
) -> None:
    with raw.stream("POST", "/v1/messages", json={**LONG, "stream": True}) as response:
        chunks = response.iter_bytes()
        next(chunks)
        assert sdk.messages.count_tokens(model=LLM, messages=COLOURS).input_tokens
        assert any(row["active"] for row in client.ps())
    wait_until_idle(client)


def test_counting_does_not_wait_for_the_prefill_of_the_only_slot(client: Client) -> None:
    model = "one-slot"
    list(client.load(LLM, identifier=model, parallel=1, context_length=8192))
    prompt = " ".join(f"Item {number} costs {number * 7} crowns." for number in range(550))
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 1,
        "stream": True,
    }
    sent: list[bytes] = []

    async def run() -> int:
        transport = httpx2.AsyncHTTPTransport(uds=client.socket)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://local", timeout=120
        ) as http:
            begun = asyncio.Event()

            async def read() -> None:
                async with http.stream("POST", "/v1/messages", json=body) as response:
                    async for chunk in response.aiter_bytes():
                        sent.append(chunk)
                        begun.set()

            reading = asyncio.create_task(read())
            await begun.wait()
            count = {"model": model, "messages": [{"role": "user", "content": prompt}]}
            counted = await http.post("/v1/messages/count_tokens", json=count)
            assert b"content_block" not in b"".join(sent), "the prefill is over"
            reading.cancel()  # which ends the prefill, too
            await asyncio.gather(reading, return_exceptions=True)
            return int(counted.json()["input_tokens"])

    try:
        tokens = asyncio.run(run())
    finally:
        client.unload(model)
    [start] = [data for name, data in parse(b"".join(sent)) if name == "message_start"]
    usage = start["message"]["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == tokens > 5000


def test_counting_loads_no_model(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    sdk = client.anthropic(_strict_response_validation=True, max_retries=0)
    tool: Any = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
    wanted: Any = {"model": LLM, "messages": COLOURS, "system": "Be brief.", "tools": [tool]}
    counted = sdk.messages.count_tokens(**wanted).input_tokens
    assert not client.ps()
    assert not fresh_home.workers()
    usage = sdk.messages.create(max_tokens=1, **wanted).usage
    assert counted == usage.input_tokens
    with pytest.raises(anthropic.BadRequestError, match="embedding model"):
        sdk.messages.count_tokens(model=EMBEDDER, messages=COLOURS)


def worked(process: psutil.Process) -> float:
    """Seconds of a processor: reading the short prompt takes a few hundredths."""
    times = process.cpu_times()
    return float(times.user + times.system)


def test_a_crash_in_mid_answer(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    sdk = client.anthropic(_strict_response_validation=True, max_retries=2)
    long: Any = {**LONG, "max_tokens": 8000, "extra_body": GREEDY}
    long.pop("temperature")
    pieces: list[str] = []

    def read() -> None:
        with sdk.messages.stream(**long) as stream:
            for piece in stream.text_stream:
                pieces.append(piece)
                for worker in fresh_home.workers():
                    worker.kill()

    with pytest.raises(anthropic.APIStatusError, match="process was killed"):
        read()
    assert pieces
    # The next request loads the model again; a plain one that dies is not retried.
    assert sdk.messages.create(**ask()).content
    [worker] = fresh_home.workers()

    def kill_in_mid_answer() -> None:
        before = worked(worker)
        wait_for(lambda: worked(worker) > before + 0.6, "an answer that has begun")
        worker.kill()

    threading.Thread(target=kill_in_mid_answer, daemon=True).start()
    with pytest.raises(anthropic.InternalServerError, match="process was killed") as caught:
        sdk.messages.create(**long)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert not fresh_home.workers()
