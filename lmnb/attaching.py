"""The server of this user: found, or started; and the connections to it that are kept."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from lmnb import runtime
from lmnb.client import Client, see_log
from lmnb.errors import ServerError, ServerMismatch
from lmnb.launch import Launch

Json = dict[str, Any]
Notify = Callable[[str], None]

_ANSWER = 15.0  # Seconds for what the server answers at once, on a machine that is busy.
_START = 60.0
_OTHER_STARTS = 90.0
_NOTICE = 1.0  # Waits longer than this are announced.

_attached: dict[Path, Client] = {}


def attach(*, start: bool = True, home: Path | None = None, notify: Notify | None = None) -> Client:
    """The server of `home` (default `$LMNB_HOME`), which is started if it is not running.

    `notify` is called with a sentence when something takes longer than a second. Calls are cheap
    (one request) and the client is reused, so call it each time rather than keep a client.

    Raises
    ------
    ServerError
        The server could not be started, or does not answer; without `start`: there is none.
    ServerMismatch
        A server with other software is in use. One that is idle is replaced.
    """
    home = home or runtime.find_home()
    notify = notify or _silent
    if not start:
        client = find(home, notify)
        if client is None:
            raise ServerError(f"No lmnb server of {home} is running.", hint="It starts on demand.")
        return client
    found = _find(home, notify)
    if found is not None and _matches(found[1]):
        return found[0]
    return _attach_locked(home, notify)


def find(home: Path | None = None, notify: Notify | None = None) -> Client | None:
    """The server of `home` if one is running, whatever its software; None if not.

    Raises
    ------
    ServerError
        There is one, but it does not answer.
    """
    found = _find(home or runtime.find_home(), notify or _silent)
    return found[0] if found else None


def forget(home: Path) -> None:
    """Close the connections that `attach` keeps to the server of `home`."""
    client = _attached.pop(home, None)
    if client is not None:
        client.close()


@atexit.register
def _forget_all() -> None:
    for home in list(_attached):
        forget(home)


def _attach_locked(home: Path, notify: Notify) -> Client:
    lock = runtime.start_lock(home)
    try:
        runtime.make_home(home)
        if not lock.acquire(_NOTICE):
            notify("Waiting for another process that is starting the lmnb server …")
            if not lock.acquire(_OTHER_STARTS):
                raise ServerError("Another process has been starting the lmnb server for too long.")
    except OSError as error:
        raise ServerError(
            f"The folder {home} cannot be used: {error.strerror}.",
            hint="Set LMNB_HOME to a folder that you can write to.",
        ) from None
    try:
        found = _find(home, notify)
        if found is not None and _matches(found[1]):
            return found[0]
        if found is not None:
            _end_idle(*found)
        return _await_server(home, Launch(home), notify)
    finally:
        lock.release()


def _find(home: Path, notify: Notify) -> tuple[Client, Json] | None:
    """The running server and its handshake; None if there is none."""
    record = runtime.read_record(home)
    if record is None or not runtime.listens(record["socket"]):
        return None
    client = _attached.get(home)
    if client is None or client.socket != record["socket"] or client.process != os.getpid():
        forget(home)
        client = _attached[home] = Client(home, record["socket"])
    for patience in (_NOTICE, _ANSWER):
        try:
            return client, client.handshake(timeout=patience)
        except ServerError as error:
            if not isinstance(error.__cause__, httpx2.TimeoutException):
                # It was killed, or is ending right now.
                return None
        if patience == _NOTICE:
            notify("Waiting for the lmnb server to answer …")
    raise ServerError(
        f"The lmnb server (process {record['pid']}) does not answer.",
        hint=f"End it with `kill -9 {record['pid']}`; the next call starts a new one.",
    )


def _matches(handshake: Json) -> bool:
    own = runtime.identity()
    return all(handshake.get(name) == value for name, value in own.items())


def _end_idle(client: Client, handshake: Json) -> None:
    if client.shutdown(if_idle=True):
        return
    own = runtime.identity()
    differences = [
        f"{label} {handshake.get(name)} (yours: {own[name]})"
        for name, label in (("version", "lmnb"), ("python", "Python"), ("build", "llama.cpp"))
        if handshake.get(name) != own[name]
    ]
    using = [*handshake["loaded"], *filter(None, [handshake["listening"]])]
    raise ServerMismatch(
        f"The running server uses {', '.join(differences)}, and it is in use"
        f"{': ' + ', '.join(using) if using else ''}.",
        hint="Stop it with `lmnb stop`, use the environment it was started from, or set "
        "LMNB_HOME to another folder.",
    )


def _await_server(home: Path, launch: Launch, notify: Notify) -> Client:
    noticed = False
    while time.monotonic() - launch.began < _START:
        if found := _find(home, notify):
            return found[0]
        if failure := launch.failure():
            raise failure
        if not noticed and time.monotonic() - launch.began > _NOTICE:
            noticed = True
            notify("Starting the lmnb server …")
        time.sleep(0.02)
    raise ServerError("The lmnb server did not start in time.", hint=see_log(home))


def _silent(_text: str) -> None:
    """Tell nobody."""
