"""What is relevant to a query: documents by grades (qrels), or places in documents (spans)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.experiments.intervals import Intervals, merged
from lmnb.frame.values import column

Grades = dict[Hashable, dict[Hashable, int]]
Spans = dict[Hashable, dict[Hashable, Intervals]]


class Relevance(NamedTuple):
    """What is relevant, by the labels of queries and of documents.

    grades
        Of documents: 0 and below is not relevant. Queries without a relevant document are left out.
    spans
        The characters that answer, if these are known; then each document that has some is of grade 1.
    """

    grades: Grades
    spans: Spans | None

    @property
    def documents(self) -> set[Hashable]:
        """Those that are relevant to a query."""
        return {name for some in self.grades.values() for name, grade in some.items() if grade > 0}

    def only(self, queries: Iterable[Hashable]) -> Relevance:
        """What is known about these queries, in their order."""
        known = [query for query in queries if query in self.grades]
        spans = None if self.spans is None else {query: self.spans[query] for query in known}
        return Relevance({query: self.grades[query] for query in known}, spans)


def parse(given: Any) -> Relevance:
    """The relevance that is meant; see `lmnb.evaluate`.

    Raises
    ------
    InvalidRequest
        It is none of the forms, or nothing is relevant to any query.
    """
    spans: Spans | None = None
    if isinstance(given, pd.DataFrame) and {"start", "end"} & set(given.columns):
        spans = _spans(given)
        grades: Grades = {query: dict.fromkeys(some, 1) for query, some in spans.items()}
    else:
        grades = _graded(_judgements(given))
    relevant = {query: some for query, some in grades.items() if max(some.values()) > 0}
    if not relevant:
        raise InvalidRequest("Nothing is said to be relevant to any query.")
    return Relevance(relevant, spans)


def _judgements(given: Any) -> Iterable[tuple[Hashable, Hashable, Any]]:
    """Query, document, grade."""
    if isinstance(given, pd.DataFrame):
        queries, documents = column(given, "query_id"), column(given, "doc_id")
        grades = given["relevance"] if "relevance" in given.columns else [1] * len(given)
        return zip(queries, documents, grades, strict=True)
    if isinstance(given, pd.Series):
        return [(query, name, 1) for query, name in given.items()]
    if isinstance(given, Mapping):
        return [
            (query, name, grade)
            for query, some in given.items()
            for name, grade in _documents(some).items()
        ]
    raise InvalidRequest(
        f"What is relevant is a table, a column or a dict, not {type(given).__name__}.",
        hint="Tables have query_id, doc_id and relevance, or query_id, doc_id, start and end.",
    )


def _documents(some: Any) -> Mapping[Hashable, Any]:
    """The documents of one query in a dict: with grades, several, or one."""
    if isinstance(some, Mapping):
        return some
    return dict.fromkeys(some if isinstance(some, list | set) else [some], 1)


def _graded(judgements: Iterable[tuple[Hashable, Hashable, Any]]) -> Grades:
    found: Grades = {}
    for query, name, grade in judgements:
        if not isinstance(grade, Integral) and not (
            isinstance(grade, float) and grade.is_integer()
        ):
            raise InvalidRequest(
                f"The relevance of {name!r} to the query {query!r} is a whole number, not {grade!r}."
            )
        found.setdefault(query, {})[name] = int(grade)
    return found


def _spans(given: pd.DataFrame) -> Spans:
    pairs: dict[Hashable, dict[Hashable, list[tuple[int, int]]]] = {}
    columns = [column(given, name) for name in ("query_id", "doc_id", "start", "end")]
    for query, name, start, end in zip(*columns, strict=True):
        whole = isinstance(start, Integral) and isinstance(end, Integral)
        if not whole or not 0 <= int(start) < int(end):
            raise InvalidRequest(
                f"A span of the query {query!r} goes from {start!r} to {end!r}.",
                hint="start and end are characters of the document, counted from 0, end behind the last.",
            )
        pairs.setdefault(query, {}).setdefault(name, []).append((int(start), int(end)))
    return {
        query: {name: merged(places) for name, places in some.items()}
        for query, some in pairs.items()
    }
