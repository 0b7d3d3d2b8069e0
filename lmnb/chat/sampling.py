"""Sampling with every value filled in: the request's, else the model author's, else llama.cpp's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from lmnb.chat.conversation import SamplingOptions
from lmnb.engine.options import Sampling
from lmnb.engine.sampling_options import INTEGERS, RANGES, check_breakers, check_value, is_valid


def fill_in(options: SamplingOptions, author: Mapping[str, float]) -> Sampling:
    """Merge what the caller asked for with `author`, the `general.sampling.*` of the model file.

    Values of the author that are out of range are left out.

    Raises
    ------
    InvalidRequest
        A value of the request is outside its range (see `SamplingOptions`); `param` names it.
    """
    values: dict[str, Any] = {
        name: int(value) if name in INTEGERS else value
        for name, value in author.items()
        if name in RANGES and is_valid(name, value)
    }
    for name in options.__struct_fields__:
        value = getattr(options, name)
        if value is not None:
            values[name] = value
            if name in RANGES:
                check_value(name, value)
    check_breakers(values.get("dry_sequence_breakers", ()))
    if values.get("seed") is not None:
        values["seed"] %= 2**32
    return msgspec.structs.replace(Sampling(), **values)
