"""Sets of characters, as regular expressions mean them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

Interval = tuple[int, int]

_SYNTAX = r"\/.+*?()|[]{}^$#&-~"
"""What has a meaning in a regular expression, or around it in a grammar."""
_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_ASCII = 0x7F
_MANY = 16
"""Ranges from which on a name for them is looked for."""


class Characters:
    """A set of characters, surrogates left out: no text has them.

    Attributes
    ----------
    intervals
        First and last code points, in order, with gaps between them.
    """

    __slots__ = ("intervals",)

    def __init__(self, intervals: Iterable[Interval]) -> None:
        merged: list[Interval] = []
        for low, high in sorted(_without_surrogates(intervals)):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        self.intervals = tuple(merged)

    def __bool__(self) -> bool:
        return bool(self.intervals)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Characters) and self.intervals == other.intervals

    def __hash__(self) -> int:
        return hash(self.intervals)

    def __or__(self, other: Characters) -> Characters:
        return Characters((*self.intervals, *other.intervals))

    def __invert__(self) -> Characters:
        ends = (-1, *(end for interval in self.intervals for end in interval), _LAST + 1)
        gaps = list(pairwise(ends))[::2]
        return Characters((low + 1, high - 1) for low, high in gaps if low + 1 < high)

    def __and__(self, other: Characters) -> Characters:
        found = []
        mine, others = iter(self.intervals), iter(other.intervals)
        a, b = next(mine, None), next(others, None)
        while a and b:
            if (low := max(a[0], b[0])) <= (high := min(a[1], b[1])):
                found.append((low, high))
            if a[1] < b[1]:
                a = next(mine, None)
            else:
                b = next(others, None)
        return Characters(found)

    def __sub__(self, other: Characters) -> Characters:
        return self & ~other

    def __contains__(self, char: str) -> bool:
        return any(low <= ord(char) <= high for low, high in self.intervals)

    def __iter__(self) -> Iterator[str]:
        return (chr(code) for low, high in self.intervals for code in range(low, high + 1))

    def any_case(self) -> Characters:
        """The set with its letters' other cases; beyond ASCII as far as it is small."""
        small = self if len(self.intervals) < 64 else self & ASCII
        codes = [
            code for low, high in small.intervals for code in range(low, min(high, low + 511) + 1)
        ]
        others = (other for code in codes for other in _cases(chr(code)))
        return self | Characters((ord(other), ord(other)) for other in others)

    def regex(self) -> str:
        """The set in Rust's syntax: a class, or its one character."""
        if len(self.intervals) == 1 and self.intervals[0][0] == self.intervals[0][1]:
            return _code(self.intervals[0][0])
        rest = (self - ASCII).intervals
        known = _classes().get(rest) if len(rest) > _MANY else None
        named = self & ASCII if known else self
        ranges = "".join(_range(low, high) for low, high in named.intervals)
        return f"[{ranges}{known or ''}]"


def of(text: str) -> Characters:
    """The characters of a text."""
    return Characters((ord(char), ord(char)) for char in text)


def _without_surrogates(intervals: Iterable[Interval]) -> Iterator[Interval]:
    first, last = _SURROGATES
    for low, high in intervals:
        if low < first:
            yield low, min(high, first - 1)
        if high > last:
            yield max(low, last + 1), high


def _cases(char: str) -> Iterator[str]:
    return (other for other in (char.lower(), char.upper()) if len(other) == 1)


def _range(low: int, high: int) -> str:
    return _code(low) if low == high else f"{_code(low)}-{_code(high)}"


def _code(code: int) -> str:
    char = chr(code)
    if not char.isascii() or not char.isprintable():
        return f"\\x{{{code:x}}}"
    return f"\\{char}" if char in _SYNTAX else char


@lru_cache(8)
def named(name: str) -> Characters:
    r"""What `\w`, `\d`, `\s` (and in capitals their complements) stand for."""
    if name.isupper():
        return ~named(name.lower())
    spans = (match.span() for match in re.finditer(rf"\{name}+", "".join(ALL)))
    found = Characters((_code_at(begin), _code_at(end - 1)) for begin, end in spans)
    return found - of("\x1c\x1d\x1e\x1f") if name == "s" else found  # space to Python alone


def _code_at(place: int) -> int:
    """The code point of a character in the text of all characters."""
    first, last = _SURROGATES
    return place if place < first else place + last - first + 1


@lru_cache(1)
def _classes() -> dict[tuple[Interval, ...], str]:
    r"""How what is not ASCII is written, where that would take hundreds of ranges."""
    return {(named(name) - ASCII).intervals: rf"[\{name}--[\x00-\x7f]]" for name in "wWdDsS"}


ALL = Characters([(0, _LAST)])
ASCII = Characters([(0, _ASCII)])
LINE_BREAK = of("\n")
