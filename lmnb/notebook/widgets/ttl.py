"""The slider for how long an idle model stays loaded."""

from __future__ import annotations

from typing import Any

import ipywidgets

from lmnb.notebook.units import duration
from lmnb.notebook.widgets.panel import sliding

NEVER = 0.0
_SECONDS = (NEVER, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)


def slider() -> Any:
    """A slider in seconds; `NEVER` is without a TTL. It reports where it was let go."""
    return ipywidgets.SelectionSlider(
        options=_options(NEVER),
        value=NEVER,
        description="Unload if idle",
        continuous_update=False,
        **sliding(),
    )


def put(chosen: Any, ttl: float | None) -> None:
    """Set a slider to a TTL, whichever it is."""
    value = ttl or NEVER
    if value != chosen.value:
        chosen.options = _options(value)
        chosen.value = value


def taken(chosen: Any) -> float | None:
    """The TTL that a slider stands at."""
    return chosen.value or None


def _options(value: float) -> list[tuple[str, float]]:
    every = sorted({*_SECONDS, value})
    return [(f"after {duration(one)}" if one else "never", one) for one in every]
