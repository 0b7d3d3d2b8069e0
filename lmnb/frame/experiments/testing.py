"""`lmnb.compare_runs`: whether one way of searching is better than another, by more than chance."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import combinations
from typing import Any

import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.experiments.settings import named, varied
from lmnb.frame.experiments.statistics import holm, interval, randomisation_test

_NEEDED = ("query_id", "metric", "value")
_PAIRED = ("metric", "a", "b", "mean_a", "mean_b")
_TESTED = ("difference", "ci_low", "ci_high", "p", "p_holm", "n_queries")


def compare_runs(
    runs: pd.DataFrame | Mapping[Any, pd.DataFrame],
    metric: str | None = None,
    *,
    baseline: Any = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired tests between ways of searching, on the same queries.

    Parameters
    ----------
    runs
        Tables of `evaluate(…, per_query=True)` by name; or one of `grid(…, per_query=True)`, whose
        runs are called by the columns that differ: `chunk=256, mode=text`.
    metric
        Default all that every run has.
    baseline
        The name of the run that all others are compared with. Default every pair.
    seed
        Of the resampling.

    Returns
    -------
    DataFrame
        `metric`, the runs `a` and `b`, `mean_a`, `mean_b`, `difference` (b - a) with `ci_low` and
        `ci_high` (its 95 % confidence interval, by bootstrap over queries), `p` (by the paired
        randomisation test, two-sided), `p_holm` (raised for the number of tests of this metric, after
        Holm), `n_queries`.

    Raises
    ------
    InvalidRequest
        Runs differ in their queries, or there are fewer than two; no such metric or baseline.
    """
    tables = _split(runs) if isinstance(runs, pd.DataFrame) else dict(runs)
    values = {name: _wide(name, table) for name, table in tables.items()}
    if len(values) < 2:
        raise InvalidRequest("It takes two runs at least to compare.")
    if baseline is not None and baseline not in values:
        raise InvalidRequest(
            f"There is no run {baseline!r}.", hint=f"Runs are {'; '.join(map(str, values))}."
        )
    found = [
        pair
        for name in _metrics(values, metric)
        for pair in _tested(name, {run: one[name] for run, one in values.items()}, baseline, seed)
    ]
    return pd.DataFrame(found, columns=[*_PAIRED, *_TESTED])


def _tested(
    metric: str, values: Mapping[Hashable, pd.Series[Any]], baseline: Any, seed: int
) -> list[tuple[Any, ...]]:
    """The rows of one metric."""
    if baseline is None:
        pairs = list(combinations(values, 2))
    else:
        pairs = [(baseline, name) for name in values if name != baseline]
    found = []
    for first, second in pairs:
        a, b = values[first], values[second]
        if set(a.index) != set(b.index):
            raise InvalidRequest(f"{first!r} and {second!r} were not asked the same queries.")
        differences = b.loc[a.index].to_numpy() - a.to_numpy()
        p = randomisation_test(differences, seed)
        sure = (differences.mean(), *interval(differences, seed), p)
        found.append((metric, first, second, a.mean(), b.mean(), *sure, len(a)))
    raised = holm([row[-2] for row in found])
    return [(*row[:-1], more, row[-1]) for row, more in zip(found, raised, strict=True)]


def _wide(name: Any, table: pd.DataFrame) -> pd.DataFrame:
    if not isinstance(table, pd.DataFrame) or not {*_NEEDED} <= {*table.columns}:
        raise InvalidRequest(
            f"{name!r} has no values of single queries.",
            hint="`evaluate` and `grid` give them with `per_query=True`.",
        )
    if table.duplicated(["query_id", "metric"]).any():
        raise InvalidRequest(f"{name!r} has several values for a query and a metric.")
    return table.pivot(index="query_id", columns="metric", values="value")  # noqa: PD010 - one value each


def _metrics(values: Mapping[Any, pd.DataFrame], metric: str | None) -> list[str]:
    first, *others = values.values()
    shared = [name for name in first.columns if all(name in one.columns for one in others)]
    if metric is not None and metric not in shared:
        raise InvalidRequest(f"Not every run has the metric {metric!r}.")
    if not shared:
        raise InvalidRequest("The runs have no metric in common.")
    return shared if metric is None else [metric]


def _split(table: pd.DataFrame) -> dict[Hashable, pd.DataFrame]:
    """The runs of a grid."""
    if not {*_NEEDED} <= {*table.columns}:
        return {"the table": table}
    names = varied(table)
    if not names:
        return {"the only run": table}
    return {
        named(dict(zip(names, key, strict=True))): rows
        for key, rows in table.groupby(names, sort=False, dropna=False)
    }
