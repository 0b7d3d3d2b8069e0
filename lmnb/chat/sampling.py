"""Sampling with every value filled in: the request's, else the model author's, else llama.cpp's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from lmnb.chat.conversation import SamplingOptions
from lmnb.engine.protocol import Sampling
from lmnb.errors import InvalidRequest

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, math.inf),
    "top_k": (0, math.inf),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repeat_penalty": (0.0, math.inf),
    "presence_penalty": (-math.inf, math.inf),
    "frequency_penalty": (-math.inf, math.inf),
}
_INTEGERS = {"top_k", "repeat_last_n"}


def fill_in(options: SamplingOptions, author: Mapping[str, float]) -> Sampling:
    """Merge what the caller asked for with `author`, the `general.sampling.*` of the model file.

    Raises
    ------
    InvalidRequest
        A value of the request is outside its range (see `SamplingOptions`); `param` names it.
    """
    values: dict[str, Any] = {
        name: int(value) if name in _INTEGERS else value
        for name, value in author.items()
        if name in Sampling.__struct_fields__ and _is_in_range(name, value)
    }
    for name in options.__struct_fields__:
        value = getattr(options, name)
        if value is not None:
            values[name] = value
            if name in _RANGES and not _is_in_range(name, value):
                raise _out_of_range(name, value)
    if values.get("seed") is not None:
        values["seed"] %= 2**32
    return msgspec.structs.replace(Sampling(), **values)


def _is_in_range(name: str, value: float) -> bool:
    low, high = _RANGES.get(name, (-math.inf, math.inf))
    return math.isfinite(value) and low <= value <= high and (name != "repeat_penalty" or value > 0)


def _out_of_range(name: str, value: float) -> InvalidRequest:
    low, high = _RANGES[name]
    wanted = f"between {low:g} and {high:g}" if high < math.inf else "a positive number"
    if name in {"temperature", "top_k"}:
        wanted = "0 or more"
    elif low == -math.inf:
        wanted = "a finite number"
    return InvalidRequest(f"{name} must be {wanted}, not {value:g}.", param=name)
