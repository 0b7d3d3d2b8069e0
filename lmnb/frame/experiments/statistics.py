"""How sure a mean over queries is, and whether two systems differ by more than chance.

Queries are the sample: an interval of means says what other queries of the same kind would give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]

RESAMPLES = 10_000
_BLOCK = 2_000_000
"""Random numbers that are drawn at once."""


def interval(values: ArrayLike, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval of a mean, by the percentile bootstrap; NaN for fewer than two values.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Resampling whole queries,
    as Sakai does for measures of retrieval (SIGIR 2006).
    """
    sample = np.asarray(values, np.float64)
    count = len(sample)
    if count < 2:
        return (np.nan, np.nan)
    random = np.random.default_rng(seed)
    means = [
        sample[random.integers(0, count, (rows, count))].mean(axis=1) for rows in _blocks(count)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high))


def randomisation_test(differences: ArrayLike, seed: int = 0) -> float:
    """How probable a mean difference at least as large is, if it is chance which system has which score.

    Fisher's paired randomisation test, two-sided, which Smucker, Allan and Carterette recommend for
    retrieval (CIKM 2007): the sign of each query's difference is as likely the other one. All signs are
    tried where these are no more than 10,000 cases; else so many are drawn, and the given case counts
    as one of them (Phipson and Smyth, 2010), so that p is never 0.
    """
    sample = np.asarray(differences, np.float64)
    sample = sample[sample != 0]
    count = len(sample)
    if not count:
        return 1.0
    least = abs(sample.sum()) - 1e-9 * np.abs(sample).sum()  # sums in another order are rounded
    if 2**count <= RESAMPLES:
        cases = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float((np.abs((1 - 2 * cases) @ sample) >= least).mean())
    random = np.random.default_rng(seed)
    as_large = sum(
        int((np.abs((1 - 2 * random.integers(0, 2, (rows, count))) @ sample) >= least).sum())
        for rows in _blocks(count)
    )
    return (as_large + 1) / (RESAMPLES + 1)


def holm(chances: Sequence[float]) -> Values:
    """The p-values of several tests, raised so that one in twenty such families has a false one below 0.05.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    given = np.asarray(chances, np.float64)
    order = np.argsort(given, kind="stable")
    raised = np.minimum(1, given[order] * np.arange(len(given), 0, -1))
    found = np.empty(len(given))
    found[order] = np.maximum.accumulate(raised)
    return found


def _blocks(count: int) -> Iterator[int]:
    """How many of the resamples to draw at once, of that many values each."""
    size = max(1, _BLOCK // count)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)
