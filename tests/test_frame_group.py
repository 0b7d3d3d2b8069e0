"""`.lm.dedupe` and `.lm.cluster`: texts that mean the same, or something alike."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from server_home import ServerHome

from lmnb.errors import ConfigError, InvalidRequest
from lmnb.frame.grouping import first_alike
from lmnb.frame.values import objects

TEXTS = [
    "The cat sleeps on the sofa.",
    "Shares fell sharply on Monday.",
    None,
    "the cat sleeps on the sofa .",
    "The cat sleeps on the sofa.",
    "Stock markets dropped on Monday.",
    "A dog is asleep on the couch.",
]


def column(rows: Any, index: Any = None) -> pd.Series[Any]:
    rows = list(rows)
    return objects(rows, pd.RangeIndex(len(rows)) if index is None else pd.Index(index))


def test_near_duplicates_of_texts_go(server: ServerHome) -> None:
    index = pd.Index(["a", "b", "c", "a", "e", "f", "f"], name="label")
    series = pd.Series(TEXTS, index=index, name="text")
    before = series.copy(deep=True)
    found = series.lm.dedupe(0.95)
    pd.testing.assert_series_equal(series, before)
    assert found.name == "text"
    pd.testing.assert_index_equal(found.index, pd.Index([*"abcff"], name="label"))
    assert found.attrs["lmnb"] == {"kept": 5, "dropped": 2, "duplicate_of": {3: 0, 4: 0}}
    frame = pd.DataFrame({"n": range(7), "text": TEXTS}, index=index)
    some = frame.lm.dedupe("text", 0.95)
    assert some["n"].tolist() == [0, 1, 2, 5, 6]
    assert some["n"].dtype == frame["n"].dtype
    assert some.attrs["lmnb"]["dropped"] == 2
    alike = series.lm.dedupe(threshold=0.6)
    assert alike.attrs["lmnb"]["duplicate_of"][5] == 1


def test_rows_that_stay_are_apart_and_rows_that_go_are_near() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(1500, 8)).astype(np.float32)
    rows[700:800] = rows[:100] * 3
    rows[5], rows[1499] = np.nan, 0
    owners = first_alike(rows, 0.8)
    unit = rows / np.linalg.norm(np.where(rows == 0, 1, rows), axis=1, keepdims=True)
    stays = owners == np.arange(1500)
    assert stays[[5, 1499]].all()
    near = np.einsum("ij,ij->i", unit, unit[owners])
    assert (near[~stays] >= 0.8 - 1e-4).all()
    assert (owners[~stays] < np.flatnonzero(~stays)).all()
    assert stays[owners].all()
    kept = unit[stays & ~np.isin(np.arange(1500), [5, 1499])]
    pairs = kept @ kept.T - 2 * np.eye(len(kept))
    assert pairs.max() < 0.8 + 1e-4


def test_vectors_equal_but_for_their_last_digits() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 384)).astype(np.float32)
    found = column([*rows, *(rows * np.float32(1.7))]).lm.dedupe(1.0)
    assert found.index.tolist() == list(range(50))


def test_nothing_to_compare() -> None:
    for series in (column([]), column([None, np.nan])):
        assert series.lm.dedupe().index.equals(series.index)
        found = series.lm.cluster(threshold=0.5)
        assert found.isna().all()
        assert found.dtype == "Int64"
    assert column([[1.0, 0.0]]).lm.cluster(threshold=0.5).tolist() == [0]


def test_clusters_of_texts(server: ServerHome) -> None:
    pytest.importorskip("sklearn", reason="the extra lmnb[cluster]")
    series = pd.Series(TEXTS, index=list("aabbccd"))
    for found in (series.lm.cluster(2), series.lm.cluster(threshold=0.4)):
        pd.testing.assert_index_equal(found.index, series.index)
        assert found.dtype == "Int64"
        assert found.name == "cluster"
        assert found.isna().tolist() == [False, False, True] + [False] * 4
        assert found.dropna().tolist() == [0, 1, 0, 0, 1, 0]


def test_clusters_of_vectors() -> None:
    pytest.importorskip("sklearn", reason="the extra lmnb[cluster]")
    generator = np.random.default_rng(0)
    centers = np.eye(4, 16) * 5
    sizes = [10, 40, 20, 30]
    rows = np.concatenate(
        [
            center + generator.normal(size=(n, 16)) * 0.1
            for center, n in zip(centers, sizes, strict=True)
        ]
    )
    expected = [3] * 10 + [0] * 40 + [2] * 20 + [1] * 30
    order = generator.permutation(100)
    series = column(rows[order].astype(np.float32))
    wanted = [expected[place] for place in order]
    assert series.lm.cluster(4).tolist() == wanted
    assert series.lm.cluster(4, seed=7).tolist() == wanted
    assert series.lm.cluster(threshold=0.9).tolist() == wanted
    unit = rows[order] / np.linalg.norm(rows[order], axis=1, keepdims=True)
    some = series.lm.cluster(threshold=0.999).to_numpy()
    pairs = unit @ unit.T
    assert pairs[some[:, None] == some[None]].min() >= 0.999 - 1e-4
    assert len(set(some)) > 4


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "either k"),
        ({"k": 2, "threshold": 0.5}, "either k"),
        ({"k": 0}, "from 1 to 2"),
        ({"k": 3}, "from 1 to 2"),
        ({"k": 1.5}, "from 1 to 2"),
        ({"threshold": 2}, "a cosine"),
        ({"threshold": "high"}, "a cosine"),
    ],
)
def test_what_is_refused(options: dict[str, Any], why: str) -> None:
    series = column([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    with pytest.raises(InvalidRequest, match=why):
        series.lm.cluster(**options)
    with pytest.raises(InvalidRequest, match="a cosine"):
        series.lm.dedupe(1.1)


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmnb.frame.grouping._MOST_PAIRED", 2)
    with pytest.raises(InvalidRequest, match="3 rows are too many"):
        column(np.eye(3)).lm.cluster(threshold=0.5)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match="scikit-learn is not installed"):
        column(np.eye(3)).lm.cluster(2)
