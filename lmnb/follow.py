"""Following what the server does, on a thread in the background.

It follows whichever server there is, and waits for one if there is none: looking on starts no
server, and keeps none from ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

from lmnb import runtime
from lmnb.client import Client
from lmnb.errors import LmnbError

State: TypeAlias = dict[str, Any]
"""A `state` of `Client.events`."""

_PAUSE = 0.5  # Seconds between two looks for a server.


class Follower:
    """Calls `tell` with each new state, and with None when there is no server (any more).

    `tell` is called on the follower's own thread, one call at a time; it should return soon, and
    must not raise. The thread is a daemon: it ends with `close`, or with the process.
    """

    def __init__(self, tell: Callable[[State | None], None], home: Path | None = None) -> None:
        self._tell = tell
        self._home = home or runtime.find_home()
        self._closed = threading.Event()
        self._told: object = self  # Nothing yet.
        self._thread = threading.Thread(target=self._run, name="lmnb-follow", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell nothing any more, from the moment that this returns but for a call that is on.

        The thread ends with the next sign of life of the server, at most 15 s later.
        """
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except LmnbError:
                self._say(None)  # It ended, or was killed; the next one is as good.
            self._closed.wait(_PAUSE)

    def _follow(self) -> None:
        record = runtime.read_record(self._home)
        if record is None or not runtime.listens(record["socket"]):
            self._say(None)
            return
        # A client of its own: `attach` may drop the one it keeps, in the midst of a stream.
        with closing(Client(self._home, record["socket"])) as own, closing(own.events()) as events:
            for event in events:
                if self._closed.is_set():
                    return
                self._say(event)

    def _say(self, state: State | None) -> None:
        if self._closed.is_set() or (state is None and self._told is None):
            return
        self._told = state
        self._tell(state)
