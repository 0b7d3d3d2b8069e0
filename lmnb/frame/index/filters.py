"""Which rows of an index may be found: `where`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.index.ranking import Mask


def mask(table: pd.DataFrame, where: Any) -> Mask | None:
    """One value a row; None if all may be.

    Parameters
    ----------
    where
        A condition in the words of `DataFrame.eval` ("year > 2020"), a function of the table, or
        one truth value a row, in order. Null is no.

    Raises
    ------
    InvalidRequest
        It cannot be computed, or is no truth value a row.
    """
    if where is None:
        return None
    if isinstance(where, str) or callable(where):
        where = _computed(table, where)
    if isinstance(where, pd.Series) and not where.index.equals(table.index):
        raise InvalidRequest(
            "`where` has another index than the table.", hint="`.to_numpy()` goes by position."
        )
    values = pd.Series(np.asarray(where, object).ravel(), dtype=object)
    if np.ndim(where) != 1 or len(values) != len(table):
        raise InvalidRequest(
            f"`where` needs one truth value for each of the {len(table)} rows, in order.",
            hint="`Index.table` has the rows.",
        )
    try:
        found: Mask = values.astype("boolean").fillna(value=False).to_numpy(dtype=bool)
    except (TypeError, ValueError):
        raise InvalidRequest("`where` holds something other than truth values.") from None
    return found


def _computed(table: pd.DataFrame, where: Any) -> Any:
    try:
        return table.eval(where, engine="python") if isinstance(where, str) else where(table.copy())
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise InvalidRequest(f"`where` cannot be computed: {said}") from error


def labelled(table: pd.DataFrame, labels: Any) -> Mask:
    """Which rows have these labels: one, or a list of them.

    Raises
    ------
    InvalidRequest
        One of them is not there.
    """
    several = isinstance(labels, list | set | pd.Index | pd.Series | np.ndarray)
    wanted = list(labels) if several else [labels]
    missing = [label for label in wanted if label not in table.index]
    if missing:
        raise InvalidRequest(f"There is no row {missing[0]!r}.")
    found: Mask = table.index.isin(wanted)
    return found
