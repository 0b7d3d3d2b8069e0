"""Long texts cut into chunks, which are what embedding models read and searches find.

Tokens are those of the embedding model, counted by the server, which also cuts (semchunk). Where a
chunk begins and ends is known exactly: `document[start:end] == text`, whatever is in the document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lmnb import selection
from lmnb.attaching import attach
from lmnb.errors import InvalidRequest
from lmnb.frame.tally import Tally
from lmnb.frame.values import column, objects, sendable, texts

Splitter = Callable[[str], Iterable[str | tuple[int, int]]]

SIZE = 256
COLUMNS = ("doc_id", "chunk_id", "seq", "start", "end", "text", "n_tokens")
_SLICE_CHARACTERS = 8_000_000
"""Of texts that are sent at once: each time, the server starts a process."""


class Chunk(NamedTuple):
    """A part of a document: characters from `start` to before `end`, which are `tokens` long."""

    start: int
    end: int
    tokens: int


class Chunking:
    """What is asked of `FrameAccessor.chunk`, checked.

    Raises
    ------
    InvalidRequest
        It makes no sense.
    """

    def __init__(
        self, size: int | None, overlap: int, unit: str, splitter: str | Splitter, model: str | None
    ) -> None:
        if unit not in {"tokens", "characters"}:
            raise InvalidRequest(f"unit is 'tokens' or 'characters', not {unit!r}.")
        if callable(splitter):
            if size is not None or overlap:
                raise InvalidRequest("A splitter of one's own decides on size and overlap itself.")
        elif splitter != "semchunk":
            raise InvalidRequest(f"splitter is 'semchunk' or a function, not {splitter!r}.")
        self.size = SIZE if size is None else _whole(size, "size", 1)
        self.overlap = _whole(overlap, "overlap", 0)
        if self.overlap >= self.size:
            raise InvalidRequest(f"overlap ({overlap}) must be less than size ({self.size}).")
        self._unit, self._splitter = unit, splitter
        self._client = attach()
        self._name = model or selection.choose_embedding(self._client, by="model=")
        self._model = self._client.identify(self._name)["key"]

    def of(
        self, frame: pd.DataFrame, on: Any, keep: Sequence[Any], *, progress: bool | None
    ) -> pd.DataFrame:
        """The chunks of the texts in a column, as a table."""
        taken = [name for name in keep if name in COLUMNS]
        if taken:
            raise InvalidRequest(f"keep= names {taken[0]!r}, which is a column of chunks itself.")
        kept = {name: column(frame, name) for name in keep}
        documents = texts(column(frame, on))
        tally = Tally(len(documents), "chunk")
        tally.null = sum(text is None for text in documents)
        with tally.shown(progress):
            chunks = self._chunks(documents, tally)
        found = _table(frame.index, documents, chunks)
        rows = np.repeat(np.arange(len(documents)), [len(some) for some in chunks])
        for name, values in kept.items():
            found[name] = values.iloc[rows].array
        found.attrs["lmnb"] = {**tally.counts(), **self._attributes()}
        return found

    def _attributes(self) -> dict[str, Any]:
        if callable(self._splitter):
            return {"model": self._model}
        return {
            "model": self._model,
            "size": self.size,
            "overlap": self.overlap,
            "unit": self._unit,
        }

    def _chunks(self, documents: Sequence[str | None], tally: Tally) -> list[list[Chunk]]:
        """The chunks of each document; none of nulls."""
        found: list[list[Chunk]] = [[] for _ in documents]
        rows = [row for row, text in enumerate(documents) if text is not None]
        given = [text for text in documents if text is not None]
        cut = self._own(given) if callable(self._splitter) else self._semchunk(given)
        for row, some in zip(rows, cut, strict=True):
            found[row] = some
            tally.ok += 1
            tally.tokens += sum(one.tokens for one in some)
            tally.update()
        return found

    def _semchunk(self, documents: Sequence[str]) -> Iterator[list[Chunk]]:
        options: dict[str, Any] = {"overlap": self.overlap, "unit": self._unit}
        for some in _slices(documents):
            with closing(self._client.chunks(self._name, some, self.size, **options)) as events:
                for event in events:
                    for spans in event.get("spans", ()):
                        yield [Chunk(*span) for span in spans]

    def _own(self, documents: Sequence[str]) -> Iterator[list[Chunk]]:
        assert callable(self._splitter)
        places = [spans(text, self._splitter(text)) for text in documents]
        parts = [
            text[start:end]
            for text, some in zip(documents, places, strict=True)
            for start, end in some
        ]
        counts = iter(list(self._counts(parts)))
        for some in places:
            yield [Chunk(start, end, next(counts)) for start, end in some]

    def _counts(self, parts: Sequence[str]) -> Iterator[int]:
        for some in _slices(parts):
            with closing(self._client.counts(self._name, some)) as events:
                for event in events:
                    yield from event.get("tokens", ())


def spans(text: str, pieces: Iterable[str | tuple[int, int]]) -> list[tuple[int, int]]:
    """Where in a text the pieces lie that somebody has cut it into, but for whitespace.

    A piece is looked for behind the one before it, or, as they may overlap, from its second
    character on.

    Raises
    ------
    InvalidRequest
        A piece is not in the text, or not in order.
    """
    found: list[tuple[int, int]] = []
    start, end = -1, 0
    for piece in pieces:
        if isinstance(piece, str):
            if not piece:
                continue
            place = text.find(piece, end)
            if place < 0 or text[end:place].strip():
                place = text.find(piece, start + 1)
            if place < 0:
                raise InvalidRequest(
                    f"The splitter has made a chunk that is not in the text: {piece[:60]!r}.",
                    hint="Chunks are parts of the text as it is, in order, or pairs of start and end.",
                )
            start, end = place, place + len(piece)
        else:
            start, end = _pair(piece, len(text))
        if text[start:end].strip():
            found.append((start, end))
    return found


def _pair(piece: Any, length: int) -> tuple[int, int]:
    try:
        start, end = (int(one) for one in piece)
    except (TypeError, ValueError):
        raise InvalidRequest(
            f"A splitter makes texts, or pairs of start and end, not {piece!r}."
        ) from None
    if not 0 <= start <= end <= length:
        raise InvalidRequest(f"The splitter has made {piece!r} of a text of {length} characters.")
    return start, end


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidRequest(f"{name} is a whole number, at least {least}, not {value!r}.")
    return int(value)


def _slices(documents: Sequence[str]) -> Iterator[list[str]]:
    """Texts to send together."""
    some: list[str] = []
    size = 0
    for text in documents:
        if some and size + len(text) > _SLICE_CHARACTERS:
            yield some
            some, size = [], 0
        some.append(sendable(text))
        size += len(text)
    if some:
        yield some


def _table(
    index: pd.Index[Any], documents: Sequence[str | None], chunks: Sequence[Sequence[Chunk]]
) -> pd.DataFrame:
    """One row a chunk. `chunk_id` is `label:number`, unique even where labels are not."""
    rows = [row for row, some in enumerate(chunks) for _ in some]
    flat = [one for some in chunks for one in some]
    labels = index.to_flat_index().take(np.array(rows, np.intp))
    parts = [
        (documents[row] or "")[one.start : one.end] for row, one in zip(rows, flat, strict=True)
    ]
    everywhere = pd.RangeIndex(len(flat))
    return pd.DataFrame(
        {
            "doc_id": labels,
            "chunk_id": objects(_ids(labels), everywhere),
            "seq": np.array([seq for some in chunks for seq in range(len(some))], np.int64),
            "start": np.array([one.start for one in flat], np.int64),
            "end": np.array([one.end for one in flat], np.int64),
            "text": objects(parts, everywhere),
            "n_tokens": np.array([one.tokens for one in flat], np.int64),
        },
        index=everywhere,
    )


def _ids(labels: Iterable[Any]) -> list[str]:
    counts: dict[str, int] = {}
    found = []
    for label in map(str, labels):
        number = counts.get(label, 0)
        counts[label] = number + 1
        found.append(f"{label}:{number}")
    return found
