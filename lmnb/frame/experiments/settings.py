"""The columns of a grid's table that say how was searched, and names made of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import pandas as pd

from lmnb.frame.values import is_null


def settings_of(table: pd.DataFrame) -> list[str]:
    """The columns before `query_id` or `metric`."""
    columns = list(table.columns)
    end = min(columns.index(name) for name in ("query_id", "metric") if name in columns)
    return columns[:end]


def varied(table: pd.DataFrame) -> list[str]:
    """The settings that have several values."""
    return [name for name in settings_of(table) if len(table[name].astype(str).unique()) > 1]


def named(settings: Mapping[str, Hashable]) -> str:
    """Such as `chunk=256, rerank=none`."""
    told = {name: "none" if is_null(value) else value for name, value in settings.items()}
    return ", ".join(f"{name}={value}" for name, value in told.items())
