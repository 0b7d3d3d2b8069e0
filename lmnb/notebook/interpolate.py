"""`{{name}}` in a cell becomes the value of the notebook's variable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_REFERENCE = re.compile(r"\{\{[ \t]*([^\W\d]\w*)[ \t]*\}\}")


class Interpolated(NamedTuple):
    """`text` with values put in, and the names that were left as typed because none is known."""

    text: str
    unknown: tuple[str, ...]


def interpolate(text: str, variables: Mapping[str, Any]) -> Interpolated:
    """Replace each `{{name}}` by `str(variables["name"])`.

    Only a name in doubled braces is a reference: code, JSON and single braces are never
    touched, and there is nothing to escape. A name that is no variable stays as typed.
    Values are not looked into, so braces inside them mean nothing.
    """
    unknown: dict[str, None] = {}

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in variables:
            unknown[name] = None
            return match[0]
        return str(variables[name])

    return Interpolated(_REFERENCE.sub(value, text), tuple(unknown))
