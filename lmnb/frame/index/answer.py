"""An answer with what it is said to be from."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import pandas as pd

_MARKS = {"supported": "✓", "misattributed": "≠", "not_found": "✗"}
_WORDS = {
    "supported": "stands there",
    "misattributed": "stands in another source",
    "not_found": "stands in no source",
}


@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """What a model has answered from sources.

    text
        The answer; `[2]` stands behind what is said to be from the second source.
    citations
        A row for each quote: `marker`, `chunk_id` (else the row's label), `doc_id`, `page`, `quote`,
        `status` ("supported": it stands in that source word for word; "misattributed": in another,
        `found_in`; "not_found": in none), and `start` and `end`, its characters in the document.
    context
        The sources, as the search found them, with their `marker`.
    prompt
        What the model was asked.
    """

    text: str
    citations: pd.DataFrame
    context: pd.DataFrame
    prompt: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        lines = [
            f"[{row.marker}] {_MARKS[row.status]} {row.quote!r}"
            for row in self.citations.itertuples()
        ]
        return "\n".join([self.text, *lines])

    def _repr_html_(self) -> str:
        items = "".join(
            f"<li>[{row.marker}] {_MARKS[row.status]} <q>{escape(row.quote)}</q> "
            f"<small>{escape(_where(row))}, {_WORDS[row.status]}</small></li>"
            for row in self.citations.itertuples()
        )
        listed = f"<ul style='list-style:none'>{items}</ul>" if items else ""
        return f"<p style='white-space:pre-wrap'>{escape(self.text)}</p>{listed}"


def _where(row: object) -> str:
    """Which part of which document a citation names, as far as is known."""
    parts = {"": "chunk_id", "of ": "doc_id", "page ": "page"}
    named = [(word, getattr(row, name)) for word, name in parts.items()]
    return " ".join(f"{word}{value}" for word, value in named if not pd.isna(value))
