"""Which texts go into a pass together."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from typing import NamedTuple

from lmnb.engine.prefixes import Tokens

BLOCK = 64
"""Tokens of a tile of llama.cpp's flash attention (ggml-cpu/common.h, GGML_FA_TILE_Q, GGML_FA_TILE_KV).

Attention looks at a whole pass, masked, but leaves out a tile of which everything is masked. So a
pass is cheapest whose texts do not cross from one run of 64 tokens to the next.
"""


class Row(NamedTuple):
    """A text: its number in its request, and its tokens."""

    number: int
    tokens: Tokens


class Texts:
    """Texts that wait to be computed, by length."""

    def __init__(self, texts: Iterable[Tokens]) -> None:
        self._rows: dict[int, list[Row]] = {}
        self._lengths: list[int] = []
        """Those of which there are rows, each once, ascending."""
        self.tokens = 0
        """Of all together."""
        for number, tokens in enumerate(texts):
            self.add(Row(number, tokens))

    def __bool__(self) -> bool:
        return bool(self._lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return self._lengths[-1]

    def add(self, row: Row) -> None:
        """Let it wait, too."""
        length = len(row.tokens)
        if length not in self._rows:
            self._rows[length] = []
            insort(self._lengths, length)
        self._rows[length].append(row)
        self.tokens += length

    def take(self, length: int) -> Row:
        """One of this length, which there must be."""
        rows = self._rows[length]
        row = rows.pop()
        if not rows:
            del self._rows[length]
            self._lengths.remove(length)
        self.tokens -= length
        return row

    def next_to(self, used: int, size: int) -> int | None:
        """The length that goes best into a pass of `size` tokens, `used` of them taken; None if none fits.

        It is that of the longest text that fills its block, by itself or with one more; else of the
        longest within the block; else of the longest that fits at all.
        """
        block = BLOCK - used % BLOCK
        fitting = self._lengths[: bisect_right(self._lengths, min(block, size - used))]
        for length in reversed(fitting):
            rest = block - length
            if not rest or len(self._rows.get(rest, ())) > (rest == length):
                return length
        if not fitting:
            fitting = self._lengths[: bisect_right(self._lengths, size - used)]
        return fitting[-1] if fitting else None
