"""The command line, as a real process."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import httpx2
import pytest
from server_home import CHAT, EMBEDDING, ENDLESS, ServerHome, wait_for

from lmnb.cli import main, make_parser, models, output
from lmnb.client import Client
from lmnb.engine.config import LoadConfig


@pytest.fixture
def unloaded(client: Client) -> Iterator[Client]:
    yield client
    client.unload(all=True)


def line(stream: IO[str] | None, pattern: str) -> str:
    """Read until a line matches."""
    assert stream is not None
    for text in stream:
        if re.search(pattern, text):
            return text.strip()
    pytest.fail(f"no line {pattern!r}")


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    help_text = make_parser().format_help()
    commands = [
        "get",
        "search",
        "downloads",
        "ls",
        "ps",
        "load",
        "unload",
        "convert",
        "serve",
        "launch",
        "token",
        "status",
        "log",
        "stop",
    ]
    for command in commands:
        assert command in help_text
        for arguments in ([command, "--help"], ["help", command]):
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            assert ended.value.code == 0
            assert f"usage: lmnb {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["load"], ["load", "x", "--ttl", "soon"], ["log", "-n", "-3"]]
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_load_offers_every_option_of_the_engine() -> None:
    assert set(models._LOAD_OPTIONS) == set(LoadConfig.__struct_fields__)
    options = make_parser().parse_args(["load", "x", "--no-flash-attention", "--gpu-layers", "-1"])
    assert set(models._LOAD_OPTIONS) <= vars(options).keys()
    assert (options.flash_attention, options.gpu_layers) == (False, -1)


def test_load_ps_unload(server: ServerHome, unloaded: Client) -> None:
    done = server.lmnb("load", CHAT, "--identifier", "mine", "--ttl", "100", "--parallel", "2")
    assert done.stdout.startswith("mine is loaded (")
    assert "0 of 30 layers on a GPU" in done.stdout or "30 of 30" in done.stdout
    [row] = json.loads(server.lmnb("ps", "--json").stdout)
    assert (row["id"], row["model"], row["ttl"]) == ("mine", CHAT, 100)
    assert "mine" in server.lmnb("ps").stdout
    assert "mine" in server.lmnb("status").stdout
    listed = json.loads(server.lmnb("ls", "--json").stdout)
    assert {entry["key"]: entry["loaded"] for entry in listed}[CHAT] == ["mine"]
    assert server.lmnb("unload").stdout == "mine is unloaded.\n"
    assert "No model is loaded" in server.lmnb("ps").stderr


def test_ps_shows_queue_and_time_left(server: ServerHome, unloaded: Client) -> None:
    list(unloaded.load(CHAT, parallel=1, ttl=500))
    with ExitStack() as stack:
        for _ in range(2):
            body = {**ENDLESS, "stream": True}
            stack.enter_context(unloaded.http.stream("POST", "/v1/completions", json=body))
        shown = server.lmnb("ps").stdout
    assert re.search(r"busy +1 running, 1 waiting .* MB .*8 min after use", shown)
    wait_for(lambda: unloaded.ps()[0]["active"] == 0, "both to end")
    assert re.search(r"idle +8192 .*in 8 min", server.lmnb("ps").stdout)


def test_inspect_shows_how_a_model_writes(server: ServerHome, unloaded: Client) -> None:
    text = server.lmnb("inspect", CHAT).stdout
    assert text.startswith(f"{CHAT}\n")
    assert "calls     in lmnb's own syntax, since its template has none" in text
    assert 'turn ends "<|im_end|>", ' in text
    assert '  | {"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}' in text
    found = json.loads(server.lmnb("inspect", CHAT, "--json").stdout)
    assert found["default_calls"]
    assert found["format"]["calls"]["call"]["type"] == "json"
    assert found["written"]["calls"].count("<tool_call>") == 2
    assert unloaded.ps() == []


def test_inspect_refuses_models_that_write_nothing(server: ServerHome) -> None:
    result = server.lmnb("inspect", "all-minilm-l6-v2", check=False)
    assert result.returncode == 1
    assert "is no language model" in result.stderr


def test_an_estimate_loads_nothing(server: ServerHome, unloaded: Client) -> None:
    small = ["--context-length", "1024", "--parallel", "1"]
    text = server.lmnb("load", CHAT, *small, "--estimate-only").stdout
    assert text.startswith(f"{CHAT} would take ")
    assert "cache 24 MB for 1 x 1024 tokens" in text
    found = json.loads(server.lmnb("load", CHAT, *small, "--estimate-only", "--json").stdout)
    parts = ("weights", "cache", "compute", "other")
    assert found["total"] == sum(found[part] for part in parts)
    assert unloaded.ps() == []


def test_an_estimate_refuses_what_cannot_fit(server: ServerHome, unloaded: Client) -> None:
    huge = ["--context-length", "100000000", "--parallel", "1"]
    result = server.lmnb("load", CHAT, *huge, "--estimate-only", check=False)
    assert result.returncode == 1
    assert "The model would need" in result.stderr
    assert unloaded.ps() == []


def test_unload_asks_which_if_there_are_several(server: ServerHome, unloaded: Client) -> None:
    list(unloaded.load(CHAT))
    list(unloaded.load(EMBEDDING))
    unclear = server.lmnb("unload", check=False)
    assert unclear.returncode == 1
    assert f"{CHAT}, {EMBEDDING}" in unclear.stderr
    assert server.lmnb("unload", CHAT).stdout == f"{CHAT} is unloaded.\n"
    assert server.lmnb("unload", "--all").stdout == f"{EMBEDDING} is unloaded.\n"
    assert server.lmnb("unload", check=False).stderr == "lmnb: No model is loaded.\n"


def test_a_context_longer_than_trained_warns(server: ServerHome, unloaded: Client) -> None:
    done = server.lmnb("load", EMBEDDING, "--context-length", "1024", "--json")
    assert "longer than the 512" in done.stderr
    assert json.loads(done.stdout)["id"] == EMBEDDING


def test_ls(server: ServerHome) -> None:
    lines = server.lmnb("ls").stdout.splitlines()
    assert lines[0].split() == ["MODEL", "KIND", "PARAMS", "QUANT", "SIZE", "CONTEXT", "LOADED"]
    names = [text.split()[0] for text in lines[1:]]
    # Other tests leave made models there.
    assert [name for name in names if not name.startswith("tests/")] == [EMBEDDING, CHAT]


def test_get_of_what_is_here_downloads_nothing(server: ServerHome) -> None:
    done = server.lmnb("get", CHAT, "--json")
    event = json.loads(done.stdout)
    assert event["key"] == CHAT
    assert event["size_bytes"] == Path(event["path"]).stat().st_size
    assert "ready" in server.lmnb("get").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["load", "no-such-model"], "no-such-model"),
        (["load", CHAT, "--ttl", "-1"], "ttl"),
        (["unload", "no-such-model"], "no-such-model"),
        (["get", "/no/such/file.gguf"], "/no/such/file.gguf"),
        (["get", "no such file.gguf"], str(Path("no such file.gguf").absolute())),
        (["get", "."], f"{Path.cwd()} is a folder"),
        (["settings", "cors", "maybe"], "cors cannot be 'maybe': input should be a valid boolean."),
        (["settings", "cors", "on", "--reset"], "a value or --reset"),
        (["serve", "--host", "0.0.0.0"], "anybody on the network"),
        (["serve", "--stop", "--port", "1"], "--stop goes with no other option"),
        (["token", "rm", "no-such-token"], "no-such-token"),
        (["unload", CHAT, "--all"], "a name or --all"),
    ],
)
def test_failures_are_told_in_a_line_or_two(
    server: ServerHome, arguments: list[str], message: str
) -> None:
    done = server.lmnb(*arguments, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("lmnb: ")
    assert message in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) <= 3


def test_a_taken_port_is_told(server: ServerHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = server.lmnb("serve", "--port", port, check=False)
    assert done.returncode == 1
    assert f"Port {port} is taken by" in done.stderr
    assert "--port" in done.stderr.splitlines()[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_listens_until_it_is_interrupted(
    server: ServerHome, client: Client, number: int
) -> None:
    with server.start("serve", "--port", "0") as serving:
        url = line(serving.stdout, "lmnb listens on").split()[3]
        assert httpx2.get(f"{url}/v1/models").status_code == 200
        # It follows the log.
        line(serving.stdout, r"GET /v1/models 200")
        serving.send_signal(number)
        _, errors = serving.communicate(timeout=30)
    assert serving.returncode == 0
    assert f"No longer listening on {url}" in errors
    assert client.handshake()["listening"] is None


def test_serve_ends_when_somebody_else_stops_it(server: ServerHome, client: Client) -> None:
    with server.start("serve", "--port", "0", "--json") as serving:
        assert serving.stdout is not None
        info = json.loads(serving.stdout.readline())
        assert client.handshake()["listening"] == info["url"]
        assert "stay loaded" in server.lmnb("serve", "--stop").stderr
        _, errors = serving.communicate(timeout=30)
    assert serving.returncode == 1
    assert "Somebody stopped it" in errors
    assert "was not listening" in server.lmnb("serve", "--stop").stderr


def test_serve_leaves_open_what_it_did_not_open(server: ServerHome, client: Client) -> None:
    port = client.serve(port=0)["port"]
    try:
        with server.start("serve", "--port", str(port)) as serving:
            line(serving.stdout, "lmnb listens on")
            serving.send_signal(signal.SIGINT)
            _, errors = serving.communicate(timeout=30)
        assert "was listening already" in errors
        assert client.handshake()["listening"]
    finally:
        client.stop_serving()


def test_own_is_the_server_in_the_foreground(fresh_home: ServerHome) -> None:
    with fresh_home.start("serve", "--own", "--port", "0") as serving:
        url = line(serving.stdout, "lmnb listens on").split()[3]
        wait_for(lambda: f"Started, process {serving.pid}" in fresh_home.log(), "the start")
        # It is what kernels find, too.
        assert fresh_home.attach().handshake()["pid"] == serving.pid
        list(fresh_home.attach().load(CHAT))
        assert httpx2.get(f"{url}/v1/models").json()["data"]
        serving.send_signal(signal.SIGINT)
        _, errors = serving.communicate(timeout=30)
    assert serving.returncode == 0
    assert "GET /v1/models 200" in errors
    assert not fresh_home.processes()


def test_own_that_cannot_listen_says_why(fresh_home: ServerHome) -> None:
    done = fresh_home.lmnb("serve", "--own", "--host", "0.0.0.0", check=False)
    assert done.returncode == 1
    assert "lmnb: Listening on 0.0.0.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_tokens(server: ServerHome) -> None:
    assert "no tokens" in server.lmnb("token", "ls").stderr
    text = server.lmnb("token", "create", "laptop").stdout.strip()
    assert re.fullmatch(r"sk-lm-\w{8}:\w{20}", text)
    listed = server.lmnb("token", "ls").stdout
    assert "laptop" in listed
    assert text not in listed
    assert "already" in server.lmnb("token", "create", "laptop", check=False).stderr
    made = json.loads(server.lmnb("token", "create", "phone", "--json").stdout)
    assert made["token"].startswith(f"sk-lm-{made['id']}:")
    edit = server.lmnb("token", "edit", "phone", "--name", "tablet", "--permissions", "mcp,models")
    assert edit.stdout == "Token tablet permits: models, mcp.\n"
    assert "models, mcp" in server.lmnb("token", "ls").stdout
    refused = server.lmnb("token", "edit", "tablet", "--permissions", "all", check=False)
    assert "'all' is no permission" in refused.stderr
    assert server.lmnb("token", "rm", "laptop").stdout == "Token laptop is removed.\n"
    server.lmnb("token", "rm", made["id"])
    assert json.loads(server.lmnb("token", "ls", "--json").stdout) == []


def test_status_and_log_without_a_server(fresh_home: ServerHome) -> None:
    status = fresh_home.lmnb("status").stdout
    assert "not running" in status
    assert re.search(r"^device +\S+ \(", status, re.MULTILINE)
    found = json.loads(fresh_home.lmnb("status", "--json").stdout)
    assert found["server"] is None
    assert found["device"]["devices"]
    assert "no log yet" in fresh_home.lmnb("log", "--server").stderr
    assert "No such request" in fresh_home.lmnb("log").stderr
    assert "No server is running" in fresh_home.lmnb("stop").stderr
    assert json.loads(fresh_home.lmnb("ps", "--json").stdout) == []
    assert "No model is loaded" in fresh_home.lmnb("unload", "--all").stderr
    assert not fresh_home.processes()


def test_stop_and_what_remains(fresh_home: ServerHome) -> None:
    status = json.loads(fresh_home.lmnb("token", "create", "x", "--json").stdout)
    assert status["name"] == "x"
    assert fresh_home.lmnb("stop").stdout == "The server has ended.\n"
    assert not fresh_home.processes()
    assert "POST /lmnb/tokens 200" in fresh_home.lmnb("log", "--server").stdout
    assert fresh_home.lmnb("log", "--server", "-n", "1").stdout.count("\n") == 1
    assert "x" in fresh_home.lmnb("token", "ls").stdout


def test_the_servers_log_follows(server: ServerHome, client: Client) -> None:
    with server.start("log", "--server", "-n", "1", "-f") as following:
        assert following.stdout is not None
        following.stdout.readline()
        client.http.get("/v1/models?follow")
        line(following.stdout, "GET /v1/models 200")
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=30)
    assert following.returncode == 130


def test_an_interrupted_load_is_cancelled(server: ServerHome, client: Client) -> None:
    with server.start("load", CHAT) as loading:
        wait_for(lambda: "lmnb.engine.worker" in str(server.workers()) or bool(server.workers()))
        loading.send_signal(signal.SIGINT)
        loading.communicate(timeout=30)
    if loading.returncode == 130:
        wait_for(lambda: not server.workers(), "the worker to end")
        assert client.ps() == []
    else:  # It was faster than the signal.
        client.unload(all=True)


def test_an_interrupt_while_python_still_imports_is_quiet() -> None:
    script = """
        import builtins, os, signal, sys

        def importing(name, *rest, sound=builtins.__import__):
            if name == "lmnb.cli.output" or "output" in (rest[2] or ()):
                os.kill(os.getpid(), signal.SIGINT)
            return sound(name, *rest)

        builtins.__import__ = importing
        from lmnb.cli import main
        sys.exit(main(["ps"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_reader_that_has_seen_enough(server: ServerHome) -> None:
    command = f"{sys.executable} -m lmnb ls | true"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=server.environment(),
        check=True,
    )
    assert done.stderr == ""


def test_progress_on_a_terminal(server: ServerHome, unloaded: Client) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    done = subprocess.run(
        [sys.executable, "-m", "lmnb", "load", CHAT],
        env=server.environment(TERM="xterm"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
    )
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert re.search(rf"Loading {CHAT}: +\d+ % \|", shown)
    assert done.stdout.startswith(f"{CHAT} is loaded".encode())


def test_download_progress_in_a_file_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.Bar, "INTERVAL", 0.0)
    progress = {
        "type": "progress",
        "file": "model.gguf",
        "done": 25_000_000,
        "total": 100_000_000,
        "bytes_per_second": 12_500_000,
        "eta_seconds": 6.0,
    }
    done = output.follow_download(
        [{"type": "note", "text": "A note."}, progress, {"type": "done", "key": "x"}]
    )
    assert done["key"] == "x"
    expected = "A note.\nmodel.gguf: 25%, 12 MB/s, 6 s left\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (98_000_000, "98 MB"), (5e12, "5.0 TB")],
)
def test_sizes(count: float, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (5400, "1 h 30 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text
