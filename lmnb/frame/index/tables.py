"""Tables as files that any program can read and none has to be installed for.

A row is a line of JSON, an array of its cells; the types of the columns stand apart (`Column`). So
every number, text, null, day and category comes back as it was. Parquet would need pyarrow (170 MB),
CSV knows no types, and a pickle runs what is in it when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.values import is_null, objects

Column: TypeAlias = dict[str, Any]
"""`name`, `dtype`, and of a category `categories` (a column of them, with `values`) and `ordered`."""

_NUMBERS = {"b", "i", "u", "f"}
_TIMES = {"m", "M"}


def write(path: Path, columns: Sequence[tuple[Any, pd.Series[Any]]]) -> list[Column]:
    """Write columns of equal length; what `read` needs besides.

    Raises
    ------
    InvalidRequest
        A column has a type, or a cell, or a name that JSON has no word for.
    """
    described, cells = [], []
    for name, series in columns:
        column, values = _taken_apart(name, series)
        described.append(column)
        cells.append(values)
    with path.open("w", encoding="utf-8") as file:
        for row in zip(*cells, strict=True):
            file.write(_json(row, described) + "\n")
    return described


def read(path: Path, columns: Sequence[Column]) -> list[pd.Series[Any]]:
    """The columns that `write` wrote."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        _put_together([row[place] for row in rows], column) for place, column in enumerate(columns)
    ]


def _taken_apart(name: Any, series: pd.Series[Any]) -> tuple[Column, list[Any]]:
    """What a column is, and its cells as JSON has them."""
    if name is not None and not isinstance(name, str | int):
        raise InvalidRequest(f"A column called {name!r} cannot be saved: names are texts.")
    dtype = series.dtype
    column: Column = {"name": name, "dtype": str(dtype)}
    if isinstance(dtype, pd.CategoricalDtype):
        categories, values = _taken_apart(None, dtype.categories.to_series())
        column |= {
            "dtype": "category",
            "categories": {**categories, "values": values},
            "ordered": bool(dtype.ordered),
        }
        return column, series.cat.codes.tolist()
    if _is_time(dtype):
        return column, series.astype("int64").tolist()
    if isinstance(dtype, np.dtype) and dtype.kind in _NUMBERS:
        return column, series.tolist()
    if isinstance(dtype, pd.StringDtype) or getattr(dtype, "kind", "") in _NUMBERS:
        return column, [
            one if isinstance(one, str) or not is_null(one) else None for one in series.tolist()
        ]
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        return column, [_cell(one) for one in series.tolist()]
    raise InvalidRequest(
        f"The column {name!r} cannot be saved, being {dtype}.",
        hint="`.astype(str)` makes text of it.",
    )


def _put_together(values: list[Any], column: Column) -> pd.Series[Any]:
    kind: str = column["dtype"]
    if kind == "category":
        categories = _put_together(column["categories"]["values"], column["categories"])
        dtype = pd.CategoricalDtype(pd.Index(categories), ordered=column["ordered"])
        return pd.Series(pd.Categorical.from_codes(values, dtype=dtype))
    if kind == "object":
        return objects(values, pd.RangeIndex(len(values)))
    if kind == "str":  # what pandas makes of texts; before pandas 3 they are objects
        return pd.Series(values, dtype=pd.Series(["text"]).dtype)
    if kind.startswith(("datetime64", "timedelta64")):
        return pd.Series(np.array(values, np.int64)).astype(kind)
    return pd.Series(values, dtype=kind)


def _is_time(dtype: Any) -> bool:
    return isinstance(dtype, pd.DatetimeTZDtype) or (
        isinstance(dtype, np.dtype) and dtype.kind in _TIMES
    )


def _cell(value: Any) -> Any:
    """A cell of an object column; numbers of NumPy's are plain ones, and nulls other than NaN None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if value is pd.NA or value is pd.NaT else value


def _json(row: Sequence[Any], columns: Sequence[Column]) -> str:
    try:
        return json.dumps(row, separators=(",", ":"))
    except (TypeError, ValueError):
        for column, value in zip(columns, row, strict=True):
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise InvalidRequest(
                    f"The column {column['name']!r} holds {type(value).__name__}, which cannot be saved.",
                    hint="Leave it out, or make text of it with `.astype(str)`.",
                ) from None
        raise
