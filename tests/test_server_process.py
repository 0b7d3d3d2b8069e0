"""The server's life: starting, being found, surviving, ending."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import psutil
import pytest
from server_home import CHAT, ENDLESS, ServerHome, wait_for

from lmnb import attaching, runtime
from lmnb.attaching import attach, find
from lmnb.client import Client
from lmnb.errors import ConfigError, ServerError, ServerMismatch
from lmnb.launch import clean_environment
from lmnb.server.log import start_log


def long_answer(client: Client) -> openai.Stream[openai.types.Completion]:
    """A stream that has begun and would go on for thousands of tokens."""
    sdk = client.openai(max_retries=0)
    stream: openai.Stream[openai.types.Completion] = sdk.completions.create(stream=True, **ENDLESS)
    next(iter(stream))
    return stream


def test_two_kernels_at_the_same_instant_get_one_server(fresh_home: ServerHome) -> None:
    code = "from lmnb.attaching import attach; print(attach().handshake()['pid'])"
    kernels = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    pids = {kernel.communicate(timeout=120)[0].strip() for kernel in kernels}
    assert pids == {str(fresh_home.pid)}
    assert [one.pid for one in fresh_home.processes()] == [fresh_home.pid]


def test_who_started_the_server_ends_without_a_word(fresh_home: ServerHome) -> None:
    code = "from lmnb.attaching import attach; attach()"
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert fresh_home.processes()


def test_the_socket_is_private_and_its_path_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models_cache: Path
) -> None:
    deep = ServerHome(tmp_path.joinpath(*["a-folder-with-a-long-name"] * 6))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path.joinpath(*["long"] * 30)))
    client = deep.attach()
    try:
        socket = Path(client.socket)
        assert len(os.fsencode(socket)) < runtime.SOCKET_PATH_LIMIT
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert find(deep.path) is client
    finally:
        deep.close()


def test_the_runtime_folder_is_used_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    assert runtime.socket_path(tmp_path).parent == Path("/tmp/lmnb")


def test_a_folder_that_others_can_enter_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_folder = tmp_path / "lmnb"
    open_folder.mkdir()
    open_folder.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime.socket_path(tmp_path).parent != open_folder


def test_a_killed_server_is_replaced_without_questions(fresh_home: ServerHome) -> None:
    first = fresh_home.attach().socket
    pid = fresh_home.pid
    fresh_home.kill()
    fresh_home.wait_until_empty()
    assert Path(first).exists()
    assert runtime.read_record(fresh_home.path)
    assert fresh_home.attach().socket == first
    assert fresh_home.pid != pid


def test_kill_in_mid_answer_is_an_error_and_leaves_no_worker(fresh_home: ServerHome) -> None:
    stream = long_answer(fresh_home.attach())
    assert fresh_home.workers()
    fresh_home.kill()
    with pytest.raises((openai.APIConnectionError, httpx2.HTTPError)):
        list(stream)
    fresh_home.wait_until_empty()
    assert fresh_home.attach().ps() == []


def test_terminating_ends_streams_with_an_error_and_stops_workers(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    stream = long_answer(client)
    fresh_home.signal(signal.SIGTERM)
    with pytest.raises(openai.APIError, match="stopped listening"):
        list(stream)
    fresh_home.wait_until_empty()
    assert runtime.read_record(fresh_home.path) is None
    assert not Path(client.socket).exists()
    assert "SIGTERM" in fresh_home.log()
    assert "Ended" in fresh_home.log()


def test_terminating_answers_plain_requests_too(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    code = f"""
from lmnb.attaching import attach
print(attach().http.post("/v1/completions", json={ENDLESS!r}).text)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as asker:
        wait_for(lambda: any(row["active"] for row in client.ps()), "the request to run")
        fresh_home.signal(signal.SIGTERM)
        answer = json.loads(asker.communicate(timeout=60)[0])
    assert "stopped listening" in answer["error"]["message"]


def test_it_ends_when_idle_with_nothing_loaded(
    fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMNB_IDLE_EXIT", "1")
    client = fresh_home.attach()
    list(client.load(CHAT))
    time.sleep(2.5)
    assert client.handshake()["loaded"] == [CHAT]
    client.serve(port=0)
    client.unload(CHAT)
    time.sleep(2.5)
    client.stop_serving()
    fresh_home.wait_until_empty()
    assert find(fresh_home.path) is None
    assert "Idle" in fresh_home.log()


def test_stopping_twice_and_starting_again(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    assert client.shutdown()
    assert not fresh_home.processes()
    with pytest.raises(ServerError, match="No lmnb server"):
        attach(start=False)
    assert fresh_home.attach().handshake()["loaded"] == []


def test_other_software_replaces_an_idle_server(
    fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_home.attach()
    pid = fresh_home.pid
    theirs = {**runtime.identity(), "build": "another build"}
    monkeypatch.setattr(runtime, "identity", lambda: theirs)
    fresh_home.attach()
    assert fresh_home.pid != pid


def test_other_software_is_told_that_the_server_is_in_use(
    fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fresh_home.attach()
    url = client.serve(port=0)["url"]
    theirs = {**runtime.identity(), "version": "99.0"}
    monkeypatch.setattr(runtime, "identity", lambda: theirs)
    with pytest.raises(ServerMismatch, match=r"yours: 99\.0") as caught:
        fresh_home.attach()
    assert url in caught.value.message
    assert "lmnb stop" in str(caught.value.hint)
    assert client.handshake()["listening"] == url


def test_the_identity_names_the_build_without_importing_it() -> None:
    code = "import sys; from lmnb import runtime; print(runtime.identity()['build']); assert 'llama_cpp' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == runtime.identity()["build"]
    assert "+" in done.stdout


def test_a_socket_that_is_swept_away_comes_back(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    pid = fresh_home.pid
    Path(client.socket).unlink()
    wait_for(lambda: find(fresh_home.path) is not None, "the socket")
    assert fresh_home.pid == pid
    (fresh_home.path / "run").rename(fresh_home.path / "run.away")
    wait_for(lambda: runtime.read_record(fresh_home.path) is not None, "the record")
    assert fresh_home.attach().handshake()["pid"] == pid


def test_a_client_that_finds_no_socket_waits_for_it(fresh_home: ServerHome) -> None:
    """It must not give up because the new server finds the lock taken."""
    client = fresh_home.attach()
    pid = fresh_home.pid
    Path(client.socket).unlink()
    assert fresh_home.attach().handshake()["pid"] == pid
    # Nor must that one take over later.
    wait_for(lambda: len(fresh_home.processes()) == 1, "the second process to end")


def test_a_stopped_server_does_not_hang_its_clients(
    fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attaching, "_ANSWER", 1.5)
    fresh_home.attach()
    fresh_home.signal(signal.SIGSTOP)
    told: list[str] = []
    try:
        with pytest.raises(ServerError, match="does not answer") as caught:
            attach(notify=told.append)
        assert told == ["Waiting for the lmnb server to answer …"]
        assert f"kill -9 {fresh_home.pid}" in str(caught.value.hint)
    finally:
        fresh_home.signal(signal.SIGCONT)


def test_the_environment_of_a_kernel_stays_out(
    fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    fresh_home.attach()
    server = psutil.Process(fresh_home.pid)
    assert not {"JPY_PARENT_PID", "MPLBACKEND"} & server.environ().keys()
    assert server.cwd() == "/"
    assert os.getsid(server.pid) == server.pid


def test_relative_paths_of_the_environment_are_made_absolute(tmp_path: Path) -> None:
    cleaned = clean_environment({"PYTHONPATH": f"here:{tmp_path}", "HOME": "/h"}, tmp_path)
    assert str(Path("here").absolute()) in cleaned["PYTHONPATH"].split(":")
    assert cleaned["HOME"] == "/h"
    assert cleaned["LMNB_HOME"] == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "JSON object"),
        ('{"prot": 1}', "no setting 'prot'"),
        ('{"port": 70000}', "port cannot be 70000"),
    ],
)
def test_bad_settings_are_named(fresh_home: ServerHome, text: str, message: str) -> None:
    (fresh_home.path / "settings.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        fresh_home.attach()


def test_a_bad_environment_variable_is_named(
    fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMNB_JIT_TTL", "-5")
    with pytest.raises(ConfigError, match="LMNB_JIT_TTL cannot be '-5'"):
        fresh_home.attach()


def test_the_home_is_for_its_user_alone(fresh_home: ServerHome, tmp_path: Path) -> None:
    elsewhere = ServerHome(tmp_path / "deep" / "home")
    elsewhere.attach()
    try:
        assert stat.S_IMODE(elsewhere.path.stat().st_mode) == 0o700
        for name in ("lmnb.db", "lmnb.db-wal"):
            assert stat.S_IMODE((elsewhere.path / name).stat().st_mode) == 0o600
    finally:
        elsewhere.close()


def test_a_damaged_database_is_named(fresh_home: ServerHome) -> None:
    (fresh_home.path / "lmnb.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match=r"lmnb\.db"):
        fresh_home.attach()


def test_a_home_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerError, match="cannot be used"):
        attach(home=tmp_path / "file" / "home")


def test_the_log_tells_requests_but_no_prompts(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    client.http.post(
        "/v1/completions?key=hidden", json={"model": CHAT, "prompt": "A secret", "max_tokens": 2}
    )
    client.http.get("/no%0Asuch/path")
    wait_for(lambda: "404" in fresh_home.log(), "the log")
    log = fresh_home.log()
    assert "POST /v1/completions 200 " in log
    assert "GET /no%0Asuch/path 404 " in log
    assert "secret" not in log
    assert "hidden" not in log
    assert client.log(2) == log.splitlines()[-2:]


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield root
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)


def test_the_log_rotates(tmp_path: Path, root_logger: logging.Logger) -> None:
    listener = start_log(tmp_path, terminal=False)
    for _ in range(3000):
        logging.getLogger("lmnb.test").info("x" * 1000)
    listener.stop()
    for handler in listener.handlers:
        handler.close()
    names = sorted(path.name for path in (tmp_path / "log").iterdir())
    assert names == ["server.log", "server.log.1"]


def test_two_servers_of_one_home_cannot_be(fresh_home: ServerHome) -> None:
    fresh_home.attach()
    done = fresh_home.lmnb("serve", "--own", "--port", "0", check=False)
    assert done.returncode == 3
    assert f"already running (process {fresh_home.pid})" in done.stderr


def test_a_disconnected_stream_is_no_fault_of_the_server(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    stream = long_answer(client)
    stream.close()
    wait_for(lambda: not any(row["active"] for row in client.ps()), "the generation to end")
    assert "ERROR" not in fresh_home.log()
    assert "Traceback" not in fresh_home.log()


def test_many_connections_at_once(client: Client) -> None:
    async def ask() -> set[int]:
        transport = httpx2.AsyncHTTPTransport(uds=client.socket)
        async with httpx2.AsyncClient(transport=transport, base_url="http://local") as http:
            answers = await asyncio.gather(*(http.get("/health") for _ in range(100)))
        return {answer.status_code for answer in answers}

    assert asyncio.run(ask()) == {200}
