"""LM Studio's REST API v1, as its documentation shows it, against the real server and model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from anthropic_synthetic import finished, parse
from server_home import ServerHome

from lmnb.chat.conversation import Message, Request, Text, Thinking
from lmnb.chat.events import Event, Loading, Prompt, TextDelta, ThinkingDelta
from lmnb.client import Client
from lmnb.errors import EngineCrashed
from lmnb.server.database import Database
from lmnb.server.lmstudio.capabilities import of_templates
from lmnb.server.lmstudio.keeping import Keeper
from lmnb.server.lmstudio.stream import ChatStream
from lmnb.server.mcp import loop
from lmnb.server.mcp.loop import ToolLoop
from lmnb.server.mcp.pool import Pool
from lmnb.server.store import ResponseStore

LLM = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"
LONG: Any = {"model": LLM, "input": "What is the capital of France?", "temperature": 0}


@pytest.fixture
def http(client: Client) -> Iterator[httpx2.Client]:
    transport = httpx2.HTTPTransport(uds=client.socket)
    with httpx2.Client(transport=transport, base_url="http://local/api/v1", timeout=60) as found:
        yield found


def chat(http: httpx2.Client, text: Any, **more: Any) -> Any:
    body = {"model": LLM, "input": text, "temperature": 0, "max_output_tokens": 8, **more}
    response = http.post("/chat", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(http: httpx2.Client, path: str = "/chat", status: int = 400, **body: Any) -> Any:
    response = http.post(path, json={"model": LLM, "input": "Hi", **body})
    assert response.status_code == status, response.text
    return response.json()["error"]


# --- chat ---------------------------------------------------------------------------


def test_chat(http: httpx2.Client) -> None:
    answer = chat(http, "Name three colours.")
    assert set(answer) == {"model_instance_id", "output", "stats", "response_id"}
    assert answer["model_instance_id"] == LLM
    [message] = answer["output"]
    assert message["type"] == "message"
    assert message["content"]
    stats = answer["stats"]
    assert stats["input_tokens"] > 8
    assert stats["total_output_tokens"] == 8
    assert stats["reasoning_output_tokens"] == 0
    assert stats["tokens_per_second"] > 0
    assert stats["time_to_first_token_seconds"] > 0
    assert answer["response_id"].startswith("resp_")
    assert len(answer["response_id"]) == 5 + 48


def test_input_as_a_list(http: httpx2.Client) -> None:
    """The documentation's table says `message`, its example `text`."""
    whole = chat(http, "Name three\ncolours.")["stats"]["input_tokens"]
    parts = [{"type": "message", "content": "Name three"}, {"type": "text", "content": "colours."}]
    assert chat(http, parts)["stats"]["input_tokens"] == whole


def test_system_prompt(http: httpx2.Client) -> None:
    with_prompt = chat(http, "Hi", system_prompt="Answer in one word.")
    without = chat(http, "Hi")
    assert with_prompt["stats"]["input_tokens"] != without["stats"]["input_tokens"]


def test_a_chat_is_remembered_and_can_branch(http: httpx2.Client) -> None:
    first = chat(http, "My number is 4711. Remember it.", system_prompt="Be brief.")
    tokens = first["stats"]["input_tokens"]
    second = chat(http, "What is my number?", previous_response_id=first["response_id"])
    assert second["stats"]["input_tokens"] > tokens + 8
    branch = chat(http, "Say something else.", previous_response_id=first["response_id"])
    third = chat(http, "And now?", previous_response_id=second["response_id"])
    assert third["stats"]["input_tokens"] > second["stats"]["input_tokens"] + 8
    assert len({answer["response_id"] for answer in (first, second, branch, third)}) == 4


def test_a_stored_chat_has_the_words_and_the_answers(http: httpx2.Client, client: Client) -> None:
    first = chat(http, "My number is 4711.", system_prompt="One.")
    second = chat(http, "Again.", previous_response_id=first["response_id"], system_prompt="Two.")
    store = ResponseStore(Database(client.home / "lmnb.db"))
    said = [
        (message.role, message.text)
        for message in asyncio.run(store.load(second["response_id"])).messages
    ]
    answers = [answer["output"][0]["content"] for answer in (first, second)]
    assert said == [
        ("system", "Two."),
        ("user", "My number is 4711."),
        ("assistant", answers[0]),
        ("user", "Again."),
        ("assistant", answers[1]),
    ]


def test_not_stored(http: httpx2.Client) -> None:
    assert "response_id" not in chat(http, "Hi", store=False)


def test_stop_and_seed(http: httpx2.Client) -> None:
    answer = chat(http, "Count from one to ten in digits.", stop="3", max_output_tokens=60)
    assert "3" not in answer["output"][0]["content"]
    hot = {"temperature": 1.5, "seed": 5}
    assert chat(http, "Hi", **hot)["output"] == chat(http, "Hi", **hot)["output"]


def test_stream(http: httpx2.Client) -> None:
    body = {"model": LLM, "input": "Name three colours.", "temperature": 0, "max_output_tokens": 8}
    plain = chat(http, "Name three colours.")
    response = http.post("/chat", json={**body, "stream": True})
    events = parse(response.content)
    assert all(name == data["type"] for name, data in events)
    names = [name for name, _ in events]
    assert names[0] == "chat.start"
    assert names[-1] == "chat.end"
    assert [name for name in names if not name.endswith(("progress", "delta"))] == [
        "chat.start",
        "prompt_processing.start",
        "prompt_processing.end",
        "message.start",
        "message.end",
        "chat.end",
    ]
    result = events[-1][1]["result"]
    said = "".join(data["content"] for name, data in events if name == "message.delta")
    assert result["output"] == plain["output"] == [{"type": "message", "content": said}]
    assert set(result) == set(plain)
    assert events[0][1]["model_instance_id"] == LLM
    follow_up = chat(http, "More.", previous_response_id=result["response_id"])
    assert follow_up["stats"]["input_tokens"] > result["stats"]["input_tokens"]


def test_leaving_a_stream_ends_the_generation(http: httpx2.Client, client: Client) -> None:
    with http.stream("POST", "/chat", json={**LONG, "stream": True}) as response:
        chunks = response.iter_bytes()
        next(chunks)
        assert any(row["active"] for row in client.ps())
    deadline = time.monotonic() + 20
    while any(row["active"] for row in client.ps()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param", "kind"),
    [
        ({"input": []}, "input", "invalid_request"),
        ({"input": 5}, "input", "invalid_request"),
        (
            {"input": [{"type": "image", "data_url": "http://x"}]},
            "input[0].data_url",
            "not_implemented",
        ),
        (
            {"input": [{"type": "image", "data_url": "data:,"}]},
            "input[0].data_url",
            "invalid_request",
        ),
        ({"input": [{"type": "sound"}]}, "input[0].type", "invalid_request"),
        ({"reasoning": "high"}, "reasoning", "invalid_request"),
        ({"reasoning": "maybe"}, "reasoning", "invalid_request"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_request"),
        ({"context_length": 0}, "context_length", "invalid_request"),
        ({"top_p": 3}, "top_p", "invalid_request"),
        ({"temperature": "hot"}, "temperature", "invalid_request"),
        ({"previous_response_id": "chat_1"}, "previous_response_id", "invalid_request"),
    ],
)
def test_mistakes_name_their_field(http: httpx2.Client, body: Any, param: str, kind: str) -> None:
    error = refused(http, **body)
    assert error["type"] == kind
    assert error["param"] == param
    assert error["message"]


def test_required_fields(http: httpx2.Client) -> None:
    error = http.post("/chat", json={"input": "Hi"}).json()["error"]
    assert error == {
        "type": "invalid_request",
        "message": "'model' is required.",
        "code": "missing_required_parameter",
        "param": "model",
    }


def test_another_protocols_field_is_pointed_out(http: httpx2.Client) -> None:
    error = refused(http, messages=[])
    assert error["code"] == "unrecognized_keys"
    assert error["param"] == "messages"
    assert "'input'" in error["message"]


def test_unknown_model_chat_and_path(http: httpx2.Client) -> None:
    for stream in (False, True):
        error = refused(http, status=404, model="nobody/nothing", stream=stream)
        assert error["type"] == "model_not_found"
        assert "nobody/nothing" in error["message"]
    error = refused(http, status=404, previous_response_id="resp_0")
    assert error["param"] == "previous_response_id"
    missing = http.post("/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "invalid_request"
    assert http.get("/chat").status_code == 405


def test_an_embedding_model_cannot_chat(http: httpx2.Client) -> None:
    assert "embedding model" in refused(http, model=EMBEDDER)["message"]


def test_a_prompt_that_is_too_long(http: httpx2.Client) -> None:
    error = refused(http, input="word " * 9000)
    assert error["code"] == "context_length_exceeded"
    body = {"model": LLM, "input": "word " * 9000, "stream": True}
    assert http.post("/chat", json=body).status_code == 400


# --- models -------------------------------------------------------------------------


def models(http: httpx2.Client) -> dict[str, Any]:
    return {row["key"]: row for row in http.get("/models").json()["models"]}


def test_list(http: httpx2.Client) -> None:
    chat(http, "Hi")
    rows = models(http)
    llm, embedder = rows[LLM], rows[EMBEDDER]
    assert set(llm) == {
        "type", "publisher", "key", "display_name", "architecture", "quantization", "size_bytes",
        "params_string", "loaded_instances", "max_context_length", "format", "capabilities",
        "description",
    }  # fmt: skip
    assert llm["type"] == "llm"
    assert llm["architecture"] == "llama"
    assert llm["quantization"]["name"] == "Q4_1"
    assert 4 < llm["quantization"]["bits_per_weight"] < 8
    assert llm["params_string"] == "135M"
    assert llm["max_context_length"] == 8192
    assert llm["format"] == "gguf"
    assert llm["capabilities"] == {"vision": False, "trained_for_tool_use": False}
    [instance] = [one for one in llm["loaded_instances"] if one["id"] == LLM]
    assert instance["config"]["context_length"] == 8192
    assert instance["config"]["parallel"] == 4
    assert isinstance(instance["config"]["offload_kv_cache_to_gpu"], bool)
    assert embedder["type"] == "embedding"
    assert not {"architecture", "capabilities", "description"} & set(embedder)


def test_load_and_unload(http: httpx2.Client) -> None:
    wanted = {"model": EMBEDDER, "context_length": 256, "identifier": "mine"}
    response = http.post("/models/load", json={**wanted, "echo_load_config": True})
    answer = response.json()
    assert answer == {
        "type": "embedding",
        "instance_id": "mine",
        "load_time_seconds": answer["load_time_seconds"],
        "status": "loaded",
        "load_config": {"context_length": 256},
    }
    assert answer["load_time_seconds"] > 0
    [instance] = [one for one in models(http)[EMBEDDER]["loaded_instances"] if one["id"] == "mine"]
    assert instance["config"] == {"context_length": 256}
    assert http.post("/models/unload", json={"instance_id": "mine"}).json() == {
        "instance_id": "mine"
    }
    again = http.post("/models/unload", json={"instance_id": "mine"})
    assert again.status_code == 404
    assert again.json()["error"]["type"] == "model_not_found"


def test_load_echoes_the_final_configuration(http: httpx2.Client) -> None:
    wanted = {"model": LLM, "context_length": 512, "identifier": "small", "ttl": 600}
    answer = http.post("/models/load", json={**wanted, "echo_load_config": True}).json()
    try:
        config = answer["load_config"]
        assert config["context_length"] == 512
        assert config["eval_batch_size"] > 0
        assert isinstance(config["offload_kv_cache_to_gpu"], bool)
        short = chat(http, "Hi", model="small")
        assert short["model_instance_id"] == "small"
        too_long = refused(http, model="small", input="word " * 600)
        assert too_long["code"] == "context_length_exceeded"
    finally:
        http.post("/models/unload", json={"instance_id": "small"})


def test_load_mistakes(http: httpx2.Client) -> None:
    def load(**body: Any) -> Any:
        response = http.post("/models/load", json=body)
        assert response.status_code in {400, 404}
        return response.json()["error"]

    assert load(model="nobody/nothing")["type"] == "model_not_found"
    assert load()["code"] == "missing_required_parameter"
    assert load(model=LLM, n_ctx=5)["message"].endswith("Here it is called 'context_length'.")
    assert load(model=LLM, context_length="big")["param"] == "context_length"
    assert load(model=LLM, ttl=-1)["param"] == "ttl"


def test_a_request_that_loads_tells_so(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    transport = httpx2.HTTPTransport(uds=client.socket)
    with httpx2.Client(transport=transport, base_url="http://local/api/v1", timeout=60) as http:
        body = {"model": LLM, "input": "Hi", "max_output_tokens": 2, "context_length": 600}
        events = parse(http.post("/chat", json={**body, "stream": True}).content)
        names = [name for name, _ in events if not name.endswith("delta")]
        names = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
        assert names[:7] == [
            "chat.start",
            "model_load.start",
            "model_load.progress",
            "model_load.end",
            "prompt_processing.start",
            "prompt_processing.progress",
            "prompt_processing.end",
        ]
        [end] = [data for name, data in events if name == "model_load.end"]
        assert end["load_time_seconds"] > 0
        stats = events[-1][1]["result"]["stats"]
        assert stats["model_load_time_seconds"] == pytest.approx(end["load_time_seconds"])
        [instance] = models(http)[LLM]["loaded_instances"]
        assert instance["config"]["context_length"] >= 600
        assert "model_load_time_seconds" not in chat(http, "Hi")["stats"]


def test_a_crash_in_mid_answer(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    transport = httpx2.HTTPTransport(uds=client.socket)
    with httpx2.Client(transport=transport, base_url="http://local/api/v1", timeout=60) as http:
        body = b""
        with http.stream("POST", "/chat", json={**LONG, "stream": True}) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if b"message.delta" in body and (workers := fresh_home.workers()):
                    workers[0].kill()
        events = parse(body)
        assert [name for name, _ in events[-3:]] == ["message.end", "error", "chat.end"]
        assert events[-2][1]["error"]["type"] == "internal_error"
        result = events[-1][1]["result"]
        assert result["output"][0]["content"]
        assert "response_id" not in result
        assert chat(http, "Hi")["output"]


# --- events that the small model does not bring about ---------------------------------


async def _each(events: Iterable[Event]) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event


def _writer(path: Path) -> tuple[ChatStream, ToolLoop, ResponseStore]:
    store = ResponseStore(Database(path / "x.db"))
    said = (Message("user", (Text("Hi"),)),)
    state: Any = SimpleNamespace(mcp=Pool(), settings=SimpleNamespace(mcp_timeout=1))
    tools = ToolLoop(state, Request(model="m", messages=said))
    return ChatStream("m", Keeper(store, said, previous=None, active=True), tools), tools, store


def test_reasoning_in_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = [
        Loading("m", 0.0),
        Loading("m", 0.5),
        Loading("m:2", 1.0, 1.25),
        Prompt(4, 10, 4),
        Prompt(10, 10, 4),
        ThinkingDelta("h"),
        ThinkingDelta("m"),
        TextDelta("Y"),
        TextDelta("es"),
        finished(),
    ]

    async def run() -> list[tuple[str, Any]]:
        writer, tools, store = _writer(tmp_path)
        monkeypatch.setattr(loop, "generate", lambda _state, _request: _each(events))
        body = b"".join([data async for data in writer.frames(tools.events())])
        sent = parse(body)
        stored = await store.load(sent[-1][1]["result"]["response_id"])
        assert stored.messages[-1] == Message("assistant", (Thinking("hm"), Text("Yes")))
        return sent

    sent = asyncio.run(run())
    assert [(n, d.get("content", d.get("progress"))) for n, d in sent] == [
        ("chat.start", None),
        ("model_load.start", None),
        ("model_load.progress", 0.0),
        ("model_load.progress", 0.5),
        ("model_load.end", None),
        ("prompt_processing.start", None),
        ("prompt_processing.progress", 0.4),
        ("prompt_processing.progress", 1.0),
        ("prompt_processing.end", None),
        ("reasoning.start", None),
        ("reasoning.delta", "h"),
        ("reasoning.delta", "m"),
        ("reasoning.end", None),
        ("message.start", None),
        ("message.delta", "Y"),
        ("message.delta", "es"),
        ("message.end", None),
        ("chat.end", None),
    ]
    assert sent[4][1] == {
        "type": "model_load.end",
        "model_instance_id": "m:2",
        "load_time_seconds": 1.25,
    }
    assert sent[-1][1]["result"]["output"] == [
        {"type": "reasoning", "content": "hm"},
        {"type": "message", "content": "Yes"},
    ]


def test_an_error_ends_with_what_there_is(tmp_path: Path) -> None:
    writer, _, _ = _writer(tmp_path)
    body = writer.feed(Prompt(10, 10, 0)) + writer.feed(TextDelta("Ye"))
    events = parse(body + writer.error(EngineCrashed("It crashed.")))
    assert [name for name, _ in events[-3:]] == ["message.end", "error", "chat.end"]
    assert events[-2][1]["error"] == {
        "type": "internal_error",
        "message": "It crashed.",
        "code": "engine_crashed",
    }
    result = events[-1][1]["result"]
    assert result["output"] == [{"type": "message", "content": "Ye"}]
    assert result["stats"]["input_tokens"] == 10


@pytest.mark.parametrize(
    ("template", "tools", "options"),
    [
        ("{{ messages }}", False, None),
        ("{% if tools %}{% endif %}{% if enable_thinking %}{% endif %}", True, ("off", "on")),
        ("{{ reasoning_effort }}", False, ("low", "medium", "high")),
        ("<think>", False, ("on",)),
        (
            "{% if not thinking is defined %}{% set thinking = false %}{% endif %}",
            False,
            ("off", "on"),
        ),
        (
            "{%- set reasoning = reasoning if reasoning is defined else true -%}",
            False,
            ("off", "on"),
        ),
        ("{{ '' if not thinking else '<think>' }}", False, ("off", "on")),
        (
            "{{ m.thinking }}{{ m['reasoning'] }}{{ f(thinking=1) }} thinking {# thinking #}",
            False,
            None,
        ),
        ("{% set thinking = m.thinking %}{% if thinking %}{% endif %}", False, None),
        ("{% for thinking in m %}{{ thinking }}{% endfor %}", False, None),
        ("{% if thinking %}{{ 'unclosed", False, None),
    ],
)
def test_capabilities(template: str, tools: bool, options: tuple[str, ...] | None) -> None:
    found = of_templates({"default": template})
    assert found.trained_for_tool_use == tools
    assert (found.reasoning and found.reasoning.allowed_options) == options
    assert of_templates({"default": "", "tool_use": ""}).trained_for_tool_use


def test_families_with_other_switches_think_if_told_to() -> None:
    for template, default in (("enable_thinking", "on"), ("thinking", "off"), ("reasoning", "off")):
        found = of_templates({"default": f"{{{{ {template} }}}}"}).reasoning
        assert found
        assert found.default == default


# --- v0 -------------------------------------------------------------------------------


def test_v0_models(client: Client) -> None:
    """The documented fields; Zed refuses other values of the enumerations."""
    client.unload(all=True)
    list(client.load(LLM, context_length=1024))
    listed = client.http.get("/api/v0/models").json()
    assert listed["object"] == "list"
    rows = {row["id"]: row for row in listed["data"]}
    assert rows[LLM] == {
        "id": LLM,
        "object": "model",
        "type": "llm",
        "publisher": rows[LLM]["publisher"],
        "arch": "llama",
        "compatibility_type": "gguf",
        "quantization": "Q4_1",
        "state": "loaded",
        "max_context_length": 8192,
        "loaded_context_length": 1024,
    }
    embedder = rows[EMBEDDER]
    assert (embedder["type"], embedder["state"]) == ("embeddings", "not-loaded")
    assert "loaded_context_length" not in embedder
    assert client.http.get(f"/api/v0/models/{EMBEDDER}").json() == embedder
    client.unload(all=True)  # Its context is too short for others.
    missing = client.http.get("/api/v0/models/no/such")
    assert missing.status_code == 404
    assert missing.json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("completions", {"prompt": "The meaning of life is"}),
    ],
)
def test_v0_answers_tell_of_the_model(client: Client, path: str, said: Any) -> None:
    body = {"model": LLM, "max_tokens": 4, **said}
    answer = client.http.post(f"/api/v0/{path}", json=body, timeout=60).json()
    instance = next(row for row in client.ps() if row["model"] == LLM)
    assert answer["model_info"] == {
        "arch": "llama",
        "quant": "Q4_1",
        "format": "gguf",
        "context_length": instance["context_length"],
    }
    assert set(answer["runtime"]) == {"name", "version", "supported_formats"}
    stats = answer["stats"]
    assert stats["stop_reason"] == "maxPredictedTokensReached"
    assert {"tokens_per_second", "time_to_first_token", "generation_time"} <= set(stats)
    with client.http.stream("POST", f"/api/v0/{path}", json={**body, "stream": True}) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    wrong = client.http.post(f"/api/v0/{path}", json={**body, "model": "none"})
    assert wrong.status_code == 404


def test_v0_embeddings(client: Client) -> None:
    body = {"model": EMBEDDER, "input": "Some text to embed"}
    answer = client.http.post("/api/v0/embeddings", json=body, timeout=60).json()
    assert len(answer["data"][0]["embedding"]) == 384
    assert answer["usage"]["prompt_tokens"] > 0
