"""Texts that mean the same, or something alike: near duplicates and clusters, by their vectors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lmnb.errors import ConfigError, InvalidRequest
from lmnb.frame.embedding import Vector, vectors
from lmnb.frame.values import column

_BLOCK = 512
"""Rows that are compared at once with all that are kept so far."""
_MOST_PAIRED = 15_000
"""Rows of which every pair can be compared: their distances take 0.9 GB."""
_LAST_DIGITS = 1e-5
_STARTS = 4
"""Of k-means, of which the best is taken."""


class Grouping:
    """Part of `SeriesAccessor`."""

    _series: pd.Series[Any]

    def dedupe(self, threshold: float = 0.95, *, model: str | None = None) -> pd.Series[Any]:
        """The column without near duplicates: of rows alike the first stays, with its label.

        A row goes if its cosine with one that stays before it is at least `threshold`. Nulls stay.
        The column holds texts, or vectors. `attrs["lmnb"]["duplicate_of"]` tells of each row that
        went which one stayed for it, by their positions.
        """
        kept, attributes = _without_duplicates(self._series, threshold, model)
        found = self._series.iloc[kept].copy()
        found.attrs["lmnb"] = attributes
        return found

    def cluster(
        self,
        k: int | None = None,
        *,
        threshold: float | None = None,
        model: str | None = None,
        seed: int = 0,
    ) -> pd.Series[Any]:
        """The number of each row's cluster, 0 being the largest; same index. Nulls are in none.

        Parameters
        ----------
        k
            How many clusters: by k-means, whose first guesses `seed` decides.
        threshold
            Or else: any two rows of a cluster have at least this cosine (complete linkage). At most
            15,000 rows.
        model
            Of texts. The column may hold vectors instead.

        Raises
        ------
        InvalidRequest
            There are fewer different rows than clusters, or too many.
        ConfigError
            scikit-learn is missing.
        """
        if (k is None) == (threshold is None):
            raise InvalidRequest("Give either k, the number of clusters, or a threshold.")
        rows = vectors(self._series, model, kind="document")
        there = np.flatnonzero(_are_there(rows))
        unit = _of_length_1(rows[there])
        labels = _by_number(unit, k, seed) if k is not None else _by_threshold(unit, threshold)
        found = pd.array([pd.NA] * len(rows), dtype="Int64")
        found[there] = _by_size(labels)
        return pd.Series(found, index=self._series.index, name="cluster")


class GroupingRows:
    """Part of `FrameAccessor`."""

    _frame: pd.DataFrame

    def dedupe(self, on: Any, threshold: float = 0.95, *, model: str | None = None) -> pd.DataFrame:
        """The table without rows whose text in `on` is a near duplicate; see `SeriesAccessor.dedupe`."""
        kept, attributes = _without_duplicates(column(self._frame, on), threshold, model)
        found = self._frame.iloc[kept].copy()
        found.attrs["lmnb"] = attributes
        return found


def _without_duplicates(
    series: pd.Series[Any], threshold: float, model: str | None
) -> tuple[NDArray[np.intp], dict[str, Any]]:
    """The positions of rows that stay, and what is told of the others."""
    _check(threshold)
    owners = first_alike(vectors(series, model, kind="document"), threshold)
    places = np.arange(len(owners))
    gone = places[owners != places]
    duplicates = dict(zip(gone.tolist(), owners[gone].tolist(), strict=True))
    return places[owners == places], {
        "kept": len(owners) - len(gone),
        "dropped": len(gone),
        "duplicate_of": duplicates,
    }


def first_alike(rows: Vector, threshold: float) -> NDArray[np.intp]:
    """For each row the one that stays for it: itself, or the most similar one that stays before it."""
    owners = np.arange(len(rows), dtype=np.intp)
    there = np.flatnonzero(_are_there(rows))
    unit = _of_length_1(rows[there])
    least = threshold - _LAST_DIGITS
    kept = np.empty_like(unit)
    places = np.empty(len(there), np.intp)
    count = 0
    for start in range(0, len(there), _BLOCK):
        block = unit[start : start + _BLOCK]
        before = block @ kept[:count].T
        within = block @ block.T
        own: list[int] = []
        """The rows of this block that stay, by their places in it."""
        for place, row in enumerate(block):
            alike = np.concatenate([before[place], within[place, own]])
            if alike.size and alike.max() >= least:
                best = int(alike.argmax())
                owners[there[start + place]] = places[best]
            else:
                kept[count], places[count] = row, there[start + place]
                own.append(place)
                count += 1
    return owners


def _by_number(unit: Vector, k: Any, seed: int) -> NDArray[np.intp]:
    different = len(np.unique(unit, axis=0))
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= different:
        raise InvalidRequest(
            f"k is a whole number from 1 to {different}, as many as there are different rows; "
            f"not {k!r}."
        )
    means = _scikit_learn().KMeans(n_clusters=k, n_init=_STARTS, random_state=seed)
    found: NDArray[np.intp] = means.fit_predict(unit)
    return found


def _by_threshold(unit: Vector, threshold: Any) -> NDArray[np.intp]:
    _check(threshold)
    if len(unit) > _MOST_PAIRED:
        raise InvalidRequest(
            f"{len(unit)} rows are too many to compare each with each (at most {_MOST_PAIRED}).",
            hint="k= is for any number; `.lm.dedupe()` before it makes them fewer.",
        )
    if len(unit) < 2:
        return np.zeros(len(unit), np.intp)
    linked = _scikit_learn().AgglomerativeClustering(
        n_clusters=None,
        distance_threshold=1 - threshold + _LAST_DIGITS,
        metric="cosine",
        linkage="complete",
    )
    found: NDArray[np.intp] = linked.fit_predict(unit)
    return found


def _scikit_learn() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from sklearn import cluster
    except ImportError:
        raise ConfigError(
            "scikit-learn is not installed.", hint="`pip install scikit-learn` installs it."
        ) from None
    return cluster


def _by_size(labels: NDArray[np.intp]) -> NDArray[np.intp]:
    """Numbered anew: the largest cluster is 0; of those alike in size the one that begins first."""
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    numbers = np.empty(len(names), np.intp)
    numbers[order] = np.arange(len(names))
    return numbers[np.searchsorted(names, labels)]


def _check(threshold: Any) -> None:
    is_number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
    if not is_number or not -1 <= threshold <= 1:
        raise InvalidRequest(f"threshold is a cosine, from -1 to 1, not {threshold!r}.")


def _are_there(rows: Vector) -> NDArray[np.bool_]:
    """Which rows are vectors with a direction."""
    if not rows.shape[1]:
        return np.zeros(len(rows), bool)
    return np.logical_and(np.isfinite(rows).all(axis=1), np.not_equal(rows, 0).any(axis=1))


def _of_length_1(rows: Vector) -> Vector:
    unit: Vector = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
