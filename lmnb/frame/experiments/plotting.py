"""Pictures of grids, with matplotlib, which is imported only for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.experiments.settings import named, settings_of, varied
from lmnb.frame.plotting import new_axes
from lmnb.frame.values import column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = ("-", "--", ":", "-.")
_SPREAD = 0.03
"""How far apart lines stand, so that their intervals can be told: of the width."""


def plot_grid(
    found: pd.DataFrame,
    metric: str | Sequence[str] | None = None,
    *,
    x: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what `grid` found: each metric over a setting, with confidence intervals.

    Parameters
    ----------
    found
        What `grid` returned, or some of its rows.
    metric
        One or several. Default the recalls of spans, at k and at the budget, else the first one.
    x
        The setting along the bottom. Default the first that has several values. All others that have
        are colours; metrics are kinds of lines.
    ax
        Where to draw. Default a new figure.

    Raises
    ------
    InvalidRequest
        There is no such metric or setting.
    ConfigError
        matplotlib is not installed.
    """
    for name in ("metric", "value", "ci_low", "ci_high"):
        column(found, name)
    metrics = _metrics(found, metric)
    table = found[found["metric"].isin(metrics)]
    settings, several = settings_of(table), varied(table)
    if x is not None and x not in settings:
        raise InvalidRequest(
            f"There is no setting {x!r}.", hint=f"Settings are {', '.join(settings)}."
        )
    x = x or next(iter(several or settings), None)
    if x is None:
        raise InvalidRequest("The table has no settings.", hint="`grid` makes such tables.")
    ax = ax or new_axes()
    _draw(ax, table, metrics, x, [name for name in several if name != x])
    ax.set_xlabel(x)
    ax.set_ylabel(metrics[0] if len(metrics) == 1 else "value")
    ax.set_ylim(bottom=0)
    if len(ax.containers) > 1:
        ax.legend()
    return ax


def _metrics(found: pd.DataFrame, wanted: str | Sequence[str] | None) -> list[str]:
    known = list(found["metric"].drop_duplicates())
    if not known:
        raise InvalidRequest("The table has no rows to draw.")
    if wanted is None:
        return [name for name in known if name.startswith("span_recall")] or known[:1]
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    missing = [name for name in names if name not in known]
    if missing or not names:
        raise InvalidRequest(
            f"There is no metric {missing[0] if missing else names!r}.",
            hint=f"Metrics are {', '.join(known)}.",
        )
    return names


def _draw(
    ax: Axes, table: pd.DataFrame, metrics: Sequence[str], x: str, others: Sequence[str]
) -> None:
    groups: list[tuple[Any, pd.DataFrame]] = (
        list(table.groupby(list(others), sort=False, dropna=False)) if others else [((), table)]
    )
    ticks = list(dict.fromkeys(table[x].astype(str)))
    count = len(groups) * len(metrics)
    for number, (key, rows) in enumerate(groups):
        for kind, metric in enumerate(metrics):
            some = rows[rows["metric"] == metric]
            away = _SPREAD * (number * len(metrics) + kind - (count - 1) / 2)
            places = np.array([ticks.index(one) for one in some[x].astype(str)]) + away
            # A mean may lie outside of its interval by a rounding.
            low = np.maximum(0, some["value"] - some["ci_low"])
            high = np.maximum(0, some["ci_high"] - some["value"])
            ax.errorbar(
                places,
                some["value"].to_numpy(),
                yerr=np.nan_to_num(np.array([low, high])),
                color=f"C{number}",
                linestyle=_STYLES[kind % len(_STYLES)],
                marker="o",
                capsize=3,
                label=_label(dict(zip(others, key, strict=True)), metric, metrics),
            )
    ax.set_xticks(range(len(ticks)), ticks)


def _label(settings: dict[str, Any], metric: str, metrics: Sequence[str]) -> str:
    told = [metric] if len(metrics) > 1 else []
    return ", ".join([*told, *([named(settings)] if settings else [])]) or metric
