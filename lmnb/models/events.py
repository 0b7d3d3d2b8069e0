"""What a download says while it runs. `msgspec.to_builtins` makes them JSON-ready."""

from __future__ import annotations

import time
from typing import TypeAlias

import msgspec


class Started(msgspec.Struct, frozen=True, tag="started", kw_only=True):
    """The files of `model` are known: `total` bytes to fetch, of which `done` are here already."""

    model: str
    files: tuple[str, ...]
    total: int | None
    done: int = 0


class Progress(msgspec.Struct, frozen=True, tag="progress", kw_only=True):
    """Bytes of all files together; `file` is the one being worked on. About five a second."""

    file: str
    done: int
    total: int | None
    bytes_per_second: float | None = None
    eta_seconds: float | None = None


class Note(msgspec.Struct, frozen=True, tag="note"):
    """One sentence for the user."""

    text: str


class Done(msgspec.Struct, frozen=True, tag="done", kw_only=True):
    """The model is here and checked. Always the last event, and exactly one."""

    key: str
    path: str
    size_bytes: int


DownloadEvent: TypeAlias = Started | Progress | Note | Done

_WINDOW = 5.0  # Seconds over which the speed is averaged.


class Meter:
    """Turns byte counts into `Progress` with speed and time left, at most five a second."""

    def __init__(self, total: int | None, done: int = 0) -> None:
        self.total = total
        self._samples = [(time.monotonic(), done)]
        self._last = 0.0

    def sample(self, file: str, done: int) -> Progress | None:
        """A `Progress` if it is time for one."""
        now = time.monotonic()
        at_end = done == self.total and self._samples[-1][1] != done
        if now - self._last < 0.2 and not at_end:
            return None
        self._last = now
        # After a restart of the transfer the count begins again; so does the average.
        if done < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW:
            del self._samples[0]
        return Progress(
            file=file,
            done=done,
            total=self.total,
            bytes_per_second=self._speed(),
            eta_seconds=self._time_left(done),
        )

    def _speed(self) -> float | None:
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - start) if end - start > 0.1 else None

    def _time_left(self, done: int) -> float | None:
        speed = self._speed()
        return max(self.total - done, 0) / speed if speed and self.total is not None else None
