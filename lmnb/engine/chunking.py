"""Cuts texts into chunks of at most so many of a model's tokens, at the best places there are.

semchunk decides on the places: between paragraphs, lines, sentences, clauses, words, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmnb.engine.model import Model
from lmnb.engine.protocol import Chunk, Chunked, Count, Counted, Span

_REMEMBERED = 4096
"""Texts of which the counts are remembered: semchunk asks for many of them twice."""


def chunked(model: Model, command: Chunk) -> Chunked:
    """The chunks of each text. Whitespace between two of them, and around the text, is in none."""
    # Here, as only a vocabulary is asked for this: a worker that generates never imports it.
    from semchunk.semchunk import chunkerify

    count: Callable[[str], int] = model.count if command.unit == "tokens" else len
    longest = max(map(len, model.pieces)) if command.unit == "tokens" else None
    chunker = chunkerify(
        count, command.size, max_token_chars=longest, memoize=True, cache_maxsize=_REMEMBERED
    )

    def cut(text: str, overlap: int | None) -> list[tuple[int, int]]:
        places: Any = chunker(text, offsets=True, overlap=overlap)
        return [_stripped(text, *place) for place in places[1]]

    found = []
    for text in command.texts:
        spans = []
        done = 0
        for start, end in cut(text, command.overlap or None):
            parts = [(start, end)]
            if count(text[start:end]) > command.size:
                # Joining overlaps, semchunk leaves the whitespace between them out of its reckoning.
                within = cut(text[start:end], None)
                parts = [(start + first, start + last) for first, last in within]
            for first, last in parts:
                if last > done:
                    spans.append(Span(first, last, model.count(text[first:last])))
                    done = last
        found.append(tuple(spans))
    return Chunked(command.id, tuple(found))


def counted(model: Model, command: Count) -> Counted:
    """The tokens of each text."""
    return Counted(command.id, tuple(map(model.count, command.texts)))


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """Of whitespace at the end of a text, semchunk makes a part of the last chunk; alone it is none."""
    part = text[start:end]
    words = part.strip()
    begin = start + len(part) - len(part.lstrip()) if words else start
    return begin, begin + len(words)
