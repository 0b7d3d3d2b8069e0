"""The time that loaded models live by. One place, so that tests can put their own there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """What `Clock.call_later` has set."""

    def cancel(self) -> None:
        """Do not call."""


class Clock(Protocol):
    """Seconds that pass, and what is to happen after some of them."""

    def now(self) -> float:
        """Seconds since some moment."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` on the running event loop once so many seconds have passed."""


class SystemClock:
    """The machine's own. It stands still while the machine sleeps (on Linux)."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` on the running event loop once so many seconds have passed."""
        return asyncio.get_running_loop().call_later(seconds, callback)
