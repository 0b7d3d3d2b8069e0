"""Models of real servers, used through another: the answers are those of the server that has them.

The peer is another lmnb with the real models; llama.cpp's own server, where its program is given by the
environment variable LMNB_TEST_LLAMA_SERVER; and llama-cpp-python's, where it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import made_models
import openai
import pytest
from notebook_kernel import Kernel
from server_home import CHAT, EMBEDDING, ServerHome, wait_for

from lmnb.agents import targets
from lmnb.client import Client
from lmnb.errors import NotSupported

REMOTE = f"peer/{CHAT}"
SAY: Any = [{"role": "user", "content": "Name three colours."}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Ulm"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def peer(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Another lmnb, which has the real models and a reranker, and listens."""
    path = made_models.reranker(tmp_path_factory.mktemp("models") / "reranker.gguf")
    server.lmnb("load", str(path), "--identifier", "made-reranker")
    found = server.attach()
    found.serve(port=0)
    yield found
    found.stop_serving()


@pytest.fixture(scope="module")
def client(front: ServerHome, peer: Client) -> Client:
    """A client of the server that has no models, and is connected to the peer."""
    found = front.attach()
    listener = peer.status()["listener"]
    found.connect(listener["url"], name="peer")
    return found


@pytest.fixture
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(max_retries=0, _strict_response_validation=True)


@pytest.fixture
def claude(client: Client) -> anthropic.Anthropic:
    return client.anthropic(max_retries=0, _strict_response_validation=True)


def chat(sdk: openai.OpenAI, model: str, **options: Any) -> Any:
    return sdk.chat.completions.create(**{"model": model, "messages": SAY, **GREEDY, **options})


# --- another lmnb -------------------------------------------------------------------------


def test_chat_completions_are_those_of_the_peer(sdk: openai.OpenAI, peer: Client) -> None:
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 2}
    own = chat(peer.openai(), CHAT, **options)
    remote = chat(sdk, REMOTE, **options)
    assert remote.choices[0].message.content == own.choices[0].message.content
    assert remote.choices[0].finish_reason == "length"
    assert remote.usage.prompt_tokens == own.usage.prompt_tokens
    assert remote.usage.completion_tokens == own.usage.completion_tokens == 12
    assert remote.usage.prompt_tokens_details.cached_tokens > 0
    for here, there in zip(
        remote.choices[0].logprobs.content, own.choices[0].logprobs.content, strict=True
    ):
        assert here.bytes == there.bytes
        assert here.logprob == pytest.approx(there.logprob, abs=0.1)
        assert len(here.top_logprobs) == 2
    # No model here has the bare name, so it means the peer's, too.
    assert chat(sdk, CHAT).choices[0].message.content == own.choices[0].message.content


def test_streams_tell_of_the_prompt_and_of_what_was_used(sdk: openai.OpenAI) -> None:
    stream = chat(
        sdk,
        REMOTE,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"return_progress": True},
    )
    chunks = list(stream)
    assert any(getattr(chunk, "prompt_progress", None) for chunk in chunks)
    assert chunks[-1].usage.completion_tokens == 12
    said = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(said) > 1


def test_messages_count_and_stop_as_at_the_peer(claude: anthropic.Anthropic, peer: Client) -> None:
    asked: dict[str, Any] = {"messages": SAY, "system": "Be brief."}
    own = peer.anthropic().messages.count_tokens(model=CHAT, **asked)
    assert claude.messages.count_tokens(model=REMOTE, **asked) == own
    answer = claude.messages.create(
        model=REMOTE, max_tokens=12, stop_sequences=["e"], extra_body={"temperature": 0}, **asked
    )
    assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) == (
        own.input_tokens
    )
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "e")
    with claude.messages.stream(model=REMOTE, max_tokens=12, **asked) as stream:
        assert "".join(stream.text_stream)
        assert stream.get_final_message().model == REMOTE


def test_responses_continue_and_count(sdk: openai.OpenAI, peer: Client) -> None:
    first = sdk.responses.create(model=REMOTE, input="Hello", max_output_tokens=5)
    second = sdk.responses.create(
        model=REMOTE, input="And?", previous_response_id=first.id, max_output_tokens=5
    )
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    own = peer.openai().responses.input_tokens.count(model=CHAT, input="Hello")
    assert sdk.responses.input_tokens.count(model=REMOTE, input="Hello") == own
    body = {"model": CHAT, "messages": [{"role": "user", "content": "Hello"}]}
    direct = peer.http.post("/v1/chat/completions/input_tokens", json=body).json()
    assert direct["input_tokens"] == own.input_tokens


def test_schemas_regexes_and_forced_calls_bind_the_peer(
    sdk: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER}}
    assert json.loads(chat(sdk, REMOTE, response_format=form).choices[0].message.content) == {
        "city": "Ulm"
    }
    grammar: Any = {"type": "grammar", "syntax": "regex", "definition": "[ab]{3}c"}
    said = chat(sdk, REMOTE, response_format=grammar).choices[0].message.content
    assert len(said) == 4
    # A name that few servers take.
    tool: Any = {"type": "function", "function": {"name": "the.weather", "parameters": WEATHER}}
    answer = chat(
        sdk, REMOTE, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=60
    )
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "the.weather",
        {"city": "Ulm"},
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "It rains."}
    messages: Any = [*SAY, answer.choices[0].message, result]
    assert chat(sdk, REMOTE, messages=messages, tools=[tool]).choices[0].message.content
    block = claude.messages.create(
        model=REMOTE,
        max_tokens=60,
        messages=SAY,
        tools=[{"name": "weather", "input_schema": WEATHER}],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    )
    assert block.stop_reason == "tool_use"
    used = block.content[-1]
    assert used.type == "tool_use"
    assert used.input == {"city": "Ulm"}


def test_raw_prompts_are_continued_and_scored(client: Client, peer: Client) -> None:
    asked: dict[str, Any] = {"prompt": "One, two,", "echo": True, "logprobs": 1, **GREEDY}
    own = peer.openai().completions.create(model=CHAT, **asked).choices[0]
    remote = client.openai().completions.create(model=REMOTE, **asked).choices[0]
    assert remote.text == own.text
    assert own.logprobs is not None
    assert remote.logprobs is not None
    assert remote.logprobs.tokens == own.logprobs.tokens
    assert remote.logprobs.text_offset == own.logprobs.text_offset


def test_vectors_and_ranks_are_those_of_the_peer(
    sdk: openai.OpenAI, client: Client, peer: Client
) -> None:
    texts = ["The cat sat", "on the mat", "the cat sat on a dog"]
    asked: dict[str, Any] = {"input": texts, "encoding_format": "float"}
    own = peer.openai().embeddings.create(model=EMBEDDING, **asked)
    remote = sdk.embeddings.create(model=f"peer/{EMBEDDING}", **asked)
    assert remote.usage == own.usage
    for here, there in zip(remote.data, own.data, strict=True):
        assert here.embedding == pytest.approx(there.embedding, abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="cannot be cut"):
        sdk.embeddings.create(model=f"peer/{EMBEDDING}", input="x", dimensions=5)
    body = {"model": "made-reranker", "query": "what eats mice", "documents": texts}
    ranked = peer.http.post("/v1/rerank", json=body).json()
    found = client.http.post("/v1/rerank", json=body | {"model": "peer/made-reranker"}).json()
    assert found["results"] == ranked["results"]
    assert found["usage"] == ranked["usage"]


def test_lm_studios_apis(client: Client) -> None:
    body = {"model": REMOTE, "input": "Hello", "max_output_tokens": 5}
    first = client.http.post("/api/v1/chat", json=body).raise_for_status().json()
    assert first["model_instance_id"] == REMOTE
    again = body | {"previous_response_id": first["response_id"]}
    second = client.http.post("/api/v1/chat", json=again).raise_for_status().json()
    assert second["stats"]["input_tokens"] > first["stats"]["input_tokens"]
    refused = client.http.post("/api/v1/chat", json=body | {"context_length": 512})
    assert refused.status_code == 400
    assert "its endpoint loads it" in refused.json()["error"]["message"]
    asked = {"model": REMOTE, "messages": SAY, "max_tokens": 3}
    old = client.http.post("/api/v0/chat/completions", json=asked).json()
    assert old["runtime"]["name"] == "endpoint"
    assert old["usage"]["completion_tokens"] == 3


def test_lists_say_what_is_remote(client: Client, sdk: openai.OpenAI) -> None:
    cards = {card.id: card.model_dump() for card in sdk.models.list()}
    assert cards[REMOTE]["endpoint"] == "peer"
    assert cards[REMOTE]["state"] == "loaded"
    assert cards[REMOTE]["max_input_tokens"]
    assert cards[f"peer/{EMBEDDING}"]["kind"] == "embedding"
    assert sdk.models.retrieve(REMOTE).id == REMOTE
    native = {row["key"]: row for row in client.http.get("/api/v1/models").json()["models"]}
    assert native[REMOTE]["endpoint"] == "peer"
    assert native[REMOTE]["loaded_instances"][0]["id"] == REMOTE
    assert native[f"peer/{EMBEDDING}"]["type"] == "embedding"
    old = {row["id"]: row for row in client.http.get("/api/v0/models").json()["data"]}
    assert old[REMOTE]["type"] == "llm"
    assert old[f"peer/{EMBEDDING}"]["type"] == "embeddings"
    assert client.http.get(f"/api/v0/models/{REMOTE}").json()["publisher"] == "peer"
    assert REMOTE in {row["key"] for row in client.ls()}


def test_a_batch_runs_elsewhere(sdk: openai.OpenAI) -> None:
    body = {"model": REMOTE, "messages": SAY, "max_tokens": 3}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = sdk.files.create(file=("lines.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    wait_for(lambda: sdk.batches.retrieve(batch.id).status == "completed", "the batch")
    done = sdk.batches.retrieve(batch.id)
    assert done.output_file_id is not None
    assert json.loads(sdk.files.content(done.output_file_id).text)["response"]["status_code"] == 200


def test_a_model_of_this_machine_comes_first(peer: Client, client: Client) -> None:
    """The peer has a model of the very name that its own endpoint has."""
    url = client.serve(port=0)["url"]
    peer.connect(url, name="back")
    try:
        before = peer.endpoints()[0]["answered"]
        assert chat(peer.openai(), CHAT).choices
        assert peer.endpoints()[0]["answered"] == before
        # In a circle, each is shown only what is not its own, and asking round it ends.
        keys = {row["key"] for row in peer.ls()}
        assert not {key for key in keys if key.startswith("back/")}
        with pytest.raises(openai.NotFoundError, match="back has no model"):
            chat(peer.openai(max_retries=0), f"back/{REMOTE}")
        passed = client.http.get("/v1/models", headers={"x-lmnb-via": "another"})
        headers = {"x-lmnb-via": f"another,{passed.headers['x-lmnb-server']}"}
        with pytest.raises(openai.InternalServerError, match="has been here before") as caught:
            chat(client.openai(max_retries=0), REMOTE, extra_headers=headers)
        assert caught.value.status_code == 508
    finally:
        peer.disconnect("back")
        client.stop_serving()


def test_cells_ask_remote_models(front: ServerHome, client: Client) -> None:
    with Kernel(front.path) as kernel:
        kernel.run("%load_ext lmnb")
        assert REMOTE in kernel.run("%lm ls").text
        assert "peer" in kernel.run("%lm endpoints").text
        for magic in ("%%claude", "%%openai"):
            kernel.run(f"{magic} -m {REMOTE} --max-tokens 5 -o reply\nHello")
            assert kernel.value("reply.model") == REMOTE
        # What was asked last is asked again, and goes on.
        kernel.run("%%openai --max-tokens 5 -o reply\nAnd?")
        assert kernel.value("reply.model") == REMOTE
        listener = front.attach().endpoints()[0]["url"]
        assert "is connected" in kernel.run(f"%lm connect {listener} --name more").text
        assert "is disconnected" in kernel.run("%lm disconnect more").text


def test_agents_take_a_remote_model_as_it_is(client: Client) -> None:
    choice = targets.choose(client, REMOTE, None)
    assert choice.row is not None
    assert choice.row["id"] == REMOTE
    assert choice.row["context_length"] == chosen_context(client)
    with pytest.raises(NotSupported, match="which only its server can change"):
        targets.choose(client, REMOTE, 100_000)
    with pytest.raises(NotSupported, match="it cannot chat"):
        targets.choose(client, f"peer/{EMBEDDING}", None)


def chosen_context(client: Client) -> int:
    return int(client.http.get(f"/v1/models/{REMOTE}").json()["max_input_tokens"])


# --- other servers ------------------------------------------------------------------------


@contextmanager
def running(command: list[str], path: str) -> Iterator[str]:
    """The address of a server that is started with a free port, and answers at `path`."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        assert process.poll() is None, "The server has ended."
        try:
            return httpx2.get(f"http://127.0.0.1:{port}{path}").status_code == 200
        except httpx2.HTTPError:
            return False

    try:
        wait_for(answers, "the server to start")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def llama_server(chat_model_path: Path) -> Iterator[str]:
    program = os.environ.get("LMNB_TEST_LLAMA_SERVER")
    if not program:
        pytest.skip("LMNB_TEST_LLAMA_SERVER does not name llama.cpp's server")
    model = ["-m", str(chat_model_path), "--alias", "small", "-c", "2048", "--jinja"]
    with running([program, *model, "-np", "1", "-t", "2"], "/health") as url:
        yield url


def test_llama_cpps_server(front: ServerHome, llama_server: str) -> None:
    client = front.attach()
    row = client.connect(llama_server, name="cpp")
    assert (row["server"], row["models"]) == ("llama.cpp", ["small"])
    sdk, claude = client.openai(max_retries=0), client.anthropic(max_retries=0)
    stream = chat(sdk, "cpp/small", stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert last.usage.completion_tokens == 12
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    asked: dict[str, Any] = {"model": "cpp/small", "messages": SAY}
    counted = claude.messages.count_tokens(**asked).input_tokens
    answer = claude.messages.create(max_tokens=5, **asked)
    assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) == counted
    assert answer.usage.cache_read_input_tokens
    scores = chat(sdk, "cpp/small", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(scores) == 12
    assert all(len(score.top_logprobs) == 2 for score in scores)
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER}}
    bound = chat(sdk, "cpp/small", response_format=form, max_tokens=60)
    assert json.loads(bound.choices[0].message.content) == {"city": "Ulm"}
    raw = sdk.completions.create(model="cpp/small", prompt="One, two,", max_tokens=5, logprobs=1)
    assert raw.choices[0].logprobs is not None
    assert raw.usage is not None
    assert raw.usage.completion_tokens == 5
    with pytest.raises(openai.BadRequestError, match=r"has \d+ tokens, but"):
        chat(sdk, "cpp/small", messages=[{"role": "user", "content": "word " * 3000}])
    with pytest.raises(openai.APIStatusError):
        sdk.embeddings.create(model="cpp/small", input="x")
    client.disconnect("cpp")


@pytest.mark.skipif(
    importlib.util.find_spec("starlette_context") is None,
    reason="what llama-cpp-python's server needs is not installed (llama-cpp-python[server])",
)
def test_llama_cpp_pythons_server(front: ServerHome, chat_model_path: Path) -> None:
    client = front.attach()
    options = ["--model", str(chat_model_path), "--model_alias", "small", "--n_ctx", "2048"]
    with running([sys.executable, "-m", "llama_cpp.server", *options], "/v1/models") as url:
        assert client.connect(url, name="py")["models"] == ["small"]
        answer = chat(client.openai(max_retries=0), "py/small")
        assert answer.choices[0].message.content
        said = client.anthropic(max_retries=0).messages.create(
            model="py/small", max_tokens=5, messages=SAY
        )
        assert said.content
        client.disconnect("py")
