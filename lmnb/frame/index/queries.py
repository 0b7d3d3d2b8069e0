"""What is searched for: one text or many, or vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.embedding import Vector, matrix
from lmnb.frame.values import is_null, objects, texts


class Queries(NamedTuple):
    """Queries by their labels: either texts, None for nulls, or vectors, (queries, dimensions)."""

    ids: pd.Index[Any]
    texts: list[str | None]
    vectors: Vector | None

    def __len__(self) -> int:
        return len(self.ids)


def parse(given: Any) -> Queries:
    """The queries that are meant by a text, a vector, a list or a column of either, or a matrix.

    Labels are those of a column, else positions.

    Raises
    ------
    InvalidRequest
        It is none of them.
    """
    if isinstance(given, str):
        given = [given]
    if isinstance(given, np.ndarray) and given.dtype != object:
        rows = np.atleast_2d(given)
        if rows.ndim != 2 or rows.dtype.kind not in "fiu":
            raise InvalidRequest("A query is a text or a vector, and queries are a matrix of them.")
        return _vectors(pd.RangeIndex(len(rows)), rows.astype(np.float32))
    if not isinstance(given, pd.Series):
        if not isinstance(given, list | tuple | np.ndarray | pd.Index):
            raise InvalidRequest(f"A query is a text, not {type(given).__name__}.")
        given = objects(list(given), pd.RangeIndex(len(given)), "queries")
    if any(not is_null(one) and not isinstance(one, str) for one in given):
        return _vectors(given.index, matrix(given))
    return Queries(given.index, texts(given), None)


def _vectors(ids: pd.Index[Any], rows: Vector) -> Queries:
    return Queries(ids, [None] * len(ids), rows)
