"""What a run has done so far: shown while it runs, told in a line at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
        self._bar: Any = None

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
        """Show a bar during the block, and then the line.

        `wanted` None is: in notebooks and terminals, if it takes longer than a moment.
        """
        from tqdm import tqdm

        hidden = not wanted if wanted is not None else not _somebody_looks()
        self._bar = tqdm(
            total=self.total,
            desc=self.label,
            unit="row",
            file=sys.stdout,
            leave=False,
            disable=hidden,
            delay=0 if wanted else _PATIENCE,
            dynamic_ncols=True,
        )
        try:
            yield
        finally:
            self._bar.close()
            self._bar = None
            if wanted or (not hidden and self.seconds > _PATIENCE):
                sys.stdout.write(f"{self.label}: {self.line()}\n")
                sys.stdout.flush()

    def update(self) -> None:
        """Show what has changed."""
        if self._bar is not None and not self._bar.disable:
            errors = [f"{self.error} error"] if self.error else []
            self._bar.set_postfix_str(", ".join([*self._rates()[1:], *errors]), refresh=False)
            self._bar.update(self.done - self._bar.n)

    def _rates(self) -> list[str]:
        computed = self.done - self.null - self.cached
        if computed <= 0:
            return []
        seconds = max(self.seconds, 1e-3)
        return [f"{computed / seconds:.3g} rows/s", f"{self.tokens / seconds:.3g} tok/s"]


def _somebody_looks() -> bool:
    """Whether output goes to a notebook or a terminal."""
    return "ipykernel" in type(sys.stdout).__module__ or sys.stdout.isatty()
