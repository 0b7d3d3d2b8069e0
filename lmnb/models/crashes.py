"""Models whose processes crash again and again are not started for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lmnb.errors import EngineCrashed, KeepsCrashing
from lmnb.models.entry import ModelEntry

MOST = 3
"""Crashes in a row, with no answer in between, after which a model rests."""
WINDOW = 900.0
"""Seconds after which a crash is forgotten."""
PAUSE = 300.0
"""Seconds of rest after the last crash. One more try follows: the next crash begins another rest."""


@dataclass(frozen=True)
class Row:
    """`count` crashes of a model in a row. `last` is when the last one was."""

    entry: ModelEntry
    count: int
    last: float
    error: EngineCrashed


class Crashes:
    """The crashes of each model file."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._rows: dict[Path, Row] = {}

    def record(self, entry: ModelEntry, error: EngineCrashed, *, answered: bool) -> None:
        """A process has crashed. `answered`: it had answered something until then."""
        before = self._rows.get(entry.path)
        now = self._now()
        goes_on = before is not None and not answered and now - before.last < WINDOW
        count = before.count + 1 if before and goes_on else 1
        self._rows[entry.path] = Row(entry, count, now, error)

    def forget(self, entry: ModelEntry) -> None:
        """Begin anew: somebody wants it loaded all the same."""
        self._rows.pop(entry.path, None)

    def check(self, entry: ModelEntry) -> None:
        """Raise `KeepsCrashing` if the model has to rest."""
        row = self._rows.get(entry.path)
        left = self._rest(row) if row else 0.0
        if row is None or not left:
            return
        minutes = max(1, round(left / 60))
        raise KeepsCrashing(
            f"{entry.key} has crashed {row.count} times in a row without an answer, and is not "
            f"loaded again for {minutes} minute{'s' if minutes > 1 else ''}. "
            f"The last time: {row.error.message}",
            hint=f"`lmnb load {entry.key}` tries again at once. {row.error.hint or ''}".strip(),
        )

    def resting(self) -> list[tuple[Row, float]]:
        """What is not to be loaded now, and for how many seconds."""
        return [(row, left) for row in self._rows.values() if (left := self._rest(row))]

    def _rest(self, row: Row) -> float:
        if row.count < MOST:
            return 0.0
        return max(0.0, row.last + PAUSE - self._now())
