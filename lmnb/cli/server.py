"""`lmnb serve | status | stop`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from lmnb import logs, runtime
from lmnb.attaching import find
from lmnb.cli import output
from lmnb.cli.models import print_loaded
from lmnb.client import Client
from lmnb.errors import InvalidRequest, ServerError
from lmnb.launch import clean_environment

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_CHECK_INTERVAL = 2.0


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the commands."""
    serve = commands.add_parser("serve", help="let any OpenAI, Anthropic or LM Studio client in")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (default 1234)")
    serve.add_argument(
        "--require-auth", action="store_true", default=None, help="ask every client for a token"
    )
    serve.add_argument(
        "--allow-open", action="store_true", help="listen beyond this machine without tokens"
    )
    serve.add_argument(
        "--own", action="store_true", help="be the server, in the foreground (containers, services)"
    )
    serve.add_argument("--stop", action="store_true", help="stop listening; models stay loaded")
    serve.add_argument("--json", action="store_true", help="print the address as JSON, and no log")
    serve.set_defaults(run=_serve)

    status = commands.add_parser("status", help="server, device, address, loaded models")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)

    stop = commands.add_parser("stop", help="end the server; unloads all models")
    stop.set_defaults(run=_stop)


def _serve(options: Namespace) -> int | None:
    if options.stop:
        return _stop_serving(options)
    if options.own:
        _become_server(options)
    client = output.connect()
    info = client.serve(
        options.host,
        options.port,
        require_auth=options.require_auth,
        allow_open=options.allow_open,
    )
    return _until_interrupted(client, info, as_json=options.json)


def _announce(info: dict[str, Any], *, as_json: bool) -> None:
    """Say where it listens. The address comes last: who reads it may stop us the moment after."""
    for warning in info["warnings"]:
        output.note(warning)
    if as_json:
        print(json.dumps(info), flush=True)
        return
    output.note(
        "Ctrl-C stops listening; models stay loaded."
        if info["opened"]
        else "It was listening already, and goes on after Ctrl-C; `lmnb serve --stop` ends that."
    )
    if info["network_url"]:
        print(f"Other machines reach it at {info['network_url']}", flush=True)
    keys = "clients need a token" if info["require_auth"] else "no token needed"
    print(f"lmnb listens on {info['url']} ({keys})", flush=True)


def _until_interrupted(client: Client, info: dict[str, Any], *, as_json: bool) -> int:
    """Follow the log until Ctrl-C, or until the listener is gone; close it if it is ours."""
    closed = _Closed(client, info["url"])
    # Terminals that close and service managers mean the same as Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        _announce(info, as_json=as_json)
        for line in logs.follow(runtime.log_path(client.home), until=closed):
            if not as_json:
                print(line, flush=True)
    except KeyboardInterrupt:
        if info["opened"] and client.stop_serving():
            output.note(f"No longer listening on {info['url']}.")
        return 0
    output.note(f"{closed.reason} {info['url']} is closed.")
    return 1


class _Closed:
    """Whether somebody else has closed the listener, asked every two seconds."""

    def __init__(self, client: Client, url: str) -> None:
        self.reason = ""
        self._client = client
        self._url = url
        self._next = time.monotonic() + _CHECK_INTERVAL

    def __call__(self) -> bool:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _CHECK_INTERVAL
            try:
                if self._client.handshake()["listening"] != self._url:
                    self.reason = "Somebody stopped it:"
            except ServerError:
                self.reason = "The server has ended:"
        return bool(self.reason)


def _stop_serving(options: Namespace) -> int:
    given = [options.host, options.port, options.require_auth, options.allow_open, options.own]
    if any(value not in {None, False} for value in given):
        raise InvalidRequest("--stop goes with no other option.")
    client = find()
    closed = client is not None and client.stop_serving()
    output.note("No longer listening; models stay loaded." if closed else "It was not listening.")
    return 0


def _become_server(options: Namespace) -> None:
    """Replace this process, so that signals reach the server itself."""
    command = [sys.executable, "-m", "lmnb.server", "--own"]
    if options.host is not None:
        command += ["--host", options.host]
    if options.port is not None:
        command += ["--port", str(options.port)]
    if options.require_auth:
        command.append("--require-auth")
    if options.allow_open:
        command.append("--allow-open")
    sys.stdout.flush()
    os.execve(  # noqa: S606 - no shell is wanted
        sys.executable, command, clean_environment(os.environ, runtime.find_home())
    )


def _status(options: Namespace) -> None:
    client = find()
    if client is not None:
        found = client.status()
    else:
        found = {"server": None, "device": _devices(), "listener": None, "loaded": []}
    if options.json:
        output.print_json(found)
        return
    server, listener, device = found["server"], found["listener"], found["device"]
    if server is None:
        print("server     not running; it starts on demand")
    else:
        up = output.duration(server["uptime"])
        print(f"server     lmnb {server['version']}, process {server['pid']}, up {up}")
        print(f"home       {server['home']}")
    print(f"device     {_device_line(device)}")
    if listener is None:
        print("listening  no; `lmnb serve` does")
    else:
        print(f"listening  {listener['network_url'] or listener['url']}")
    if found["loaded"]:
        print_loaded(found["loaded"])
    else:
        print("loaded     nothing")
    if device.get("hint"):
        output.note(device["hint"])


def _device_line(device: dict[str, Any]) -> str:
    if "error" in device:
        return f"unknown ({device['error']})"
    return "; ".join(
        f"{one['name']} ({one['description']}, {output.size(one['memory_total'])})"
        for one in device["devices"]
    )


def _devices() -> dict[str, Any]:
    """What the server would say of the devices, without one."""
    done = subprocess.run(
        [sys.executable, "-m", "lmnb.engine.devices"],
        capture_output=True,
        check=False,
        env=clean_environment(os.environ, runtime.find_home()),
    )
    try:
        return dict(json.loads(done.stdout.strip().rpartition(b"\n")[2]))
    except ValueError:
        return {"error": f"the check ended with status {done.returncode}"}


def _stop(_options: Namespace) -> None:
    client = find()
    if client is None:
        output.note("No server is running.")
        return
    client.shutdown()
    print("The server has ended.")
