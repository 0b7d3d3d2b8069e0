"""How many CPU threads a forward pass gets, by how busy the rest of the machine is.

The threads of a forward pass meet at a barrier after every operation, hundreds of times a token,
and wait for each other spinning. That is the fastest way on an idle machine. With a busy neighbour
on one of the cores it is the slowest: whichever thread loses its core makes all others spin until it
gets it back. So as many threads are used as there are cores left by others, which two models that
run at the same time see of each other, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

_INTERVAL = 0.25
_HYSTERESIS = 0.15
"""Of a core: how far beyond the middle between two counts the load must be to change the count."""
_AT_WORK = 0.5
"""Cores this process uses, at least, while it computes and is let."""


class Threads:
    """Chooses a number of threads from 1 to `most`; always `most` if it is not `adaptive`."""

    def __init__(
        self,
        most: int,
        *,
        adaptive: bool,
        cores: int | None = None,
        busy: Callable[[], float] | None = None,
        own: Callable[[], float] = time.process_time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most
        self.count = most
        self._adaptive = adaptive and most > 1
        self._cores = cores or os.cpu_count() or most
        self._busy, self._own, self._now = busy or _busy_seconds, own, now
        self._others = 0.0
        self._last: tuple[float, float, float] | None = None

    def update(self) -> int:
        """The number for the next forward pass. Looks at the machine a few times a second."""
        if not self._adaptive:
            return self.count
        now = self._now()
        if self._last is None:
            self._last = (now, self._busy(), self._own())
        then, busy_then, own_then = self._last
        if now - then < _INTERVAL:
            return self.count
        busy, own = self._busy(), self._own()
        self._last = (now, busy, own)
        used, mine = (busy - busy_then) / (now - then), (own - own_then) / (now - then)
        others = max(0.0, used - mine)
        if mine < _AT_WORK and used < self._cores - _AT_WORK:
            # It paused, and whoever was busy may be waiting for its answer now: the notebook that
            # asks, the server that has loaded the model. So only those who rested count.
            others = min(others, self._others)
        # What was before counts half after an interval, and hardly after a long pass or a pause.
        before = 0.5 ** ((now - then) / _INTERVAL)
        self._others = before * self._others + (1 - before) * others
        self.count = self._choose(self._cores - self._others)
        return self.count

    def forget(self) -> None:
        """Look from the next pass on: what has been until now, a load, says nothing about passes."""
        self._last = None

    def _choose(self, free: float) -> int:
        lean = _HYSTERESIS if free < self.count else -_HYSTERESIS
        wanted = int(free + 0.5 + lean)
        return max(1, min(self.most, wanted))


def _busy_seconds() -> float:
    """CPU seconds all processes of the machine have used, those taken by other guests included."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Guest time is part of user time already.
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guest)
