"""`{column}` templates: texts with a value of each row in them.

`{{` and `}}` are braces. What stands in braces is the name of a column and nothing else: no
attributes, no formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmnb.errors import InvalidRequest
from lmnb.frame.values import is_null

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template:
    """A text with places for values.

    fields
        The names that stand in braces, each once, in their order.

    Raises
    ------
    InvalidRequest
        A brace is alone, or nothing stands in a pair.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise InvalidRequest(f"A template is a text, not {type(text).__name__}.")
        self._parts: list[str] = []
        """Text and names in turns, text first."""
        plain, end = "", 0
        for found in _PART.finditer(text):
            plain += text[end : found.start()]
            end = found.end()
            name = found[1]
            if found[0] in {"{{", "}}"}:
                plain += found[0][0]
            elif not name:
                raise InvalidRequest(
                    f"The template has {found[0]!r} without the name of a column: {text!r}.",
                    hint="Write {column}, and {{ or }} for a brace.",
                )
            else:
                self._parts += [plain, name]
                plain = ""
        self._parts.append(plain + text[end:])
        self.fields: tuple[str, ...] = tuple(dict.fromkeys(self._parts[1::2]))

    def check(self, columns: Sequence[Any]) -> None:
        """Refuse fields that are no column, or several.

        Raises
        ------
        InvalidRequest
            There is such a field.
        """
        for name in self.fields:
            count = sum(column == name for column in columns)
            if count != 1:
                known = ", ".join(map(str, columns))
                what = "there is no such column" if count == 0 else "several columns have that name"
                raise InvalidRequest(
                    f"The template has {{{name}}}, but {what}.", hint=f"Columns are {known}."
                )

    def fill(self, values: Mapping[str, Any]) -> str | None:
        """The text, or None if one of the values is null: then there is nothing to ask."""
        if any(is_null(values[name]) for name in self.fields):
            return None
        return self.render(values)

    def render(self, values: Mapping[str, Any]) -> str:
        """The text with `str` of the values in place."""
        return "".join(
            str(values[part]) if place % 2 else part for place, part in enumerate(self._parts)
        )
