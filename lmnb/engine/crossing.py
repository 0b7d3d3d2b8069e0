"""Tokens in which one text ends and another begins.

A tokenizer knows no borders: in `>{` or `.</` the thinking may end, and the answer begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Crossing(NamedTuple):
    """A token, what it says up to the end of the text, and beyond, white space between left out."""

    token: int
    ending: bytes
    beyond: bytes


class Crossings:
    """The tokens of a vocabulary with which a text may be complete, and which say more than that."""

    def __init__(self, pieces: Sequence[bytes], text: bytes) -> None:
        self._text = text
        # By the bytes of the text that have to stand before; those that hold all of it are under 0.
        self._crossings: list[list[Crossing]] = [[] for _ in text]
        for token, piece in enumerate(pieces):
            if text[-1:] in piece:
                for before, crossings in enumerate(self._crossings):
                    head, found, more = piece.partition(text[before:])
                    if found and more.strip() and not (before and head):
                        crossings.append(Crossing(token, head + found, more.lstrip()))

    def at(self, seen: bytes) -> Iterator[Crossing]:
        """Those that may follow these bytes, in which the text is not complete."""
        met: set[int] = set()
        for before in reversed(range(len(self._text))):  # what is complete first counts
            crossings = self._crossings[before]
            if crossings and seen.endswith(self._text[:before]):
                yield from (one for one in crossings if one.token not in met)
                met.update(one.token for one in crossings)
