"""Lists of rows, best first: the best of many scores, and one list made of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Hits(NamedTuple):
    """Rows by their positions, best first, with the scores that say so."""

    rows: Rows
    scores: NDArray[np.float64]


NOTHING = Hits(np.empty(0, np.int64), np.empty(0, np.float64))


def near_best(scores: NDArray[Any], k: int, slack: float = 0.0) -> Rows:
    """The places of the k best scores, and of all that are less than the last of them by at most `slack`."""
    if len(scores) <= k:
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= least - slack)


def best(rows: Rows, scores: NDArray[Any], k: int) -> Hits:
    """The k best of some rows. Among equals the earlier one comes first."""
    order = np.argsort(-scores, kind="stable")[:k]
    return Hits(rows[order], scores[order].astype(np.float64))


def fuse(lists: Sequence[Hits], k: int, rrf_k: float) -> Hits:
    """The k best rows of several lists, by the sum of `1 / (rrf_k + rank)` with ranks from 1.

    Reciprocal rank fusion: Cormack, Clarke and Büttcher, SIGIR 2009, who take 60. Among equals the
    row that an earlier list has, or has further up, comes first.
    """
    sums: dict[int, float] = {}
    for hits in lists:
        for rank, row in enumerate(hits.rows.tolist(), 1):
            sums[row] = sums.get(row, 0.0) + 1 / (rrf_k + rank)
    return best(np.array(list(sums), np.int64), np.array(list(sums.values()), np.float64), k)
