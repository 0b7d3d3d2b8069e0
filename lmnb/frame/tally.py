"""What a run has done so far: shown while it runs, told in a line at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lmnb.notebook.units import duration

if TYPE_CHECKING:
    from lmnb.notebook.progress import Progress

_PATIENCE = 2.0
"""Seconds: what is quicker shows nothing."""


class Tally:
    """Counts of rows, and of tokens that were computed.

    `total` rows in all. Of the `done` ones `ok` have a result, `error` and `null` have none; `cached`
    of them were computed before.
    """

    def __init__(self, total: int, label: str) -> None:
        self.total = total
        self.ok = self.error = self.null = self.cached = self.tokens = 0
        self.label = label
        self._began = time.monotonic()
        self._progress: Progress | None = None

    @property
    def done(self) -> int:
        """Rows that nothing is left to do for."""
        return self.ok + self.error + self.null

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began

    def counts(self) -> dict[str, int]:
        """The counts, for `attrs`."""
        return {name: getattr(self, name) for name in ("ok", "error", "null", "cached", "tokens")}

    def line(self) -> str:
        """Such as `991 ok, 6 error, 3 null, 412 cached, 21 rows/s, 38 tok/s`."""
        counts = [f"{self.ok} ok"]
        counts += [
            f"{n} {name}" for name in ("error", "null", "cached") if (n := getattr(self, name))
        ]
        return ", ".join([*counts, *self._rates()])

    @contextmanager
    def shown(self, wanted: bool | None) -> Iterator[None]:
        """Show how far it is during the block, and then the line.

        `wanted` None is: in notebooks and terminals, if it takes longer than a moment.
        """
        from lmnb.notebook.output import is_notebook
        from lmnb.notebook.progress import Progress

        visible = wanted if wanted is not None else is_notebook() or sys.stdout.isatty()
        if not visible:
            yield
            return
        self._progress = Progress(self.label)
        try:
            with self._progress.running():
                yield
        finally:
            if wanted or self.seconds > _PATIENCE:
                self._progress.finish({"text/plain": f"{self.label}: {self.line()}"})
            else:
                self._progress.remove()
            self._progress = None

    def update(self) -> None:
        """Show what has changed."""
        if self._progress is not None:
            errors = [f"{self.error} error"] if self.error else []
            parts = [f"{self.done} of {self.total}", *self._rates()[1:], *errors, *self._left()]
            self._progress.set(self.done / max(self.total, 1), " · ".join(parts))

    def _left(self) -> list[str]:
        """Such as `12 s left`, once that can be told."""
        if not (computed := self.done - self.null - self.cached):
            return []
        return [f"{duration(self.seconds / computed * (self.total - self.done))} left"]

    def _rates(self) -> list[str]:
        computed = self.done - self.null - self.cached
        if computed <= 0:
            return []
        seconds = max(self.seconds, 1e-3)
        return [f"{computed / seconds:.3g} rows/s", f"{self.tokens / seconds:.3g} tok/s"]
