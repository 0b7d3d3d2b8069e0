"""`lmnb.evaluate`: how well a search finds what is known to be relevant."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.experiments import metrics as known_metrics
from lmnb.frame.experiments import relevance as relevances
from lmnb.frame.experiments import results
from lmnb.frame.experiments.statistics import interval
from lmnb.frame.index import Index
from lmnb.frame.index import queries as asking

COLUMNS = ("metric", "value", "ci_low", "ci_high", "n_queries")


def evaluate(
    index: Index | pd.DataFrame,
    queries: Any,
    relevant: Any,
    metrics: str | Sequence[str] | None = None,
    *,
    per_query: bool = False,
    by: str | None = None,
    seed: int = 0,
    **search: Any,
) -> pd.DataFrame:
    """How well queries find what is relevant to them.

    Parameters
    ----------
    index
        What is searched; or results as `Index.search` returns them, of whatever has searched: a
        table with `query_id`, `rank` and `id` or `doc_id`.
    queries
        Texts, as a column (its labels are what `relevant` calls them by), a dict by label, or a list
        (called by 0, 1, …). Of results, None means all that something is relevant to.
    relevant
        Documents (qrels): a table with `query_id`, `doc_id` and `relevance` (a whole number, 0 for
        not; 1 where there is no such column), a column of documents with queries as labels, or a
        dict of `{query: document}`, `{query: [documents]}` or `{query: {document: relevance}}`.
        Or spans: a table with `query_id`, `doc_id`, `start` and `end`, the characters of the
        document that answer the query.
    metrics
        Names of ir-measures (nDCG@10, R@10, RR@10, P@5, AP, …), which are about documents; where rows
        are chunks, a document counts at the place of its best chunk. With spans also `span_recall@10`
        (the share of the characters that answer which the first ten chunks cover),
        `span_precision@10` (the share of the chunks' characters that answer) and
        `span_recall@1000tokens` (what the chunks cover that fit into 1,000 tokens, from the best on,
        up to the first without room). Default the three of either kind that are named first.
    per_query
        A row for each query and metric instead: `query_id`, `metric`, `value`. `compare_runs` takes
        such tables.
    by
        The column that names documents. Default `doc_id`, which chunks have, else the labels of rows.
    seed
        Of the resampling.
    search
        Options of `Index.search`: `mode`, `where`, `rerank`, `rrf_k`. How many rows are searched for
        is what the metrics look at.

    Returns
    -------
    DataFrame
        `metric`, `value` (the mean over queries), `ci_low` and `ci_high` (of its 95 % confidence
        interval, by bootstrap over queries; NaN of a single query), `n_queries`.

    Notes
    -----
    A query that finds nothing counts as 0. Queries that nothing is relevant to are left out, with a
    warning. Relevant documents that are not in the index count as not found, with a warning.

    Raises
    ------
    InvalidRequest
        There is no such metric, or it needs columns that are not there; nothing is relevant to any of
        the queries; none of the relevant documents is in the index.
    ConfigError
        ir-measures is not installed.
    """
    if not isinstance(index, Index | pd.DataFrame):
        raise InvalidRequest(f"An index or results are evaluated, not {type(index).__name__}.")
    task = Evaluation(queries, relevant, metrics)
    if isinstance(index, Index):
        task.check_documents(known_documents(index.table, by))
        found = task.search(index, by, **search)
    else:
        if search:
            raise InvalidRequest(
                f"{min(search)!r} is for an index: results have been searched for."
            )
        found = index
    values = task.values(found, by)
    return long(values) if per_query else summary(values, seed)


class Evaluation:
    """Queries and what is relevant to them.

    texts
        The queries that something is relevant to; None if nobody said how they read.
    """

    def __init__(
        self,
        queries: Any,
        relevant: Any,
        metrics: str | Sequence[str] | None = None,
        *,
        k: int = 10,
        budget_tokens: int = 1000,
    ) -> None:
        given = relevances.parse(relevant)
        if metrics is None:
            metrics = known_metrics.usual(k, budget_tokens, spans=given.spans is not None)
        self.metrics = known_metrics.parse(metrics)
        self.relevance = given
        self.texts: pd.Series[Any] | None = None
        if queries is not None:
            texts = _texts(queries)
            self.relevance = given.only(texts.index)
            self.texts = texts[[one in self.relevance.grades for one in texts.index]]
            _check_queries(texts, self.relevance, given)

    def check_documents(self, known: Iterable[Hashable]) -> None:
        """Compare the relevant documents with those that there are."""
        wanted = self.relevance.documents
        missing = wanted.difference(known)
        if not missing:
            return
        one = min(missing, key=str)
        if len(missing) == len(wanted):
            raise InvalidRequest(
                f"None of the relevant documents is in the index, such as {one!r}.",
                hint="They are called by the labels of the documents' rows, of the same type: 1 is not '1'.",
            )
        warnings.warn(
            f"{len(missing)} of {len(wanted)} relevant documents are not in the index, such as "
            f"{one!r}: they count as not found.",
            stacklevel=3,
        )

    def search(self, index: Index, by: str | None = None, **options: Any) -> pd.DataFrame:
        """The results that the metrics need."""
        if self.texts is None:
            raise InvalidRequest("Say how the queries read that are searched for.")
        if "k" in options:
            raise InvalidRequest("k is no option: metrics say how many rows they look at.")
        return index.search(self.texts, self._depth(index.table, by), **options)

    def values(self, found: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
        """The metrics of each query: a row a query, a column a metric."""
        return results.scores(found, by, self.relevance, self.metrics)

    def _depth(self, table: pd.DataFrame, by: str | None) -> int:
        """How many rows hold what the metrics look at, whichever they are."""
        metrics, depth = self.metrics, self.metrics.chunks
        if metrics.tokens and "n_tokens" in table.columns:
            smallest = np.sort(table["n_tokens"].to_numpy()).cumsum()
            depth = max(depth, int(np.searchsorted(smallest, metrics.tokens, "right")) + 1)
        if metrics.documents is None:
            depth = len(table)
        elif metrics.documents:
            largest = known_documents(table, by).value_counts().to_numpy()
            depth = max(depth, int(largest[: metrics.documents - 1].sum()) + 1)
        return max(1, min(depth, len(table)))


def summary(values: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The mean of each column, with its confidence interval."""
    rows = []
    for name, column in values.items():
        low, high = interval(column, seed)
        rows.append((name, column.mean(), low, high, len(column)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def long(values: pd.DataFrame) -> pd.DataFrame:
    """A row for each query and metric."""
    queries = [query for query in values.index for _ in values.columns]
    return pd.DataFrame(
        {
            "query_id": pd.Index(queries, tupleize_cols=False),
            "metric": list(values.columns) * len(values),
            "value": values.to_numpy().ravel(),
        }
    )


def known_documents(table: pd.DataFrame, by: str | None) -> pd.Series[Any]:
    """What documents are called, for each row of an index's table."""
    name = by or ("doc_id" if "doc_id" in table.columns else "id")
    if name in table.columns:
        return table[name]
    if name != "id":
        raise InvalidRequest(f"The index has no column {name!r}.")
    return pd.Series(table.index.to_flat_index())


def _texts(queries: Any) -> pd.Series[Any]:
    if isinstance(queries, Mapping):
        queries = pd.Series(dict(queries), dtype=object)
    asked = asking.parse(queries)
    if asked.vectors is not None:
        raise InvalidRequest("Queries to evaluate are texts.")
    if not asked.ids.is_unique:
        again = asked.ids[asked.ids.duplicated()][0]
        raise InvalidRequest(f"Several queries are called {again!r}.")
    return pd.Series(asked.texts, index=asked.ids, dtype=object)


def _check_queries(
    texts: pd.Series[Any], found: relevances.Relevance, given: relevances.Relevance
) -> None:
    left = len(texts) - len(found.grades)
    if not found.grades:
        raise InvalidRequest(
            "Nothing is relevant to any of the queries: they are called "
            f"{texts.index[0]!r}, …, there {next(iter(given.grades))!r}, …."
            if len(texts)
            else "There are no queries."
        )
    if left:
        warnings.warn(
            f"Nothing is known to be relevant to {left} of {len(texts)} queries: they are left out.",
            stacklevel=4,
        )
