"""The server's life: lock, socket, signals, idle exit, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from lmnb import runtime
from lmnb.config import Settings, load_settings
from lmnb.engine.client import Room, Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.protocol import PrefixFolder
from lmnb.errors import LmnbError, ServerError
from lmnb.models.catalog import Catalog
from lmnb.models.clock import Clock
from lmnb.models.instances import Manager
from lmnb.models.loader import StartWorker
from lmnb.models.loading import OnProgress
from lmnb.models.remote.endpoints import Endpoints
from lmnb.server.app import Dispatch, control_app, public_app
from lmnb.server.control import events
from lmnb.server.control.requests import WATCHING
from lmnb.server.control.server import QUIET
from lmnb.server.database import Database
from lmnb.server.devices import Devices
from lmnb.server.journal import Journal, Recorded
from lmnb.server.listeners import Listener, bind_unix
from lmnb.server.log import start_log
from lmnb.server.protocols import make_runner
from lmnb.server.remote import via
from lmnb.server.state import State
from lmnb.server.tcp import TCPControl
from lmnb.server.tokens import Tokens
from lmnb.server.tracking import Activity

LOCKED = 3
"""Exit status: another server of this home holds the lock."""

_log = logging.getLogger(__name__)
_WAIT_FOR_LOCK = 15.0  # Seconds. A server that is ending needs some to stop its workers.
_STOP_WORKERS = 10.0


@dataclass(frozen=True, kw_only=True)
class Own:
    """Options of a server in the foreground, which listens from the start."""

    host: str | None = None
    port: int | None = None
    require_auth: bool | None = None
    allow_open: bool = False


def run(own: Own | None = None) -> int:
    """Be the server until it is told to end or has been idle long enough; the exit status."""
    faulthandler.enable()
    home = runtime.find_home()
    try:
        if _take_lock(home) is None:
            _report(_already_running(home), own)
            return LOCKED
        settings = load_settings(home)
        log = start_log(home, terminal=own is not None)
    except LmnbError as error:
        _report(error, own)
        return 1
    try:
        # Never closed: closing waits for threads without bound. The process is about to end.
        asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_serve(settings, own))
    except LmnbError as error:
        _log.error("%s", error)
        _report(error, own)
        return 1
    except Exception as error:  # noqa: BLE001 - who started us has to be told
        _log.exception("The server failed")
        _report(ServerError(f"The server failed: {error!r}."), own)
        return 1
    finally:
        log.stop()
    return 0


async def _serve(settings: Settings, own: Own | None) -> None:
    state = make_state(settings)
    public = public_app(state)
    state.tcp.app = public
    state.low = Recorded(public_app(state.at_low_priority()), state.journal)
    _handle_signals(state)
    dispatch = Dispatch(Recorded(public, state.journal), control_app(state))
    private = _Private(settings.home, dispatch, state.activity)
    try:
        if own:
            info, _ = await state.tcp.open(
                own.host, own.port, require_auth=own.require_auth, allow_open=own.allow_open
            )
            print(f"lmnb listens on {info.network_url or info.url}", flush=True)  # noqa: T201
        await state.endpoints.start()
        await private.open()
        state.downloads.resume_all()
        await state.batches.start(state.low)
        _log.info("Started, process %d", os.getpid())
        await _until_done(state, private)
    finally:
        await _shut_down(state, private)


def _start(settings: Settings) -> StartWorker:
    """How workers are started: with a place for prefixes on disk if the settings have one by then."""

    def start(
        path: Path,
        config: LoadConfig,
        *,
        log: Path | None,
        on_progress: OnProgress | None,
        room: Room | None,
    ) -> Coroutine[Any, Any, Worker]:
        size = settings.prefix_disk
        folder = str(settings.home / "cache" / "prefixes")
        prefixes = PrefixFolder(folder, size) if size else None
        return Worker.start(
            path, config, log=log, on_progress=on_progress, prefixes=prefixes, room=room
        )

    return start


def make_state(settings: Settings, *, clock: Clock | None = None) -> State:
    """The state of a server with these settings. Blocks (disk); starts nothing.

    `clock` is what TTLs go by, default the machine's.
    """
    database = Database(settings.home / "lmnb.db")
    tokens = Tokens(database)
    activity = Activity()
    catalog = Catalog(settings.home)
    server_id = via.new_id()
    journal = Journal(settings)
    state = State(
        settings=settings,
        id=server_id,
        catalog=catalog,
        models=Manager(catalog, settings, start=_start(settings), clock=clock),
        endpoints=Endpoints(settings, partial(via.passed, server_id)),
        database=database,
        tokens=tokens,
        journal=journal,
        tcp=TCPControl(settings, tokens, activity, journal),
        devices=Devices(),
        activity=activity,
        identity=runtime.identity(),
    )
    state.batches = make_runner(state)
    return state


class _Private:
    """The private socket and its record, put back if somebody cleans them away.

    That happens: a logout removes `$XDG_RUNTIME_DIR`, and temporary folders are swept.
    """

    def __init__(self, home: Path, app: Dispatch, activity: Activity) -> None:
        self._home = home
        self._app = app
        self._activity = activity
        self._path: Path | None = None
        self._inode = 0
        self._listeners: list[Listener] = []

    async def open(self) -> None:
        self._path = runtime.socket_path(self._home)
        sock = bind_unix(self._path)
        self._inode = self._path.stat().st_ino
        listener = Listener(
            self._app, sock, self._activity, quiet=QUIET, watching=WATCHING | {events.PATH}
        )
        await listener.start()
        self._listeners.append(listener)
        # Last: who reads it can connect.
        runtime.write_record(self._home, self._path)

    async def keep(self) -> None:
        """Open again if the socket or the record is gone; connections stay."""
        record = runtime.read_record(self._home)
        with contextlib.suppress(FileNotFoundError):
            if record and self._path and self._path.stat().st_ino == self._inode:
                return
        _log.warning("The socket or its record was removed; making a new one")
        await self.open()

    def hide(self) -> None:
        """Be found no more."""
        runtime.remove_record(self._home)
        with contextlib.suppress(FileNotFoundError):
            if self._path and self._path.stat().st_ino == self._inode:
                self._path.unlink()

    async def close(self) -> None:
        await asyncio.gather(*(listener.stop() for listener in self._listeners))


async def _until_done(state: State, private: _Private) -> None:
    while not state.stopping.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(state.stopping.wait(), 1.0)
        limit = state.settings.idle_exit
        if limit and not state.busy and state.activity.idle_seconds() >= limit:
            _log.info("Idle for %.0f seconds with nothing loaded: ending", limit)
            # Before anything is awaited: nobody can attach in between.
            private.hide()
            return
        await private.keep()


async def _shut_down(state: State, private: _Private) -> None:
    private.hide()
    await asyncio.gather(state.tcp.close(), private.close(), state.batches.stop())
    await state.background.close()
    try:
        await asyncio.wait_for(state.models.close(), _STOP_WORKERS)
    except TimeoutError:
        # They end with this process in any case: their pipe closes.
        _log.warning("Some workers did not stop within %.0f seconds", _STOP_WORKERS)
    await state.renderer.close()
    await state.mcp.close()
    await state.endpoints.close()
    await state.downloads.close()
    state.database.close()
    _log.info("Ended, process %d", os.getpid())


def _handle_signals(state: State) -> None:
    def stop(name: str) -> None:
        if state.stopping.is_set():
            os._exit(130)  # The second one: now. Workers see their pipe close.
        _log.info("Received %s: ending", name)
        state.stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number.name)


def _take_lock(home: Path) -> runtime.Lock | None:
    """The lock; None if a server has it that can be reached.

    One that cannot is ending, which takes it a while, or is about to make its socket anew.
    """
    lock = runtime.server_lock(home)
    deadline = time.monotonic() + _WAIT_FOR_LOCK
    try:
        runtime.make_home(home)
        while not lock.acquire(0.1):
            record = runtime.read_record(home)
            reachable = record is not None and runtime.listens(record["socket"])
            if reachable or time.monotonic() > deadline:
                return None
    except OSError as error:
        raise ServerError(
            f"The folder {home} cannot be used: {error.strerror}.",
            hint="Set LMNB_HOME to a folder that you can write to.",
        ) from None
    return lock


def _already_running(home: Path) -> ServerError:
    record = runtime.read_record(home)
    who = f" (process {record['pid']})" if record else ""
    return ServerError(
        f"A server of {home} is already running{who}.",
        hint="Stop it with `lmnb stop`, or use it: leave out --own.",
    )


def _report(error: LmnbError, own: Own | None) -> None:
    """Tell who started this process: a person reads text, a client the last line as JSON."""
    text = f"lmnb: {error}" if own else json.dumps(error.to_dict())
    print(text, file=sys.stderr, flush=True)  # noqa: T201
