"""What a notebook holds of the server."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
from server_home import CHAT, EMBEDDING, ENDLESS, ServerHome, wait_for

from lmnb import attaching, runtime
from lmnb.attaching import attach, find
from lmnb.client import Client
from lmnb.errors import InvalidRequest, LmnbError, ModelNotFound, ServerError


def test_attaching_again_is_the_same_client(client: Client) -> None:
    assert attach() is client
    assert find() is client
    assert attach(start=False) is client


def test_handshake(client: Client) -> None:
    handshake = client.handshake()
    assert {name: handshake[name] for name in runtime.identity()} == runtime.identity()
    assert handshake["loaded"] == []
    assert handshake["listening"] is None
    assert handshake["busy"] is False


def test_status_names_the_device(client: Client) -> None:
    status = client.status()
    assert status["device"]["devices"][0]["name"]
    assert status["device"]["supports_gpu_offload"] in {True, False}
    assert status["server"]["home"] == str(client.home)
    assert status["listener"] is None


def test_errors_come_back_as_what_they_were(client: Client) -> None:
    with pytest.raises(ModelNotFound, match="no-such-model"):
        client.unload("no-such-model")
    with pytest.raises(ModelNotFound) as caught:
        list(client.load("no-such-model"))
    assert caught.value.status == 404
    with pytest.raises(InvalidRequest, match="contxt_length"):
        list(client.load(CHAT, contxt_length=1))
    with pytest.raises(InvalidRequest, match="context_length"):
        list(client.load(CHAT, context_length="long"))
    with pytest.raises(InvalidRequest, match="either"):
        client.unload()


def test_load_reports_progress_and_what_was_loaded(client: Client) -> None:
    events = list(client.load(CHAT, identifier="mine", ttl=50, context_length=1024))
    try:
        *progress, done = events
        assert {event["type"] for event in progress} == {"progress"}
        values = [event["progress"] for event in progress]
        assert values == sorted(values)
        assert 0 <= values[0] <= values[-1] <= 1
        assert (done["type"], done["id"], done["ttl"]) == ("done", "mine", 50)
        assert done["context_length"] == 1024
        assert done["device"]
        assert done["warnings"] == []
        [row] = client.ps()
        now = {name: row[name] for name in ("ttl_left", "memory", "state")}
        assert row.items() <= {**done, **now, "active": 0}.items()
        assert client.handshake()["busy"] is True
    finally:
        assert client.unload("mine") == ["mine"]


def test_leaving_a_load_cancels_it(server: ServerHome, client: Client) -> None:
    events = client.load(CHAT)
    next(events)
    events.close()  # type: ignore[attr-defined]
    wait_for(lambda: not server.workers(), "the worker to end")
    assert client.ps() == []


def test_the_sdks_speak_over_the_socket(client: Client) -> None:
    sdk = client.openai(_strict_response_validation=True)
    vectors = sdk.embeddings.create(
        model=EMBEDDING, input=["one", "two"], encoding_format="float"
    ).data
    assert [len(vector.embedding) for vector in vectors] == [384, 384]
    claude = client.anthropic(_strict_response_validation=True)
    message = claude.messages.create(
        model=CHAT, max_tokens=3, messages=[{"role": "user", "content": "Hello"}]
    )
    assert message.usage.output_tokens <= 3
    client.unload(all=True)


@pytest.mark.parametrize("call", ["plain", "stream"])
def test_an_interrupt_ends_the_request_at_once(client: Client, call: str) -> None:
    """SIGINT in the middle of a silent read, as the notebook's stop button sends it."""
    list(client.load(CHAT))
    sdk = client.openai(max_retries=0)
    main = threading.get_ident()

    def interrupt() -> None:
        wait_for(lambda: client.ps()[0]["active"] == 1, "the request to run")
        time.sleep(0.2)
        # To the main thread, as a signal from another process arrives.
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in sdk.completions.create(stream=call == "stream", **ENDLESS):
                pass
    finally:
        thread.join()
    try:
        wait_for(lambda: client.ps()[0]["active"] == 0, "the generation to end")
    finally:
        client.unload(CHAT)


def test_a_server_that_dies_in_a_call_is_an_error(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    events = client.load(CHAT)
    next(events)
    fresh_home.kill()
    with pytest.raises(ServerError, match=r"broke|ended") as caught:
        list(events)
    assert "server.log" in str(caught.value.hint)
    assert fresh_home.attach().ps() == []


def test_a_process_that_was_forked_gets_its_own_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = client.handshake()["pid"]
    monkeypatch.setattr(client, "process", 1)
    fresh = attach()
    assert fresh is not client
    assert fresh.handshake()["pid"] == pid


def test_long_starts_are_announced(fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "_NOTICE", 0.0)
    told: list[str] = []
    attach(notify=told.append)
    assert told == ["Starting the lmnb server …"]
    attach(notify=told.append)
    assert len(told) == 1


def test_waiting_for_another_start_is_announced(
    fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attaching, "_NOTICE", 0.1)
    monkeypatch.setattr(attaching, "_OTHER_STARTS", 0.1)
    code = """
import sys
from lmnb import runtime
lock = runtime.start_lock(runtime.find_home())
print(lock.acquire(), flush=True)
sys.stdin.read()
"""
    told: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "True\n"
        with pytest.raises(ServerError, match="Another process"):
            attach(notify=told.append)
        other.communicate("")
    assert told[0].startswith("Waiting for another process")


def test_only_this_machines_user_can_connect(client: Client) -> None:
    """The folder of the socket keeps others out, so nothing asks for a token there."""
    assert Path(client.socket).parent.stat().st_mode & 0o077 == 0
    assert client.http.get("/v1/models", headers={"host": "evil.example"}).status_code == 200


def test_an_unknown_control_route_is_an_error(client: Client) -> None:
    answer = client.http.get("/lmnb/nonsense")
    assert answer.status_code == 404
    error = LmnbError.from_dict(answer.json()["error"])
    assert error.code == "not_found"


def test_the_read_timeout_is_the_servers_affair(client: Client) -> None:
    """Non-streaming answers of a small machine may take minutes."""
    assert client.http.timeout == httpx2.Timeout(15.0, read=None)
