"""Shapes of JSON: what a value has to look like, written as a small tree.

`str`, `int`, `bool`, `None` and `float` (any number) stand for themselves; a text, or a set of texts,
for exactly those; `[shape]` for a list of at least one; `OneOf` for alternatives; `Text` for a pattern.
A dict has the keys of its shape, those that end in `?` perhaps, and others only with `MORE`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

Shape: TypeAlias = Any

MORE: dict[str, Shape] = {"...": object}
"""Merged into the shape of a dict: there may be other keys."""


@dataclass(frozen=True)
class Text:
    """A text that matches a pattern as a whole."""

    pattern: str


@dataclass(frozen=True)
class Many:
    """A list of any length."""

    shape: Shape


class OneOf:
    """Any of several shapes."""

    def __init__(self, *shapes: Shape) -> None:
        self.shapes = shapes


def differences(value: Any, shape: Shape, place: str = "$") -> list[str]:
    """Where `value` does not have the shape, a line each."""
    if isinstance(shape, dict):
        return _of_dict(value, shape, place)
    if isinstance(shape, list | Many):
        return _of_list(value, shape, place)
    if isinstance(shape, OneOf):
        found = [differences(value, one, place) for one in shape.shapes]
        return min(found, key=len)
    return [] if _is(value, shape) else [f"{place} is {value!r}, not {shape!r}"]


def _is(value: Any, shape: Shape) -> bool:
    if shape is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if shape is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(shape, type):
        return isinstance(value, shape)
    if isinstance(shape, Text):
        return isinstance(value, str) and re.fullmatch(shape.pattern, value) is not None
    if isinstance(shape, set):
        return value in shape
    return bool(value == shape and type(value) is type(shape))


def _of_dict(value: Any, shape: dict[str, Shape], place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place} is {value!r}, not an object"]
    known = {key.removesuffix("?"): key for key in shape}
    found = [] if "..." in shape else [f"{place} has {key}" for key in value if key not in known]
    for name, key in known.items():
        if name in value:
            found += differences(value[name], shape[key], f"{place}.{name}")
        elif key == name and name != "...":
            found.append(f"{place} has no {name}")
    return found


def _of_list(value: Any, shape: list[Shape] | Many, place: str) -> list[str]:
    if not isinstance(value, list):
        return [f"{place} is {value!r}, not a list"]
    if isinstance(shape, list) and not value:
        return [f"{place} is empty"]
    inner = shape.shape if isinstance(shape, Many) else shape[0]
    return [
        line for n, one in enumerate(value) for line in differences(one, inner, f"{place}[{n}]")
    ]
