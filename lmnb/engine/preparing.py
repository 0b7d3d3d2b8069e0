"""The preparing thread: what becomes of a request before the engine's loop takes it.

Tokenizing a book, unpacking an image, compiling a grammar and loading a draft model take from
milliseconds to many seconds. They may hold up neither the loop, in which others get their tokens,
nor the reading thread, which has to see that a client has left.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from lmnb.engine.protocol import Abort, Command
from lmnb.engine.recorder import Recorder
from lmnb.engine.watch import TICK, UNKNOWN


class Preparer:
    """Prepares requests one after another, in the order in which they came.

    `prepare` does it; `deliver` hands a request and the result over, or an `Abort` after it.
    Neither may raise.
    """

    def __init__(
        self,
        prepare: Callable[[Command], object | None],
        deliver: Callable[[Command, object | None], None],
        recorder: Recorder,
    ) -> None:
        self._prepare = prepare
        self._deliver = deliver
        self._recorder = recorder
        self._waiting: deque[Command] = deque()
        self._current: int | None = None
        self._is_cancelled = False
        self._ticks = 0
        self._changed = threading.Condition()

    def start(self) -> None:
        """Start the thread. It ends with the process."""
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, command: Command) -> None:
        """Queue a request."""
        with self._changed:
            self._waiting.append(command)
            self._changed.notify()

    def cancel(self, request: int) -> bool:
        """Forget a request that the engine does not have yet; False if it is not here."""
        with self._changed:
            if self._current == request:
                self._is_cancelled = True
                return True
            for command in self._waiting:
                if getattr(command, "id", None) == request:
                    self._waiting.remove(command)
                    return True
        return False

    def is_stuck(self) -> bool:
        """Whether one request takes far too long; to be asked every `watch.TICK` seconds."""
        self._ticks = self._ticks + 1 if self._current is not None else 0
        return self._ticks * TICK > UNKNOWN

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                command = self._waiting.popleft()
                self._current = request = getattr(command, "id", 0)
                self._is_cancelled = False
                self._ticks = 0
            self._recorder.tokenizing(request)
            prepared = self._prepare(command)
            self._recorder.tokenizing(0)
            with self._changed:
                # Within the lock: an abort comes before this, or finds the request in the engine.
                if prepared is not None:
                    self._deliver(command, prepared)
                    if self._is_cancelled:  # the engine has to give back what it holds
                        self._deliver(Abort(request), None)
                self._current = None
