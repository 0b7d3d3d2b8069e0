"""Workers of a real server are killed while several clients are served."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from server_home import CHAT, ServerHome, wait_for

from lmnb.client import Client

STORY = [{"role": "user", "content": "Write a very long story about a dragon and a city."}]
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": STORY, "max_tokens": 2000}),
    "responses": ("/v1/responses", {"input": STORY, "max_output_tokens": 2000}),
    "messages": ("/v1/messages", {"messages": STORY, "max_tokens": 2000}),
    "lmstudio": ("/api/v1/chat", {"input": STORY[0]["content"], "max_output_tokens": 2000}),
}
LONG = "The city had a wall, and a tower of stone. " * 60


def post(client: Client, path: str, body: dict[str, Any]) -> Any:
    response = client.http.post(
        path, json={"model": CHAT, "temperature": 0, **body}, timeout=httpx2.Timeout(120)
    )
    assert response.status_code == 200, response.text
    return response.json()


def events(client: Client, path: str, body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    sent = {"model": CHAT, "temperature": 0, "stream": True, **body}
    with client.http.stream("POST", path, json=sent, timeout=httpx2.Timeout(120)) as response:
        assert response.status_code == 200
        for event in httpx2.EventSource(response):
            if event.data != "[DONE]":
                yield event.event, json.loads(event.data)


def is_text(name: str, data: Any) -> bool:
    if "choices" in data:
        return bool(data["choices"] and data["choices"][0]["delta"].get("content"))
    return name in {"response.output_text.delta", "content_block_delta", "message.delta"}


def question(number: int) -> dict[str, Any]:
    words = f"Name {number} colours."
    return {"messages": [{"role": "user", "content": words}], "max_tokens": 8}


@pytest.mark.parametrize(
    ("protocol", "number", "said"),
    [
        ("chat", signal.SIGKILL, "killed"),
        pytest.param("responses", signal.SIGKILL, "killed", marks=pytest.mark.full),
        ("messages", signal.SIGSEGV, "SIGSEGV"),
        ("lmstudio", signal.SIGABRT, "SIGABRT"),
    ],
)
def test_a_kill_in_mid_answer_mid_prompt_and_mid_queue(
    fresh_home: ServerHome, protocol: str, number: int, said: str
) -> None:
    client = fresh_home.attach()
    list(client.load(CHAT, context_length=4096, parallel=2))
    [before] = fresh_home.workers()
    right = [post(client, "/v1/chat/completions", question(n)) for n in (3, 5)]

    running = events(client, *ASKED[protocol])
    while not is_text(*next(running)):
        pass
    reading = threading.Event()
    with ThreadPoolExecutor() as pool:
        long = pool.submit(read_long_prompt, client, reading)
        assert reading.wait(60)
        waiting = [pool.submit(post, client, "/v1/chat/completions", question(n)) for n in (3, 5)]
        wait_for(lambda: client.ps()[0]["active"] == 4, "all to be there")
        os.kill(before.pid, number)
        rest = list(running)
        answers = [one.result() for one in waiting]
        seen = long.result()

    check_error(protocol, rest, said)
    for answer, expected in zip(answers, right, strict=True):
        assert answer["choices"] == expected["choices"]
    # LM Studio's stream says what happened to the one whose prompt was being read.
    assert seen[:3] == ["chat.start", "prompt_processing.start", "prompt_processing.end"]
    assert seen[3:5] == ["model_load.start", "model_load.end"]
    assert seen[5:7] == ["prompt_processing.start", "prompt_processing.end"]
    assert seen[-1] == "chat.end"
    assert "error" not in seen
    [after] = fresh_home.workers()
    assert after.pid != before.pid
    wait_for(lambda: client.ps()[0]["active"] == 0, "the leases to end")


def read_long_prompt(client: Client, reading: threading.Event) -> list[str]:
    """The names of the events, those that only come more or less often left out."""
    seen = []
    body = {"input": LONG, "max_output_tokens": 4}
    for name, _ in events(client, "/api/v1/chat", body):
        if name == "prompt_processing.progress":
            reading.set()
        elif not name.endswith((".delta", ".progress")):
            seen.append(name)
    return seen


def check_error(protocol: str, rest: list[tuple[str, Any]], said: str) -> None:
    [(name, data)] = [(name, data) for name, data in rest if said in json.dumps(data)][:1]
    if protocol == "chat":
        assert data["error"]["code"] == "engine_crashed"
        assert rest[-1] == (name, data)
    elif protocol == "responses":
        assert name in {"error", "response.failed"}
    elif protocol == "messages":
        assert (name, data["type"], data["error"]["type"]) == ("error", "error", "api_error")
        assert rest[-1] == (name, data)
    else:
        assert name == "error"
        assert rest[-1][0] == "chat.end"


def test_a_model_that_keeps_dying_is_shown_and_can_be_loaded(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    for _ in range(3):
        list(client.load(CHAT, jit=True))
        [worker] = fresh_home.workers()
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: not client.ps(), "the end to be noticed")
    response = client.http.post(
        "/v1/chat/completions", json={"model": CHAT, **question(3)}, timeout=60
    )
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "model_keeps_crashing"
    assert "3 times in a row" in error["message"]
    assert "killed" in error["message"]
    assert f"lmnb load {CHAT}" in error["message"]
    assert not fresh_home.workers()
    shown = fresh_home.lmnb("ps").stdout
    assert f"{CHAT} is not loaded for 5 min: it has crashed 3 times in a row." in shown
    fresh_home.lmnb("load", CHAT)
    assert post(client, "/v1/chat/completions", question(3))["choices"]
    pending = client.pending()
    assert (pending["loading"], pending["unloading"], pending["resting"]) == ([], [], [])


def test_loads_in_progress_are_shown(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    with ThreadPoolExecutor() as pool:
        load = pool.submit(lambda: list(client.load(CHAT)))
        wait_for(lambda: bool(fresh_home.workers()), "the load to begin")
        [worker] = fresh_home.workers()
        worker.suspend()
        shown = fresh_home.lmnb("ps").stdout
        [row] = client.pending()["loading"]
        worker.resume()
        load.result()
    assert f"{CHAT} is being loaded: " in shown
    assert row["id"] == CHAT
    assert 0 <= row["progress"] <= 1
