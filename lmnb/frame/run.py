"""One run over a table: what is known from before, what has to be computed, what is kept.

Rows that ask the same are asked once. An interrupt loses nothing that was answered: it lies in the
cache, and the next run goes on from there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd

from lmnb.frame.cache import Cache
from lmnb.frame.tally import Tally

last_partial: pd.DataFrame | pd.Series[Any] | None = None
"""What a run that did not come to its end had made of its table."""

NULL = "null input"


class Rows:
    """The rows of a table by the key of what they ask.

    keys
        Of each row; None where there is nothing to ask.
    values, errors
        By key, as far as they are there.
    """

    def __init__(self, keys: Sequence[bytes | None], tally: Tally) -> None:
        self.keys = keys
        self.tally = tally
        self.values: dict[bytes, Any] = {}
        self.errors: dict[bytes, str] = {}
        self._counts: dict[bytes, int] = {}
        for one in keys:
            if one is None:
                tally.null += 1
            else:
                self._counts[one] = self._counts.get(one, 0) + 1

    def recall(self, cache: Cache, read: Callable[[bytes], Any]) -> list[bytes]:
        """Take what is in the cache; the keys that are not, each once."""
        for found, value in cache.get(list(self._counts)).items():
            self.values[found] = read(value)
            self.tally.ok += self._counts[found]
            self.tally.cached += self._counts[found]
        self.tally.update()
        return [one for one in self._counts if one not in self.values]

    def add(self, key: bytes, value: Any) -> None:
        """A result."""
        self.values[key] = value
        self.tally.ok += self._counts[key]
        self.tally.update()

    def fail(self, key: bytes, error: str) -> None:
        """No result, and why."""
        self.errors[key] = error
        self.tally.error += self._counts[key]
        self.tally.update()

    def results(self) -> list[Any]:
        """The value of each row, or None."""
        return [None if one is None else self.values.get(one) for one in self.keys]

    def failures(self) -> dict[int, str]:
        """Why rows have failed, by their positions; those with nothing to ask have not."""
        return {row: self.errors[key] for row, key in enumerate(self.keys) if key in self.errors}

    def reasons(self) -> list[str | None]:
        """Why each row has no value; None where it has, or where nothing was asked yet."""
        return [NULL if one is None else self.errors.get(one) for one in self.keys]


@contextmanager
def resumable(
    tally: Tally,
    make: Callable[[], pd.DataFrame | pd.Series[Any]],
    *,
    kept: bool,
    progress: bool | None,
) -> Iterator[None]:
    """Show progress during a block; if it fails or is stopped, keep what `make` makes of it.

    `kept`: what was computed lies in the cache.
    """
    global last_partial  # noqa: PLW0603 - it is read as `lmnb.last_partial`
    try:
        with tally.shown(progress):
            yield
    except BaseException as error:
        last_partial = make()
        if isinstance(error, KeyboardInterrupt):
            saved = f"saved {tally.done} of {tally.total}; run the cell again to continue"
            lost = f"{tally.done} of {tally.total} are in lmnb.last_partial"
            sys.stdout.write(f"{tally.label}: {saved if kept else lost}\n")
            sys.stdout.flush()
        raise
