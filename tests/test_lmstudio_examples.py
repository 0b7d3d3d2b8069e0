"""LM Studio's documentation, replayed: its examples, sent with curl, get what it promises.

The requests are those of its pages, with names of models, servers and addresses that are here. Those
to LM Studio's own API come with a token, as there; those to the other endpoints without.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmstudio_examples as shapes
import made_models
import mcp_server
import pytest
from anthropic_synthetic import parse
from fake_hub import FakeHub, Repository
from gguf_bytes import small_model
from made_models.projector import projector
from made_models.scripted import Answer, scripted
from pictures import picture
from server_home import CHAT, EMBEDDING, ServerHome, link_models, wait_for
from shapes import MORE, Shape, differences

from lmnb.client import Client
from lmnb.engine.options import Segment

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

Json = Any
CALLER, SPEAKER, SEER = "caller", "speaker", "seer"
TEMPLATE = (Path(__file__).parent / "templates" / "json_in_tags.jinja").read_text()
CONTROLS = ("<|system|>", "<|user|>", "<|bot|>", "<|tool|>", "<|tools|>", "<call>", "</call>")
REPOSITORY = "maker/Nice-Model-GGUF"
MODEL_FILE = small_model(1, kilobytes=3000, file_type=15)
HAIKU = "Write a short haiku about sunrise."
WEATHER: Json = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Such as Ulm"}},
    "required": ["city"],
}


@dataclass
class Studio:
    """A server with every kind of model, and what the examples reach besides it."""

    client: Client
    url: str
    token: str
    hub: FakeHub
    remote: str

    def curl(self, path: str, body: Json = None, *, status: int = 200, token: bool = True) -> str:
        """What curl prints for a request: with the token over TCP, else over the private socket."""
        command = ["curl", "-sS", "-w", "%{stderr}%{http_code}"]
        if token:
            command += [self.url + path, "-H", f"Authorization: Bearer {self.token}"]
        else:
            command += ["--unix-socket", self.client.socket, f"http://localhost{path}"]
        if body is not None:
            command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert done.stderr == str(status), done.stdout
        return done.stdout

    def ask(self, path: str, body: Json = None, *, status: int = 200, token: bool = True) -> Json:
        return json.loads(self.curl(path, body, status=status, token=token))


def check(value: Json, shape: Shape) -> Json:
    assert differences(value, shape) == []
    return value


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.repositories[REPOSITORY] = Repository({"Nice-Model-Q4_K_M.gguf": MODEL_FILE})
        yield hub


@pytest.fixture(scope="module")
def remote() -> Iterator[str]:
    command = [sys.executable, mcp_server.__file__, "http"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory,
    models_cache: Path,
    home: Path,
    hub: FakeHub,
    remote: str,
) -> Iterator[Studio]:
    del home  # whose environment keeps the machine's own models out
    folder = tmp_path_factory.mktemp("studio")
    server = ServerHome(folder / "home")
    link_models(models_cache, server.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMNB_HOME", str(server.path))
        patch.setenv("HF_ENDPOINT", hub.url)
        client = server.attach()
    local = {"command": sys.executable, "args": [mcp_server.__file__]}
    (server.path / "mcp.json").write_text(json.dumps({"mcpServers": {"files": local}}))
    for name in ("allow_request_mcp", "allow_configured_mcp"):
        client.change_setting(name, "on")
    client.change_setting("auto_evict", "off")
    list(client.load(str(_caller(folder)), identifier=CALLER, context_length=1 << 16))
    list(client.load(str(_speaker(folder)), identifier=SPEAKER, context_length=1 << 14))
    seeing = folder / "seeing"
    seeing.mkdir()
    projector(seeing / "mmproj-base.gguf")
    list(client.load(str(made_models.llama(seeing / "base.gguf")), identifier=SEER))
    permissions = ["inference", "models", "downloads", "mcp"]
    token = client.create_token("examples", permissions)["token"]
    url = client.serve(port=0, require_auth=True)["url"]
    yield Studio(client, url, token, hub, remote)
    server.close()
    server.wait_until_empty()


def _caller(folder: Path) -> Path:
    """Thinks, asks for the weather in Ulm, and answers when it has a result."""
    begin = '<call>\n{"name": "weather", "arguments": {"city": "'
    call = [
        Segment("<think>\nWhere?\n</think>\n\n", special=True),
        Segment(begin, special=True),
        Segment("Ulm"),
        Segment('"}}\n</call>', special=True),
    ]
    said = Answer([Segment("Now I know.", special=True)], mcp_server.SEEN)
    return scripted(
        folder / "caller.gguf",
        [Answer(call), said],
        template=TEMPLATE,
        controls=CONTROLS,
        end="<|end|>",
        seed=None,
        context=1 << 17,
    )


def _speaker(folder: Path) -> Path:
    """Thinks and speaks, whatever it is asked."""
    return scripted(
        folder / "speaker.gguf",
        [Answer("<think>\nLet me see.\n</think>\n\nBlue. It is a fine colour.")],
        template=TEMPLATE,
        controls=CONTROLS,
        end="<|end|>",
        context=1 << 16,
    )


def test_shapes_tell_what_is_wrong() -> None:
    """What all of these tests stand on."""
    shape = {"a": int, "b?": [str], "c": {"x", None}}
    assert differences({"a": 1, "c": None}, shape) == []
    assert differences({"a": True, "b": [], "d": 1}, shape) == [
        "$ has d",
        "$.a is True, not <class 'int'>",
        "$.b is empty",
        "$ has no c",
    ]
    assert differences({"a": 1, "more": 2}, {"a": float, **MORE}) == []


# --- chat ---------------------------------------------------------------------

EPHEMERAL: Json = {"type": "ephemeral_mcp", "server_label": "far", "allowed_tools": ["weather"]}
PLUGIN: Json = {"type": "plugin", "id": "mcp/files", "allowed_tools": ["weather"]}
SAID, THOUGHT, CALLED = shapes.MESSAGE, shapes.REASONING, shapes.TOOL_CALL
IMAGE = "data:image/png;base64," + base64.b64encode(picture(1)).decode()
LOOK: Json = [
    {"type": "text", "content": "Describe this image in two sentences"},
    {"type": "image", "data_url": IMAGE},
]
CHATS: dict[str, tuple[Json, Shape]] = {
    "quickstart": ({"model": SPEAKER, "input": HAIKU}, shapes.chat(SAID, THOUGHT)),
    "stateless": (
        {"model": SPEAKER, "input": "Tell me a joke.", "store": False},
        shapes.chat(SAID, THOUGHT, stored=False),
    ),
    "images": (
        {"model": SEER, "input": LOOK, "temperature": 0, "max_output_tokens": 8},
        shapes.chat(SAID),
    ),
    "image as a message": (
        {"model": SEER, "input": [{**LOOK[0], "type": "message"}, LOOK[1]], "max_output_tokens": 8},
        shapes.chat(SAID),
    ),
    "ephemeral MCP": (
        {"model": CALLER, "input": "Is it raining?", "integrations": [EPHEMERAL]},
        shapes.chat(SAID, THOUGHT, CALLED),
    ),
    "mcp.json": (
        {"model": CALLER, "input": "Is it raining?", "integrations": [PLUGIN]},
        shapes.chat(SAID, THOUGHT, CALLED),
    ),
    "mcp.json, in short": (
        {"model": CALLER, "input": "Is it raining?", "integrations": ["mcp/files"]},
        shapes.chat(SAID, THOUGHT, CALLED),
    ),
    "both": (
        {
            "model": CALLER,
            "input": "Is it raining?",
            "integrations": [EPHEMERAL, {**PLUGIN, "allowed_tools": ["visits"]}],
            "context_length": 8000,
            "temperature": 0,
        },
        shapes.chat(SAID, THOUGHT, CALLED),
    ),
}


def reachable(body: Json, studio: Studio) -> Json:
    """With the address of the remote server, which is known only now."""
    integrations = [
        {**one, "server_url": studio.remote} if one == EPHEMERAL else one
        for one in body.get("integrations", ())
    ]
    return {**body, "integrations": integrations} if integrations else body


@pytest.mark.parametrize("name", CHATS)
def test_chat(studio: Studio, name: str) -> None:
    body, shape = CHATS[name]
    answer = check(studio.ask("/api/v1/chat", reachable(body, studio)), shape)
    assert answer["model_instance_id"] == body["model"]
    kinds = [item["type"] for item in answer["output"]]
    if body["model"] == CALLER:
        assert kinds == ["reasoning", "tool_call", "message"]
    assert kinds[-1] == "message"


def test_stateful_chats(studio: Studio) -> None:
    first: Json = {"model": SPEAKER, "input": "My favorite color is blue."}
    answer = studio.ask("/api/v1/chat", first)
    more = {
        "input": "What color did I just mention?",
        "previous_response_id": answer["response_id"],
    }
    after = check(studio.ask("/api/v1/chat", first | more), shapes.chat(SAID, THOUGHT))
    assert after["response_id"] != answer["response_id"]
    assert after["stats"]["input_tokens"] > answer["stats"]["input_tokens"]


PROCESSING = ["prompt_processing.start", "prompt_processing.progress", "prompt_processing.end"]
THINKING = ["reasoning.start", "reasoning.delta", "reasoning.end"]
SPEAKING = ["message.start", "message.delta", "message.end"]
LOADING = ["model_load.start", "model_load.progress", "model_load.end"]
STREAMS: dict[str, tuple[Json, list[str]]] = {
    "reasoning": (
        {"model": SPEAKER, "input": HAIKU},
        ["chat.start", *PROCESSING, *THINKING, *SPEAKING, "chat.end"],
    ),
    "tools": (
        {"model": CALLER, "input": "Is it raining?", "integrations": [EPHEMERAL]},
        [
            "chat.start",
            *PROCESSING,
            *THINKING,
            "tool_call.start",
            "tool_call.arguments",
            "tool_call.success",
            *PROCESSING,
            *SPEAKING,
            "chat.end",
        ],
    ),
    "a call that is cut": (
        {"model": CALLER, "input": "Is it?", "integrations": [PLUGIN], "max_output_tokens": 6},
        [
            "chat.start",
            *PROCESSING,
            *THINKING,
            "tool_call.start",
            "tool_call.arguments",
            "tool_call.failure",
            "chat.end",
        ],
    ),
    "load": (
        {"model": CHAT, "input": "Hi", "max_output_tokens": 3, "context_length": 600},
        ["chat.start", *LOADING, *PROCESSING, *SPEAKING, "chat.end"],
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streaming_events(studio: Studio, name: str) -> None:
    body, expected = STREAMS[name]
    text = studio.curl("/api/v1/chat", reachable({**body, "stream": True}, studio))
    events = parse(text.encode())
    for event, data in events:
        check(data, {"type": event, **shapes.EVENTS[event]} | _result(event, body))
    names = [event for event, _ in events]
    assert [one for n, one in enumerate(names) if n == 0 or names[n - 1] != one] == expected
    if name == "load":
        studio.ask("/api/v1/models/unload", {"instance_id": CHAT})


def _result(event: str, body: Json) -> Shape:
    """The result of a call that was cut has it among its items."""
    if event != "chat.end" or body.get("max_output_tokens") != 6:
        return {}
    failed = {"type": "invalid_tool_call", "reason": str, "metadata": shapes.FAILURE}
    return {"result": shapes.chat(SAID, THOUGHT, failed)}


def test_errors(studio: Studio) -> None:
    """Also of streams, as long as nothing of them has been sent."""
    missing = studio.ask("/api/v1/chat", {"input": "Hi", "stream": True}, status=400)
    error = check(missing, shapes.ERROR)["error"]
    assert error["type"] == "invalid_request"
    assert (error["code"], error["param"]) == ("missing_required_parameter", "model")
    unknown = studio.ask("/api/v1/chat", {"model": "none", "input": "Hi"}, status=404)
    assert check(unknown, shapes.ERROR)["error"]["type"] == "model_not_found"
    reasoning = {"model": CHAT, "input": "Hi", "reasoning": "high"}
    check(studio.ask("/api/v1/chat", reasoning, status=400), shapes.ERROR)
    closed = {**EPHEMERAL, "server_url": "http://127.0.0.1:9/mcp"}
    body = {"model": CALLER, "input": "Hi", "integrations": [closed]}
    refused = studio.ask("/api/v1/chat", body, status=424)
    error = check(refused, shapes.ERROR)["error"]
    assert error["type"] == "mcp_connection_error"


# --- models -------------------------------------------------------------------


def test_models(studio: Studio) -> None:
    found = check(studio.ask("/api/v1/models"), shapes.MODELS)["models"]
    assert {"llm", "embedding"} <= {row["type"] for row in found}


@pytest.mark.parametrize(
    ("body", "config"),
    [
        (
            {"model": CHAT, "context_length": 512, "flash_attention": True},
            shapes.LLM_CONFIG,
        ),
        ({"model": EMBEDDING, "context_length": 256}, {"context_length": int}),
    ],
)
def test_load_and_unload(studio: Studio, body: Json, config: Shape) -> None:
    answer = studio.ask("/api/v1/models/load", {**body, "echo_load_config": True})
    check(answer, shapes.LOADED | {"load_config": config})
    assert answer["load_config"].items() >= {k: v for k, v in body.items() if k != "model"}.items()
    check(studio.ask("/api/v1/models"), shapes.MODELS)
    unload = {"instance_id": answer["instance_id"]}
    assert check(studio.ask("/api/v1/models/unload", unload), shapes.UNLOADED) == unload
    plain = check(studio.ask("/api/v1/models/load", body), shapes.LOADED)
    studio.ask("/api/v1/models/unload", {"instance_id": plain["instance_id"]})


def test_download(studio: Studio) -> None:
    """Through every status, by the address of a page of the Hub and a quantization."""
    body = {"model": f"{studio.hub.url}/{REPOSITORY}", "quantization": "Q4_K_M"}
    studio.hub.release.clear()
    job = check(studio.ask("/api/v1/models/download", body), shapes.DOWNLOAD)["job_id"]
    path = f"/api/v1/models/download/status/{job}"
    assert studio.hub.started.wait(60)
    check(studio.ask(path), shapes.DOWNLOADING)
    studio.client.change_download(job, "pause")
    check(studio.ask(path), shapes.PAUSED)
    studio.hub.release.set()
    studio.client.change_download(job, "resume")
    wait_for(lambda: studio.ask(path)["status"] == "completed", "the download")
    check(studio.ask(path), shapes.COMPLETED)
    check(studio.ask("/api/v1/models/download", body), shapes.ALREADY)
    unknown = studio.ask("/api/v1/models/download/status/job_none", status=404)
    assert check(unknown, shapes.ERROR)["error"]["type"] == "job_not_found"


# --- v0 -----------------------------------------------------------------------

RHYMES: Json = [
    {"role": "system", "content": "Always answer in rhymes."},
    {"role": "user", "content": "Introduce yourself."},
]
PLAIN: dict[str, tuple[str, Json, Shape]] = {
    "models": ("/api/v0/models", None, shapes.V0_MODELS),
    "model": (f"/api/v0/models/{CHAT}", None, shapes.V0_MODEL),
    "chat": (
        "/api/v0/chat/completions",
        {
            "model": SPEAKER,
            "messages": RHYMES,
            "temperature": 0.7,
            "max_tokens": -1,
            "stream": False,
        },
        shapes.V0_CHAT,
    ),
    "chat with ttl": (
        "/api/v0/chat/completions",
        {"model": CHAT, "ttl": 300, "messages": RHYMES, "max_tokens": 5},
        shapes.V0_CHAT,
    ),
    "completion": (
        "/api/v0/completions",
        {
            "model": CHAT,
            "prompt": "the meaning of life is",
            "temperature": 0.7,
            "max_tokens": 10,
            "stream": False,
            "stop": "\n",
        },
        shapes.V0_COMPLETION,
    ),
    "embeddings": (
        "/api/v0/embeddings",
        {"model": EMBEDDING, "input": "Some text to embed"},
        shapes.EMBEDDINGS,
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_v0(studio: Studio, name: str) -> None:
    path, body, shape = PLAIN[name]
    check(studio.ask(path, body), shape)


# --- OpenAI and Anthropic -----------------------------------------------------

JOKE: Json = {
    "type": "json_schema",
    "json_schema": {
        "name": "joke_response",
        # Text, in that documentation.
        "strict": "true",
        "schema": {
            "type": "object",
            "properties": {"joke": {"type": "string"}},
            "required": ["joke"],
        },
    },
}
FUNCTION: Json = {"name": "weather", "description": "The weather", "parameters": WEATHER}
TOOL: Json = {"name": "weather", "description": "The weather", "input_schema": WEATHER}
ASK: Json = [{"role": "user", "content": "What is the weather like in Ulm?"}]
COMPATIBLE: dict[str, tuple[str, Json, Shape]] = {
    "models": ("/v1/models", None, shapes.OPENAI_MODELS),
    "test": (
        "/v1/chat/completions",
        {
            "model": SPEAKER,
            "messages": [{"role": "user", "content": "Say this is a test!"}],
            "temperature": 0.7,
        },
        shapes.CHAT_COMPLETION,
    ),
    "chat": (
        "/v1/chat/completions",
        {"model": SPEAKER, "messages": RHYMES, "temperature": 0.7},
        shapes.CHAT_COMPLETION,
    ),
    "structured output": (
        "/v1/chat/completions",
        {
            "model": CHAT,
            "messages": [{"role": "user", "content": "Tell me a joke."}],
            "response_format": JOKE,
            "temperature": 0.7,
            "max_tokens": 50,
            "stream": False,
        },
        shapes.CHAT_COMPLETION,
    ),
    "tools": (
        "/v1/chat/completions",
        {"model": CALLER, "messages": ASK, "tools": [{"type": "function", "function": FUNCTION}]},
        shapes.CHAT_CALLS,
    ),
    "tools, at once": (
        "/v1/messages",
        {
            "model": CALLER,
            "max_tokens": 1024,
            "tools": [TOOL],
            "tool_choice": {"type": "any"},
            "messages": ASK,
        },
        shapes.ANTHROPIC_CALL,
    ),
    "completion": (
        "/v1/completions",
        {"model": CHAT, "prompt": "the meaning of life is", "max_tokens": 5},
        {
            key: shapes.V0_COMPLETION[key]
            for key in shapes.V0_COMPLETION
            if key not in shapes.V0_ADDED
        },
    ),
    "embeddings": (
        "/v1/embeddings",
        {"model": EMBEDDING, "input": ["Once upon a time, there was a cat."]},
        shapes.EMBEDDINGS,
    ),
    "response": (
        "/v1/responses",
        {
            "model": SPEAKER,
            "input": "Provide a prime number less than 50",
            "reasoning": {"effort": "low"},
        },
        shapes.RESPONSE,
    ),
    "message": (
        "/v1/messages",
        {
            "model": SPEAKER,
            "max_tokens": 256,
            "messages": [{"role": "user", "content": "Say hello from LM Studio."}],
        },
        shapes.ANTHROPIC_MESSAGE,
    ),
}


@pytest.mark.parametrize("name", COMPATIBLE)
def test_compatible(studio: Studio, name: str) -> None:
    path, body, shape = COMPATIBLE[name]
    check(studio.ask(path, body, token=False), shape)


def test_structured_output_is_json(studio: Studio) -> None:
    path, body, _ = COMPATIBLE["structured output"]
    body = {**body, "max_tokens": 200}
    [choice] = studio.ask(path, body, token=False)["choices"]
    if choice["finish_reason"] == "stop":
        check(json.loads(choice["message"]["content"]), {"joke": str, **MORE})


def test_responses_go_on(studio: Studio) -> None:
    path, body, shape = COMPATIBLE["response"]
    first = studio.ask(path, body, token=False)
    more = {"model": SPEAKER, "input": "Multiply it by 2", "previous_response_id": first["id"]}
    after = check(studio.ask(path, more, token=False), shape)
    assert after["previous_response_id"] == first["id"]


@pytest.mark.parametrize(
    ("path", "body", "events"),
    [
        (
            "/v1/responses",
            {"model": SPEAKER, "input": "Hello", "stream": True},
            ["response.created", "response.output_text.delta", "response.completed"],
        ),
        (
            "/v1/messages",
            {
                "model": SPEAKER,
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 256,
                "stream": True,
            },
            [
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop",
            ],
        ),
    ],
)
def test_compatible_streams(studio: Studio, path: str, body: Json, events: list[str]) -> None:
    found = parse(studio.curl(path, body, token=False).encode())
    assert all(data["type"] == name for name, data in found)
    names = [name for name, _ in found]
    places = [names.index(name) for name in events]
    assert places == sorted(places)
    assert names[-1] == events[-1]
