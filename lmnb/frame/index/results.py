"""Results of a search as a table: one form, whatever was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.index.queries import Queries
from lmnb.frame.index.ranking import Hits
from lmnb.frame.values import objects

RESULTS = ("query_id", "query", "rank", "id", "score", "rank_dense", "rank_text")


class Found(NamedTuple):
    """The rows that one query has, and the lists of which they come; empty for modes not asked for."""

    hits: Hits
    dense: Hits
    text: Hits


def assembled(asked: Queries, found: Sequence[Found], table: pd.DataFrame) -> pd.DataFrame:
    """See `Index.search`."""
    counts = [len(one.hits.rows) for one in found]
    rows = np.concatenate([np.empty(0, np.int64), *(one.hits.rows for one in found)])
    ranks = [np.arange(1, count + 1) for count in counts]
    places = np.repeat(np.arange(len(found)), counts)
    own: dict[str, Any] = {
        "query_id": _labels(asked.ids.take(places)),
        "query": pd.array(asked.texts, dtype="string").take(places),
        "rank": np.concatenate([np.empty(0, np.int64), *ranks]),
        "id": _labels(table.index.take(rows)),
        "score": np.concatenate([np.empty(0), *(one.hits.scores for one in found)]),
        "rank_dense": _ranks([(one.hits, one.dense) for one in found]),
        "rank_text": _ranks([(one.hits, one.text) for one in found]),
    }
    return pd.concat([pd.DataFrame(own), table.take(rows).reset_index(drop=True)], axis=1)


def ensure_apart(table: pd.DataFrame) -> None:
    """Refuse tables whose columns would not be told from a result's, or from each other.

    Raises
    ------
    InvalidRequest
        Such a column is there.
    """
    if table.columns.nlevels > 1 or not table.columns.is_unique:
        raise InvalidRequest("The table needs columns with one name each.")
    taken = [name for name in RESULTS if name in table.columns]
    if taken:
        raise InvalidRequest(
            f"The table has a column {taken[0]!r}, as results of a search have.",
            hint=f"Give it another name, or make it the label: `.set_index({taken[0]!r})`.",
        )


def _labels(index: pd.Index[Any]) -> pd.Series[Any]:
    """Labels as a column; those of several levels are tuples."""
    if isinstance(index, pd.MultiIndex):
        return objects(index.tolist(), pd.RangeIndex(len(index)))
    return pd.Series(index)


def _ranks(lists: Sequence[tuple[Hits, Hits]]) -> Any:
    """The rank that each row has in a list, from 1; null where it has none."""
    found: list[int | None] = []
    for hits, ranked in lists:
        ranks = {row: rank for rank, row in enumerate(ranked.rows.tolist(), 1)}
        found += [ranks.get(row) for row in hits.rows.tolist()]
    return pd.array(found, dtype="Int64")
