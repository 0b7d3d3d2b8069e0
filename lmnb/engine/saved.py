"""Sequences in host memory, within a budget."""

from __future__ import annotations

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
    """A copy in host memory.

    `partial`: only what cannot be trimmed is in it (recurrent state, keys in the window). It makes
    `tokens` out of any slot whose cells begin with them.
    """

    def __init__(
        self,
        tokens: Tokens,
        data: NDArray[np.uint8],
        *,
        partial: bool = False,
        start: int = 0,
        session: str | None = None,
    ) -> None:
        super().__init__(tokens, start, session)
        self.data = data
        self.partial = partial

    @property
    def size(self) -> int:
        """Bytes of host memory."""
        return self.data.nbytes + self.tokens.nbytes


class Store:
    """What is saved, found through the tree that it shares with the slots."""

    def __init__(self, budget: int, prefixes: Prefixes[Kept]) -> None:
        self._budget = budget
        self._prefixes = prefixes
        self._saved: set[Saved] = set()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._saved)

    def fits(self, size: int) -> bool:
        """Whether a copy of so many bytes may be made at all."""
        return 0 < size <= self._budget

    def add(self, saved: Saved) -> None:
        """Keep a copy; what was used least recently makes room for it."""
        while self._saved and self.bytes + saved.size > self._budget:
            self.drop(min(self._saved, key=lambda kept: kept.rank))
        self._saved.add(saved)
        self._prefixes.add(saved.tokens, saved)
        self.bytes += saved.size

    def drop(self, saved: Saved) -> None:
        """Forget a copy."""
        self._saved.remove(saved)
        self._prefixes.discard(saved)
        self.bytes -= saved.size

    def clear(self) -> None:
        """Forget all copies."""
        for saved in list(self._saved):
            self.drop(saved)

    def beginning(self, tokens: Tokens) -> list[Saved]:
        """The copies of what `tokens` begin with, longest first."""
        return [
            kept
            for common, kept in self._prefixes.matches(tokens)
            if isinstance(kept, Saved) and common == len(kept.tokens)
        ]
