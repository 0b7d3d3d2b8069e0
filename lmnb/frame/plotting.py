"""Pictures of comparisons, with matplotlib, which is imported only for them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from lmnb.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = {"tokens_per_second": "tokens per second", "tokens": "tokens", "seconds": "seconds"}
_LABEL = 24
"""Characters of a line below a bar, or beside a colour."""


def plot_comparison(
    found: pd.DataFrame,
    y: str | Callable[[str], Any] = "tokens_per_second",
    *,
    x: str | None = None,
    by: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what `compare` found: means as a line over a number, else as bars.

    Parameters
    ----------
    found
        What `compare` returned, or some of its rows.
    y
        What goes up: a column of numbers, or a function of the text, whose mean is shown (one that
        returns True or False: the share of the answers for which it is true).
    x
        The column along the bottom. Default the first setting of numbers that has several, else the
        first of settings, models, prompts.
    by
        The column that has a colour for each value. Default the next such column, if there is one.
    ax
        Where to draw. Default a new figure.

    Notes
    -----
    Rows without a value, such as those with an error, are left out. A point is the mean of all others
    of its `x` and `by`; over numbers the rows themselves are small dots.

    Raises
    ------
    InvalidRequest
        A column is not there or holds no numbers, or nothing is left to draw.
    ConfigError
        matplotlib is not installed.
    """
    table, label = _scored(found, y)
    x, by = _axes_of(table, x, by)
    ax = ax or new_axes()
    groups = [("", table)] if by is None else list(table.groupby(by, sort=False, dropna=False))
    if pd.api.types.is_numeric_dtype(table[x]):
        _lines(ax, groups, x)
    else:
        _bars(ax, groups, list(table[x].drop_duplicates()), x)
    ax.set_xlabel(x)
    ax.set_ylabel(label)
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    if by is not None:
        ax.legend(title=by)
    return ax


def _scored(found: pd.DataFrame, y: str | Callable[[str], Any]) -> tuple[pd.DataFrame, str]:
    """The rows with a value, which is in the column `_y`, and what to call it."""
    if callable(y):
        _check(found, "text")
        values = pd.Series(
            [None if pd.isna(text) else float(y(text)) for text in found["text"]],
            index=found.index,
            dtype="Float64",
        )
        name = getattr(y, "__name__", "score")
        label = "score" if name == "<lambda>" else name.replace("_", " ")
    else:
        _check(found, y)
        if not pd.api.types.is_numeric_dtype(found[y]):
            raise InvalidRequest(f"{y!r} holds no numbers.")
        values, label = found[y].astype("Float64"), _UNITS.get(y, y)
    table = found.assign(_y=values).loc[values.notna()]
    if table.empty:
        raise InvalidRequest("No row has a value to draw.", hint="The column `error` tells why.")
    return table.astype({"_y": "float64"}), label


def _axes_of(table: pd.DataFrame, x: str | None, by: str | None) -> tuple[str, str | None]:
    for name in (x, by):
        if name is not None:
            _check(table, name)
    free = [name for name in _dimensions(table) if name not in {x, by}]
    if x is None:
        numbers = [name for name in free if pd.api.types.is_numeric_dtype(table[name])]
        x = (numbers or free or ["model"])[0]
        _check(table, x)
    if by is None:
        by = next((name for name in free if name != x), None)
    return x, by


def _dimensions(table: pd.DataFrame) -> list[str]:
    """What the table compares: the columns of which there are several values."""
    columns = [str(name) for name in table.columns]
    settings: list[str] = []
    if "model" in columns and "sample" in columns:
        settings = columns[columns.index("model") + 1 : columns.index("sample")]
    names = [*settings, *(name for name in ("model", "prompt") if name in columns)]
    return [name for name in names if table[name].astype(str).duplicated().sum() < len(table) - 1]


def _check(table: pd.DataFrame, name: str) -> None:
    if name not in table.columns:
        known = ", ".join(str(one) for one in table.columns if one != "_y")
        raise InvalidRequest(f"There is no column {name!r}.", hint=f"Columns are {known}.")


def new_axes() -> Axes:
    """The axes of a new figure."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        raise ConfigError(
            "matplotlib is not installed.", hint="`pip install matplotlib` installs it."
        ) from None
    return plt.subplots(layout="constrained")[1]


def _lines(ax: Axes, groups: list[tuple[Any, pd.DataFrame]], x: str) -> None:
    for name, rows in groups:
        means = rows.groupby(x)["_y"].mean()
        places = means.index.to_numpy(dtype=float)
        (line,) = ax.plot(places, means.to_numpy(), marker="o", label=_short(name))
        if len(rows) > len(means):
            ax.scatter(rows[x].astype(float), rows["_y"], s=9, alpha=0.4, color=line.get_color())


def _bars(ax: Axes, groups: list[tuple[Any, pd.DataFrame]], names: list[Any], x: str) -> None:
    width = 0.8 / len(groups)
    for number, (name, rows) in enumerate(groups):
        means = rows.groupby(x, sort=False, dropna=False)["_y"].mean()
        there = [place for place, one in enumerate(names) if one in means.index]
        ax.bar(
            [place + (number - (len(groups) - 1) / 2) * width for place in there],
            [means[names[place]] for place in there],
            width=width,
            label=_short(name),
        )
    ax.set_xticks(range(len(names)), [_short(one) for one in names])


def _short(value: Any) -> str:
    """A value as a label of at most two lines."""
    text = (
        "none"
        if value is None or (pd.api.types.is_scalar(value) and pd.isna(value))
        else str(value)
    )
    return "\n".join(textwrap.wrap(text, _LABEL, max_lines=2, placeholder=" …")) or "''"
