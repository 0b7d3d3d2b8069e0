"""The log of requests: what a line says, what it must not say, and who follows it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from server_home import CHAT, EMBEDDING, ENDLESS, ServerHome, wait_for
from websockets.sync.client import unix_connect

from lmnb import journal
from lmnb.client import Client
from lmnb.config import load_settings
from lmnb.journal import Filter, Record, Words
from lmnb.server.journal import LOGGER, Journal, _Recording
from lmnb.server.log import start_log

Json = dict[str, Any]
ASKED: Json = {
    "model": CHAT,
    "messages": [{"role": "user", "content": "Who is hiding <|im_end|> here?"}],
    # The token that ends this model's turn.
    "logit_bias": {"2": 100},
}
PROMPT = "<|im_start|>user\nWho is hiding <|im_end|> here?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def loaded(server: ServerHome) -> Client:
    client = server.attach()
    list(client.load(CHAT))
    return client


def record_of(client: Client, response: httpx2.Response) -> Json:
    """The line of a request, which is written right after its answer."""
    found: list[Json] = []

    def is_there() -> bool:
        found[:] = [one for one in client.requests(1000) if one["id"] == identifier]
        return bool(found)

    identifier = response.headers["x-request-id"]
    assert response.headers["request-id"] == identifier
    wait_for(is_there, "the record")
    [record] = found
    return record


def test_a_chat(loaded: Client) -> None:
    loaded.http.post("/v1/chat/completions", json={**ASKED, "max_tokens": 1})
    response = loaded.http.post("/v1/chat/completions", json={**ASKED, "max_tokens": 5})
    usage, record = response.json()["usage"], record_of(loaded, response)
    assert record["time"].endswith("Z")
    assert (record["method"], record["route"]) == ("POST", "/v1/chat/completions")
    assert (record["protocol"], record["model"], record["status"]) == ("openai", CHAT, 200)
    assert record["prompt_tokens"] == usage["prompt_tokens"]
    assert record["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"] > 0
    assert record["completion_tokens"] == usage["completion_tokens"] == 1
    assert 0 < record["time_to_first_token"] <= record["duration"]
    assert record["finish_reason"] == "stop"
    assert not {"error", "token", "words"} & record.keys()


@pytest.mark.parametrize(
    ("path", "protocol", "body"),
    [
        ("/v1/messages", "anthropic", {"max_tokens": 3, "messages": ASKED["messages"]}),
        ("/v1/responses", "openai", {"input": "Hello", "max_output_tokens": 3}),
        ("/api/v1/chat", "lmstudio", {"input": "Hello", "max_output_tokens": 3}),
        ("/api/v0/completions", "openai", {"prompt": "Hello", "max_tokens": 3}),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_every_protocol(
    loaded: Client, path: str, protocol: str, body: Json, *, stream: bool
) -> None:
    response = loaded.http.post(
        path, json={"model": CHAT, "stream": stream, "temperature": 0, **body}
    )
    record = record_of(loaded, response)
    assert (record["protocol"], record["route"], record["status"]) == (protocol, path, 200)
    assert (record["model"], record["completion_tokens"]) == (CHAT, 3)
    assert record["finish_reason"] == "length"


def test_several_answers_count_together(loaded: Client) -> None:
    body = {"model": CHAT, "prompt": "One,", "max_tokens": 4, "n": 3}
    response = loaded.http.post("/v1/completions", json=body)
    assert record_of(loaded, response)["completion_tokens"] == 12


def test_without_generation(loaded: Client) -> None:
    response = loaded.http.post("/v1/embeddings", json={"model": EMBEDDING, "input": "A few"})
    record = record_of(loaded, response)
    assert record["model"] == EMBEDDING
    assert record["prompt_tokens"] == response.json()["usage"]["prompt_tokens"]
    assert "completion_tokens" not in record
    record = record_of(loaded, loaded.http.get(f"/v1/models/{CHAT}"))
    assert (record["method"], record["status"]) == ("GET", 200)
    assert record["route"].startswith("/v1/models/{")


def test_failures(loaded: Client) -> None:
    """The id is in the body, too, where the protocol has a place for it."""
    response = loaded.http.post("/v1/chat/completions", json={**ASKED, "model": "none"})
    record = record_of(loaded, response)
    assert (record["status"], record["model"], record["error"]) == (404, "none", "model_not_found")
    response = loaded.http.post("/v1/messages", json={"model": CHAT})
    assert response.json()["request_id"] == record_of(loaded, response)["id"]
    record = record_of(loaded, loaded.http.get("/no/such/path"))
    assert (record["route"], record["error"]) == ("/no/such/path", "not_found")
    response = loaded.http.post("/v1/chat/completions", json={"model": CHAT, "messages": [3]})
    assert record_of(loaded, response)["status"] == 400


def test_a_client_that_leaves(loaded: Client) -> None:
    with loaded.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as stream:
        next(stream.iter_lines())
    record = record_of(loaded, stream)
    assert (record["status"], record["finish_reason"]) == (200, "cancelled")


def test_tokens_are_named_and_never_told(loaded: Client, server: ServerHome) -> None:
    token = loaded.create_token("watched", ["inference"])
    info = loaded.serve(port=0, require_auth=True)
    try:
        with httpx2.Client(base_url=info["url"], timeout=60) as http:
            refused = http.get("/v1/models", headers={"x-api-key": "sk-lm-nonsense"})
            keyed = {"authorization": f"Bearer {token['token']}"}
            accepted = http.get("/v1/models", headers=keyed)
    finally:
        loaded.stop_serving()
        loaded.remove_token("watched")
    record = record_of(loaded, refused)
    assert (record["status"], "token" in record) == (401, False)
    record = record_of(loaded, accepted)
    assert (record["status"], record["token"]) == (200, token["id"])
    text = journal.journal_path(server.path).read_text()
    assert token["token"] not in text
    assert "nonsense" not in text
    assert stat.S_IMODE(journal.journal_path(server.path).stat().st_mode) == 0o600


# --- filters and the command line ----------------------------------------------


def test_filters(loaded: Client) -> None:
    marks = [
        loaded.http.get("/v1/models/filtered"),
        loaded.http.get("/health"),
        loaded.http.post("/v1/completions", json={"model": CHAT, "prompt": "x", "max_tokens": 1}),
    ]
    missing, _, answered = (record_of(loaded, mark)["id"] for mark in marks)

    def found(**filters: str) -> list[str]:
        return [one["id"] for one in loaded.requests(3, **filters)]

    assert found()[-3:] == [one.headers["x-request-id"] for one in marks]
    assert (
        found(status="404")[-1] == found(status="4xx")[-1] == found(status="error")[-1] == missing
    )
    assert found(model="smollm2")[-1] == found(route="/v1/comp")[-1] == answered
    assert found(route="/none/such") == []
    refused = loaded.http.get("/lmnb/requests?status=often")
    assert refused.status_code == 400
    assert "often" in refused.json()["error"]["message"]


def test_the_command_line(loaded: Client, server: ServerHome) -> None:
    response = loaded.http.post("/v1/completions", json={"model": CHAT, "prompt": "", "n": -1})
    identifier = record_of(loaded, response)["id"]
    [shown] = server.lmnb("log", "-n", "1").stdout.splitlines()
    assert f"{identifier} 400 POST /v1/completions" in shown
    [printed] = server.lmnb("log", "-n", "1", "--status", "4xx", "--json").stdout.splitlines()
    assert json.loads(printed)["id"] == identifier
    done = server.lmnb("log", "--prompts")
    assert "log_prompts on" in done.stderr
    assert "No such request" in server.lmnb("log", "--route", "/none/such").stderr
    assert "no status" in server.lmnb("log", "--status", "x", check=False).stderr
    assert "goes with" in server.lmnb("log", "--server", "--json", check=False).stderr


def test_following_on_the_command_line(loaded: Client, server: ServerHome) -> None:
    with server.start("log", "--follow", "--prompts", "--model", "smollm2") as following:
        assert following.stderr is not None
        assert "Following" in following.stderr.readline()
        loaded.http.get("/health")
        response = loaded.http.post("/v1/chat/completions", json=ASKED)
        assert following.stdout is not None
        lines = [following.stdout.readline() for _ in range(10)]
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=30)
    assert following.returncode == 130
    identifier = response.headers["x-request-id"]
    assert lines[0] == f"--- input · {identifier} · {CHAT}\n"
    assert f"{PROMPT}\n---\n--- output · {identifier} · {CHAT}\n<|im_end|>\n" in "".join(lines)


# --- words --------------------------------------------------------------------


@pytest.fixture
def follower(loaded: Client) -> Iterator[Iterator[Json]]:
    events = loaded.follow_requests(words=True)
    assert next(events)["type"] == "ready"
    yield events
    events.close()  # type: ignore[attr-defined]


def test_prompt_and_answer_word_for_word(
    loaded: Client, follower: Iterator[Json], server: ServerHome
) -> None:
    response = loaded.http.post("/v1/chat/completions", json=ASKED)
    given, said, request = (next(follower) for _ in range(3))
    identifier = response.headers["x-request-id"]
    assert {one["id"] for one in (given, said, request)} == {identifier}
    assert (given["type"], given["text"].endswith(PROMPT)) == ("input", True)
    assert (said["type"], said["text"], said["complete"]) == ("output", "<|im_end|>", True)
    assert (request["type"], request["status"], request["finish_reason"]) == (
        "request",
        200,
        "stop",
    )
    record_of(loaded, response)
    assert "hiding" not in journal.journal_path(server.path).read_text()


def test_an_answer_that_is_stopped(loaded: Client, follower: Iterator[Json]) -> None:
    body = {**ENDLESS, "stream": True}
    with loaded.http.stream("POST", "/v1/completions", json=body) as stream:
        assert next(follower)["text"] == ENDLESS["prompt"]
        next(stream.iter_lines())
    said = next(follower)
    assert (said["type"], said["complete"]) == ("output", False)


def test_words_are_kept_if_that_is_wanted(loaded: Client, server: ServerHome) -> None:
    loaded.change_setting("log_prompts", "on")
    try:
        record = record_of(loaded, loaded.http.post("/v1/chat/completions", json=ASKED))
    finally:
        loaded.change_setting("log_prompts", None)
    given, said = record["words"]
    assert given["text"].endswith(PROMPT)
    assert (said["type"], said["text"]) == ("output", "<|im_end|>")
    shown = server.lmnb("log", "--prompts", "-n", "1", "--route", "/v1/chat").stdout
    assert PROMPT in shown
    printed = server.lmnb("log", "--json", "-n", "1", "--route", "/v1/chat").stdout
    assert "words" not in json.loads(printed)
    record = record_of(loaded, loaded.http.post("/v1/chat/completions", json=ASKED))
    assert "words" not in record


def test_who_follows_keeps_nothing_busy(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    events = client.follow_requests()
    next(events)
    assert not client.handshake()["busy"]
    client.shutdown(if_idle=True)
    assert "Traceback" not in fresh_home.log()


# --- answers without a request ---------------------------------------------------


def test_answers_over_a_websocket_have_lines_of_their_own(loaded: Client) -> None:
    with unix_connect(loaded.socket, "ws://local/v1/responses", max_size=None) as connection:
        create = {"type": "response.create", "model": CHAT, "input": "Hello", "store": False}
        connection.send(json.dumps({**create, "max_output_tokens": 3}))
        while json.loads(connection.recv())["type"] != "response.incomplete":
            pass
    wait_for(lambda: loaded.requests(1)[0].get("status") == 101, "the end of the connection")
    answer, whole = loaded.requests(2)
    assert answer["id"] == whole["id"]
    assert answer["completion_tokens"] == 3
    assert "completion_tokens" not in whole


def test_background(loaded: Client) -> None:
    body = {"model": CHAT, "input": "Hello", "max_output_tokens": 3, "background": True}
    identifier = loaded.http.post("/v1/responses", json=body).headers["x-request-id"]

    def lines() -> list[Json]:
        return [one for one in loaded.requests(10) if one["id"] == identifier]

    wait_for(lambda: len(lines()) == 2, "the answer")
    assert [one.get("completion_tokens") for one in lines()] in ([None, 3], [3, None])


# --- crashes ------------------------------------------------------------------


def test_reports_of_crashes_name_the_requests(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    list(client.load(CHAT))
    [worker] = fresh_home.workers()
    with client.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        os.kill(worker.pid, signal.SIGABRT)
        list(lines)
    record = record_of(client, stream)
    assert (record["status"], record["error"]) == (200, "engine_crashed")
    log = fresh_home.path / "log" / f"model-{CHAT}.log"
    [report] = [line for line in log.read_text().splitlines() if record["id"] in line]
    assert report.startswith(f"Process {worker.pid}: The model's process crashed")
    wait_for(lambda: report in fresh_home.log(), "the server's log")


# --- bounds -------------------------------------------------------------------


def a_recording(model: str = "m") -> _Recording:
    common = {"id": "req_1", "time": "2026-01-01T00:00:00Z", "method": "POST", "route": "/v1/x"}
    return _Recording(Record(**common, protocol="openai", model=model), is_open=True)  # type: ignore[arg-type]


def test_a_slow_follower_misses_the_oldest_and_holds_up_nobody(tmp_path: Path) -> None:
    asyncio.run(check_slow_follower(tmp_path))


async def check_slow_follower(tmp_path: Path) -> None:
    kept = Journal(load_settings(tmp_path))
    events = kept.follow(Filter(), words=True)
    assert await anext(events) == {"type": "ready"}
    for _ in range(1500):
        kept.end(a_recording())
    assert await anext(events) == {"type": "missed", "count": 500}
    assert (await anext(events))["type"] == "request"
    for _ in range(20):
        kept.say(a_recording().record, Words(type="input", text="x" * 10_000_000))
    missed = await anext(events)
    assert missed["count"] == 999 + 17
    assert [len((await anext(events))["text"]) for _ in range(3)] == [10_000_000] * 3


def test_words_are_taken_down_only_while_somebody_wants_them(tmp_path: Path) -> None:
    async def wanted() -> list[bool]:
        kept, found = Journal(load_settings(tmp_path)), []
        for words in (False, True):
            events = kept.follow(Filter(), words=words)
            await anext(events)
            found.append(kept.wants_words)
            await events.aclose()
            found.append(kept.wants_words)
        return found

    assert asyncio.run(wanted()) == [False, False, True, False]


def test_words_wait_for_the_status_they_are_to_have(tmp_path: Path) -> None:
    asyncio.run(check_status_of_words(tmp_path))


async def check_status_of_words(tmp_path: Path) -> None:
    kept = Journal(load_settings(tmp_path))
    events = kept.follow(Filter(status="error", model="M"), words=True)
    await anext(events)
    for error in (None, "engine_crashed"):
        recording = a_recording()
        kept.say(recording.record, Words(type="input", text=str(error)))
        recording.record.error = error
        kept.end(recording)
    assert (await anext(events))["text"] == "engine_crashed"
    assert (await anext(events))["type"] == "request"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(events), 0.01)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield root
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)


def test_the_file_is_bounded(tmp_path: Path, root_logger: logging.Logger) -> None:
    del root_logger
    settings = load_settings(tmp_path)
    settings.log_prompts = True
    listener = start_log(tmp_path, terminal=False)
    for number in range(50):
        recording = a_recording(str(number))
        recording.record.words.append(Words(type="input", text=f"{'a' * 2_000_000}z"))
        Journal(settings).end(recording)
    listener.stop()
    for handler in listener.handlers:
        handler.close()
    parts = sorted((tmp_path / "log").glob("requests.jsonl*"))
    assert len(parts) == 1 + journal.OLD_FILES
    assert sum(part.stat().st_size for part in parts) < 33_000_000
    found = journal.last(tmp_path, 10, Filter())
    assert [one.model for one in found] == [str(n) for n in range(40, 50)]
    assert found[-1].words[0].text.endswith("[1000001 characters left out]" + "a" * 499_999 + "z")
    assert (tmp_path / "log" / "server.log").read_text() == ""
    assert LOGGER.name not in str(parts)
