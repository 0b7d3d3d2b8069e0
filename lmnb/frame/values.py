"""Cells of tables: which are null, and columns of what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmnb.errors import InvalidRequest


def is_null(value: Any) -> bool:
    """Whether there is nothing to ask about: None, NaN, NA, NaT, or an empty text."""
    if isinstance(value, str):
        return not value
    # Of anything but a scalar, `pd.isna` tells of each element.
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def texts(series: pd.Series[Any]) -> list[str | None]:
    """The texts of a column, None for nulls.

    Raises
    ------
    InvalidRequest
        It holds something else, too.
    """
    found: list[str | None] = []
    for place, value in enumerate(series):
        if is_null(value):
            found.append(None)
        elif isinstance(value, str):
            found.append(value)
        else:
            raise InvalidRequest(
                f"Row {place} of {series.name!r} holds {type(value).__name__}, not text.",
                hint="`.astype('string')` makes text of it.",
            )
    return found


def sendable(text: str) -> str:
    """The text, of the same length, without lone surrogates: badly read files have them, JSON cannot."""
    return text.encode(errors="replace").decode()


def objects(values: Sequence[Any], index: pd.Index[Any], name: Any = None) -> pd.Series[Any]:
    """A column of the very objects; without this, NumPy would look into lists and arrays."""
    cells = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        cells[place] = value
    return pd.Series(cells, index=index, name=name, dtype=object)


def column(frame: pd.DataFrame, name: Any) -> pd.Series[Any]:
    """The one column of that name.

    Raises
    ------
    InvalidRequest
        There is none, or several.
    """
    places = [place for place, known in enumerate(frame.columns) if known == name]
    if len(places) != 1:
        known = ", ".join(map(str, frame.columns))
        what = "There is no column" if not places else "Several columns are called"
        raise InvalidRequest(f"{what} {name!r}.", hint=f"Columns are {known}.")
    return frame.iloc[:, places[0]]


def added(
    frame: pd.DataFrame, columns: dict[str, pd.Series[Any]], *, overwrite: bool
) -> pd.DataFrame:
    """A copy of the table with these columns, which have its index."""
    ensure_free(frame, list(columns), overwrite=overwrite)
    kept = frame.loc[:, [name not in columns for name in frame.columns]]
    result = pd.concat(
        [kept.reset_index(drop=True), *(one.reset_index(drop=True) for one in columns.values())],
        axis=1,
    )
    result.index = frame.index
    result.columns = pd.Index([*kept.columns, *columns], dtype=object).infer_objects()
    result.columns.name = frame.columns.name
    result.attrs = dict(frame.attrs)
    return result


def ensure_free(frame: pd.DataFrame, names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse to write over columns, unless that is wanted.

    Raises
    ------
    InvalidRequest
        There is one of these names.
    """
    taken = [name for name in names if any(name == known for known in frame.columns)]
    if taken and not overwrite:
        raise InvalidRequest(
            f"There is a column {taken[0]!r} already.",
            hint="`into=` gives results another name, `overwrite=True` replaces the column.",
        )
