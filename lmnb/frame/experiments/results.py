"""What a search has found, as metrics look at it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.experiments.intervals import Intervals, common, length, merged
from lmnb.frame.experiments.metrics import Metrics, SpanMetric, ranked_scores
from lmnb.frame.experiments.relevance import Relevance
from lmnb.frame.values import is_null

_CHUNKS = ("doc_id", "start", "end")


class Chunk(NamedTuple):
    """A part of a document that was found."""

    document: Hashable
    start: int
    end: int
    tokens: int


def scores(
    table: pd.DataFrame, by: str | None, relevance: Relevance, metrics: Metrics
) -> pd.DataFrame:
    """The metrics of each query that something is relevant to: a row a query, a column a metric.

    Raises
    ------
    InvalidRequest
        The table is no result of a search, or lacks what a metric needs.
    """
    missing = [name for name in ("query_id", "rank") if name not in table.columns]
    if missing:
        raise InvalidRequest(
            f"The results have no column {missing[0]!r}.", hint="`Index.search` makes such tables."
        )
    table = table.sort_values("rank", kind="stable")
    found = ranked_scores(metrics.ranked, relevance.grades, _documents(table, label(table, by)))
    if metrics.spans:
        if relevance.spans is None:
            raise InvalidRequest(
                f"{next(iter(metrics.spans))} needs spans: doc_id, start and end of what answers."
            )
        chunks = _chunks(table, tokens=bool(metrics.tokens))
        for name, metric in metrics.spans.items():
            found[name] = {
                query: _covered(metric, gold, chunks.get(query, ()))
                for query, gold in relevance.spans.items()
            }
    values = {name: list(found[name].values()) for name in metrics.names}
    queries = pd.Index([*relevance.grades], tupleize_cols=False, name="query_id")
    return pd.DataFrame(values, index=queries, dtype="float64")


def label(table: pd.DataFrame, by: str | None) -> str:
    """The column that names documents: that of chunks, where rows are chunks."""
    found = by or ("doc_id" if "doc_id" in table.columns else "id")
    if found not in table.columns:
        raise InvalidRequest(f"The results have no column {found!r}.")
    return found


def fitting(chunks: Sequence[Chunk], tokens: int) -> Sequence[Chunk]:
    """The chunks that fit into a budget: from the best on, up to the first that has no room."""
    left = tokens
    for place, chunk in enumerate(chunks):
        left -= chunk.tokens
        if left < 0:
            return chunks[:place]
    return chunks


def _documents(table: pd.DataFrame, by: str) -> dict[Hashable, list[Hashable]]:
    """The documents that each query has found, each at the place of its best chunk (MaxP).

    Dai and Callan, SIGIR 2019, call it so.
    """
    found: dict[Hashable, dict[Hashable, None]] = {}
    for query, document in zip(table["query_id"], table[by], strict=True):
        if not is_null(document):
            found.setdefault(query, {})[document] = None
    return {query: list(some) for query, some in found.items()}


def _chunks(table: pd.DataFrame, *, tokens: bool) -> dict[Hashable, list[Chunk]]:
    """The chunks that each query has found, best first."""
    names = [*_CHUNKS, "n_tokens"] if tokens else [*_CHUNKS]
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise InvalidRequest(
            f"Metrics of spans need a column {missing[0]!r} in what is searched.",
            hint="`df.lm.chunk(…).lm.index('text')` has it.",
        )
    counts = table["n_tokens"] if tokens else [0] * len(table)
    columns = [table[name] for name in _CHUNKS]
    found: dict[Hashable, list[Chunk]] = {}
    for query, document, start, end, count in zip(table["query_id"], *columns, counts, strict=True):
        found.setdefault(query, []).append(Chunk(document, int(start), int(end), int(count)))
    return found


def _covered(
    metric: SpanMetric, gold: Mapping[Hashable, Intervals], chunks: Sequence[Chunk]
) -> float:
    """The share of what answers that chunks cover, or of the chunks that answers."""
    taken = fitting(chunks, metric.cutoff) if metric.tokens else chunks[: metric.cutoff]
    places: dict[Hashable, list[tuple[int, int]]] = {}
    for one in taken:
        places.setdefault(one.document, []).append((one.start, one.end))
    answering = sum(
        common(gold[name], merged(some)) for name, some in places.items() if name in gold
    )
    if metric.kind == "recall":
        whole = sum(map(length, gold.values()))
    else:  # what several chunks have is read as often
        whole = sum(one.end - one.start for one in taken)
    return answering / whole if whole else 0.0
