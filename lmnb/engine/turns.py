"""Whose turn it is, of groups that cannot be computed together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

SLICE_SECONDS = 0.1
"""A turn, at least: a forward pass that has begun is finished."""


class Turns(Generic[T]):
    """Equal shares of time, one group after the other; who leaves gives the turn to the next."""

    def __init__(self, first: T) -> None:
        self.current = first
        self._since = 0.0
        self._served: dict[T, float] = {}

    def take(self, groups: Iterable[T]) -> T:
        """The group of the next step, of those that have something to compute.

        Without any it is the last one.
        """
        present = dict.fromkeys(groups)
        now = monotonic()
        is_over = now - self._since >= SLICE_SECONDS
        if present and (self.current not in present or (is_over and len(present) > 1)):
            self._served[self.current] = now
            self._served = {g: when for g, when in self._served.items() if g in present}
            self.current = min(present, key=lambda group: self._served.get(group, 0.0))
            self._since = now
        return self.current
