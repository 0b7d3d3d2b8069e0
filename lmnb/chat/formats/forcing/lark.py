"""Grammars in llguidance's Lark dialect, put together rule by rule.

Syntax: llguidance, docs/syntax.md. Expressions are text; what is named here is a rule or, in
capitals, a terminal (one lexeme, a regular expression).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

ANY_TEXT = "(?s:.*)"
SPACE = r"/[ \t\r\n]{1,4}/"
"""White space a model may write where a template writes none, or other."""


class Lark:
    """The rules of one grammar.

    Parameters
    ----------
    controls
        Control tokens of the model by their text: they are demanded as tokens, never spelled out.
    ends
        Those of them that end the answer. Nothing can follow them, and no grammar has to name them.
    """

    def __init__(self, controls: Mapping[str, int], ends: Collection[int] = ()) -> None:
        self._controls = controls
        self._ends = frozenset(ends)
        texts = sorted(controls, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        self._names: dict[str, str] = {}  # body: name
        self._lines: list[str] = []

    def parts(self, text: str) -> list[tuple[str, int | None]]:
        """The text cut at its control tokens; the id of each part that is one."""
        found: list[tuple[str, int | None]] = []
        place = 0
        for control in self._pattern.finditer(text):
            found.append((text[place : control.start()], None))
            found.append((control[0], self._controls[control[0]]))
            place = control.end()
        found.append((text[place:], None))
        return [part for part in found if part[0]]

    def until_end(self, text: str) -> tuple[str, bool]:
        """The text up to a token that ends the answer, and whether there is one."""
        kept = ""
        for part, token in self.parts(text):
            if token in self._ends:
                return kept, True
            kept += part
        return text, False

    def literal(self, text: str) -> str:
        """Exactly this text; "" is nothing at all."""
        return " ".join(
            json.dumps(part, ensure_ascii=False) if token is None else f"<[{token}]>"
            for part, token in self.parts(text)
        )

    def rule(self, body: str, *, lazy: bool = False) -> str:
        """The name of a rule. A lazy one (of a terminal) ends as soon as it can."""
        return self._define(body, "r", "[lazy]" if lazy else "")

    def terminal(self, body: str) -> str:
        """The name of a terminal."""
        return self._define(body, "T", "")

    def name(self) -> str:
        """A name for a rule that is defined later, with `define`, since it contains itself."""
        self._lines.append("")
        return f"r{len(self._lines) - 1}"

    def define(self, name: str, body: str) -> None:
        """Define a rule that has got its name from `name`."""
        self._lines[int(name[1:])] = f"{name}: {body}"

    def text(self, start: str) -> str:
        """The whole grammar."""
        return "\n".join((f"start: {start}", *self._lines, ""))

    def _define(self, body: str, prefix: str, options: str) -> str:
        body = body or '""'
        name = self._names.get(f"{options}{body}")
        if name is None:
            name = self._names[f"{options}{body}"] = f"{prefix}{len(self._lines)}"
            self._lines.append(f"{name}{options}: {body}")
        return name


def sequence(*parts: str) -> str:
    """One after the other."""
    return " ".join(part for part in parts if part)


def either(options: Iterable[str]) -> str:
    """One of these, without those that occur twice."""
    return "(" + " | ".join(dict.fromkeys(option or '""' for option in options)) + ")"


def regex(pattern: str) -> str:
    """A regular expression as Lark writes it."""
    escaped = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern)
    return f"/{escaped}/".replace("\n", r"\n").replace("\r", r"\r")


def json_value(schema: Mapping[str, Any] | bool, *, lenient: bool) -> str:
    """A JSON value that fits a schema, with the white space of Python's `json.dumps`.

    That is what templates write, and so what models have seen.
    """
    options: dict[str, Any] = {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
    }
    if lenient:
        options |= {"lenient": True, "coerce_one_of": True}
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    return "%json " + json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)


class Member(NamedTuple):
    """A member of an object: the literal text that begins it, and what follows."""

    begin: str
    value: str
    required: bool = False


def members(lark: Lark, rows: list[Member], separator: str, extra: str | None = None) -> str:
    """Members of an object in order; `extra`, an expression, may follow any number of times.

    Optional ones take turns in rules of their own, so that the grammar grows with their number, not
    with the number of their combinations. A separator is one literal with what follows it: the
    lexer takes the longest, and would lose its way between `, ` and `, }`.
    """
    rest = f"({sequence(lark.literal(separator), extra)})*" if extra else ""
    first = f"({sequence(extra, rest)})?" if extra else ""
    for row in reversed(rows):
        following = lark.rule(rest) if rest else ""
        begun = sequence(lark.literal(row.begin), row.value, following)
        first = begun if row.required else lark.rule(either([begun, first]))
        rest = sequence(lark.literal(separator + row.begin), row.value, following)
        if not row.required:
            rest = either([rest, following])
    return first
