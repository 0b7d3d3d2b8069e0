"""Cuts texts into chunks of at most so many of a model's tokens, at the best places there are.

semchunk decides on the places: between paragraphs, lines, sentences, clauses, words, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
    found = []
    for text in command.texts:
        cut: Any = chunker(text, offsets=True, overlap=command.overlap or None)
        _, places = cut
        found.append(tuple(_spans(model, text, places)))
    return Chunked(command.id, tuple(found))


def counted(model: Model, command: Count) -> Counted:
    """The tokens of each text."""
    return Counted(command.id, tuple(map(model.count, command.texts)))


def _spans(model: Model, text: str, places: Iterable[tuple[int, int]]) -> Iterator[Span]:
    """Of whitespace at the end of a text, semchunk makes a part of the last chunk."""
    for start, end in places:
        part = text[start:end]
        if words := part.strip():
            begin = start + len(part) - len(part.lstrip())
            yield Span(begin, begin + len(words), model.count(words))
