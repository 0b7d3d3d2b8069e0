"""Sets of characters of a text, as intervals: in order, from a start to before an end, apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Intervals: TypeAlias = Sequence[tuple[int, int]]


def merged(pairs: Iterable[tuple[int, int]]) -> Intervals:
    """What any of them covers."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(pairs):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def length(some: Intervals) -> int:
    """How many characters."""
    return sum(end - start for start, end in some)


def common(some: Intervals, others: Intervals) -> int:
    """How many characters are in both."""
    found = place = other = 0
    while place < len(some) and other < len(others):
        (start, end), (first, last) = some[place], others[other]
        found += max(0, min(end, last) - max(start, first))
        if end < last:
            place += 1
        else:
            other += 1
    return found
