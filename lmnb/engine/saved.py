"""Sequences in host memory, within a budget, and what becomes of them beyond it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lmnb.engine.prefixes import Prefixes, Tokens

_SESSION_GRACE = 256
"""A session's states count as used so many requests later than they were: who names its session
comes back. It is an advance, not a privilege, or abandoned sessions would fill the memory."""


class Kept:
    """Tokens whose state is somewhere, in a slot or in host memory.

    start
        First position of which a sliding-window model still has all keys; 0 for all others.
    session
        The client's name for the conversation, if it gave one.
    last_used
        By the count of requests.
    """

    def __init__(self, tokens: Tokens, start: int = 0, session: str | None = None) -> None:
        self.tokens = tokens
        self.start = start
        self.session = session
        self.last_used = 0

    @property
    def rank(self) -> int:
        """Smallest is evicted first."""
        return self.last_used + (_SESSION_GRACE if self.session else 0)


class Saved(Kept):
    """A copy in host memory, or on disk.

    `partial`: only what cannot be trimmed is in it (recurrent state, keys in the window). It makes
    `tokens` out of any slot whose cells begin with them. `data` is None and `path` tells where it
    is once it is on disk only. `size` is in bytes.
    """

    def __init__(
        self,
        tokens: Tokens,
        data: NDArray[np.uint8] | None,
        *,
        partial: bool = False,
        start: int = 0,
        session: str | None = None,
    ) -> None:
        super().__init__(tokens, start, session)
        self.data = data
        self.partial = partial
        self.size = tokens.nbytes + (0 if data is None else data.nbytes)
        self.path: Path | None = None


class Files(Protocol):
    """Where copies go that host memory has no room for (`spill.Disk`)."""

    def found(self) -> list[Saved]:
        """What earlier processes have left."""

    def write(self, saved: Saved) -> bool:
        """Take a copy; False if that cannot be done now."""

    def holds(self, saved: Saved) -> bool:
        """Whether it is still there: other processes make room for their own."""

    def read(self, saved: Saved) -> NDArray[np.uint8] | None:
        """Its data; None if it is lost."""

    def remove(self, saved: Saved) -> None:
        """Forget it."""


class Store:
    """What is saved, found through the tree that it shares with the slots."""

    def __init__(self, budget: int, prefixes: Prefixes[Kept], files: Files | None = None) -> None:
        self._budget = budget
        self._prefixes = prefixes
        self._files = files
        self._in_memory: set[Saved] = set()
        self._on_disk: set[Saved] = set()
        self.bytes = 0
        for saved in files.found() if files is not None else ():
            self._on_disk.add(saved)
            prefixes.add(saved.tokens, saved)

    def __len__(self) -> int:
        return len(self._in_memory) + len(self._on_disk)

    def fits(self, size: int) -> bool:
        """Whether a copy of so many bytes may be made at all."""
        return 0 < size <= self._budget

    def add(self, saved: Saved) -> None:
        """Keep a copy; what was used least recently makes room for it."""
        while self._in_memory and self.bytes + saved.size > self._budget:
            oldest = min(self._in_memory, key=lambda kept: kept.rank)
            self.drop(oldest)
            self.put_on_disk(oldest)
        self._in_memory.add(saved)
        self._prefixes.add(saved.tokens, saved)
        self.bytes += saved.size

    def put_on_disk(self, saved: Saved) -> None:
        """Keep a copy that is not in memory any more, or has never been, if there is a place."""
        if self._files is not None and not saved.partial and self._files.write(saved):
            self._on_disk.add(saved)
            self._prefixes.add(saved.tokens, saved)

    def holds(self, saved: Saved) -> bool:
        """Whether a copy is still there; if it is not, it is forgotten."""
        if saved in self._on_disk and self._files is not None and not self._files.holds(saved):
            self.drop(saved)
            return False
        return True

    def data(self, saved: Saved) -> NDArray[np.uint8] | None:
        """A copy's data; None if its file is gone."""
        if saved not in self._on_disk or self._files is None:
            return saved.data
        data = self._files.read(saved)
        if data is None:
            self.drop(saved)
        return data

    def drop(self, saved: Saved) -> None:
        """Forget a copy."""
        self._prefixes.discard(saved)
        if saved in self._in_memory:
            self._in_memory.remove(saved)
            self.bytes -= saved.size
        elif saved in self._on_disk and self._files is not None:
            self._on_disk.remove(saved)
            self._files.remove(saved)

    def clear(self) -> None:
        """Forget all copies."""
        for saved in (*self._in_memory, *self._on_disk):
            self.drop(saved)

    def beginning(self, tokens: Tokens) -> list[Saved]:
        """The copies of what `tokens` begin with, longest first."""
        return [
            kept
            for common, kept in self._prefixes.matches(tokens)
            if isinstance(kept, Saved) and common == len(kept.tokens)
        ]
