"""Two tables joined by what their texts mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.index.index import Index
from lmnb.frame.index.queries import Queries, parse
from lmnb.frame.index.results import Found
from lmnb.frame.values import column, ensure_free

How: TypeAlias = Literal["inner", "left"]

_SUFFIX = "_right"


def join(
    left: pd.DataFrame,
    right: pd.DataFrame | Index,
    on: Any,
    right_on: Any,
    *,
    k: int,
    threshold: float | None,
    how: How,
    into: str,
    model: str | None,
) -> pd.DataFrame:
    """See `FrameAccessor.join`."""
    if how not in {"inner", "left"}:
        raise InvalidRequest(f"how is 'inner' or 'left', not {how!r}.")
    ensure_free(left, [into], overwrite=False)
    asked = parse(column(left, on))
    if not isinstance(right, Index):
        right = _index(right, on if right_on is None else right_on, model, asked)
    elif right_on is not None or model is not None:
        raise InvalidRequest("An index knows its column and its model: name neither.")
    found = right.rank(asked, k, "dense")
    return _assembled(left, right.table, *_pairs(found, threshold, how), into)


def _index(right: pd.DataFrame, on: Any, model: str | None, asked: Queries) -> Index:
    """An index of a column of texts, or of vectors, as those that are looked for are."""
    if asked.vectors is None:
        return Index.build(right, on, model=model, hybrid=False)
    return Index.build(right, vectors=column(right, on))


def _pairs(
    found: Sequence[Found], threshold: float | None, how: How
) -> tuple[Sequence[int], Sequence[int], Sequence[float]]:
    """Rows of the left table, those of the right one (-1: none), and their scores."""
    lefts: list[int] = []
    rights: list[int] = []
    scores: list[float] = []
    for row, one in enumerate(found):
        near = one.hits.scores >= (-np.inf if threshold is None else threshold)
        rows, values = one.hits.rows[near].tolist(), one.hits.scores[near].tolist()
        if not rows and how == "left":
            rows, values = [-1], [np.nan]
        lefts += [row] * len(rows)
        rights += rows
        scores += values
    return lefts, rights, scores


def _assembled(
    left: pd.DataFrame,
    right: pd.DataFrame,
    lefts: Sequence[int],
    rights: Sequence[int],
    scores: Sequence[float],
    into: str,
) -> pd.DataFrame:
    names = [_free(name, left.columns) for name in right.columns]
    theirs = right.set_axis(names, axis=1).reset_index(drop=True)
    places = pd.Index(rights, dtype="int64")
    theirs = theirs.take(places) if (places >= 0).all() else theirs.reindex(places)
    ours = left.take(np.array(lefts, np.int64))
    ensure_free(theirs, [into], overwrite=False)
    found = pd.concat([ours.reset_index(drop=True), theirs.reset_index(drop=True)], axis=1)
    found[into] = np.array(scores, np.float64)
    found.index = ours.index
    return found


def _free(name: Any, taken: pd.Index[Any]) -> Any:
    return f"{name}{_SUFFIX}" if name in taken else name
