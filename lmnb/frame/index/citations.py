"""Whether what an answer quotes stands where it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import pandas as pd

from lmnb.frame.values import is_null

Status: TypeAlias = Literal["supported", "misattributed", "not_found"]

COLUMNS = {
    "marker": "Int64",
    "chunk_id": "object",
    "doc_id": "object",
    "page": "object",
    "quote": "string",
    "status": "string",
    "found_in": "Int64",
    "start": "Int64",
    "end": "Int64",
}


class Quote(NamedTuple):
    """What an answer says to stand in the source of that number, from 1."""

    marker: int
    text: str


class Place(NamedTuple):
    """Where a quote stands: characters from `start` to before `end` of the source of that number."""

    marker: int
    start: int
    end: int


def find(quote: str, text: str) -> tuple[int, int] | None:
    """Where a quote stands in a text, word for word; white space of any kind and length is one.

    It begins and ends where words do: "cat" is not in "category".
    """
    words = quote.split()
    if not words:
        return None
    pattern = r"\s+".join(map(re.escape, words))
    found = re.search(rf"(?:(?<!\w)|(?!\w)){pattern}(?:(?!\w)|(?<!\w))", text)
    return found.span() if found else None


def check(quote: Quote, sources: Sequence[str]) -> tuple[Status, Place | None]:
    """Whether a quote stands in its source, else in another one, or nowhere."""
    others = [marker for marker in range(1, len(sources) + 1) if marker != quote.marker]
    for marker in (quote.marker, *others):
        span = find(quote.text, sources[marker - 1])
        if span is not None:
            return "supported" if marker == quote.marker else "misattributed", Place(marker, *span)
    return "not_found", None


def records(quotes: Sequence[Quote], context: pd.DataFrame, on: Any) -> list[dict[str, Any]]:
    """A row for each quote, of `COLUMNS`.

    `context` has the sources in order, as a search finds them. Offsets are those in the document
    where the source has a `start` in it, as chunks have; else in the source.
    """
    sources = context[on].tolist()
    rows = context.to_dict("records")
    found = []
    for quote in quotes:
        status, place = check(quote, sources)
        cited, base = rows[quote.marker - 1], 0
        if place is not None:
            begin = rows[place.marker - 1].get("start")
            base = 0 if is_null(begin) else int(begin)
        found.append(
            {
                "marker": quote.marker,
                "chunk_id": cited.get("chunk_id", cited["id"]),
                "doc_id": cited.get("doc_id"),
                "page": cited.get("page"),
                "quote": quote.text,
                "status": status,
                "found_in": place and place.marker,
                "start": place and place.start + base,
                "end": place and place.end + base,
            }
        )
    return found


def table(found: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """These rows as a table."""
    return pd.DataFrame(
        {
            name: pd.Series([row[name] for row in found], dtype=dtype)
            for name, dtype in COLUMNS.items()
        }
    )
