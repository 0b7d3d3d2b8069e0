"""Strings written without quotes, up to a mark: which texts a schema allows there."""

from __future__ import annotations

import re
from typing import Any

from lmnb.chat.formats.forcing.lark import Lark, either, regex, sequence

_DATE = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": rf"({_OCTET}\.){{3}}{_OCTET}",
    "email": r"[A-Za-z0-9_+-]{1,32}(\.[A-Za-z0-9_+-]{1,32})?@[a-z0-9-]{1,32}(\.[a-z]{2,16}){1,2}",
}
"""The formats of JSON schema that are enforced: a part of what each allows, which weak models hit."""


def raw(lark: Lark, schema: dict[str, Any], end: str, unenforced: set[str]) -> str:
    """A string as it is, and `end` after it. Adds what of the schema it cannot keep.

    White space before the mark in `end` may be left out: readers do not insist on it, so that a mark
    without it ends the string as well.
    """
    core = end.strip() or end
    plain, controls = _split(lark, core)
    trailing = end[len(end.rstrip()) :] if end.strip() else ""
    pattern = regex(_pattern(schema, unenforced))
    if not plain:  # no text is a control token, so that the string needs no look at its end
        return sequence(lark.terminal(pattern), lark.literal(controls + trailing))
    border = end[: len(end) - len(end.lstrip())]
    body = sequence(pattern, f"({lark.literal(border)})?" if border else "", lark.literal(plain))
    value = lark.rule(lark.terminal(body), lazy=True)
    return sequence(value, lark.literal(controls + trailing))


def constants(lark: Lark, values: list[str], end: str) -> str:
    """One of these strings, and `end`."""
    return either(lark.literal(value + end) for value in values)


def _split(lark: Lark, core: str) -> tuple[str, str]:
    """The mark up to its first control token, and from there."""
    plain = ""
    for part, token in lark.parts(core):
        if token is not None:
            break
        plain += part
    return plain, core[len(plain) :]


def _pattern(schema: dict[str, Any], unenforced: set[str]) -> str:
    low, high = schema.get("minLength", 0), schema.get("maxLength", "")
    bounded = bool(low or high != "")
    if isinstance(pattern := schema.get("pattern"), str):
        if (found := whole(pattern)) is None:
            unenforced.add("pattern")
        else:
            if bounded:
                unenforced.add("minLength" if low else "maxLength")
            return found
    if (name := schema.get("format")) is not None:
        if name in _FORMATS and not bounded:
            return _FORMATS[name]
        unenforced.add("format")
    return f"(?s:.{{{low},{high}}})" if bounded else "(?s:.*)"


def whole(pattern: str) -> str | None:
    """A schema's pattern, which may match anywhere, as one for the whole text; None: too intricate."""
    inner = pattern.removeprefix("^")
    start = "" if inner != pattern else "(?s:.*)"
    stop = "(?s:.*)"
    if inner.endswith("$") and not re.search(r"(?<!\\)(\\\\)*\\\$$", inner):
        inner, stop = inner[:-1], ""
    if re.search(r"(?<!\\)[$^](?!\])", re.sub(r"\[\^?", "[", inner)):
        return None
    if "|" in inner and not (start and stop) and not _grouped(inner):
        return None
    return f"{start}({inner}){stop}"


def _grouped(pattern: str) -> bool:
    """Whether no alternative stands outside of all groups: anchors bind to the first and last only."""
    depth = 0
    escaped = inside = False
    for char in pattern:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif inside:
            inside = char != "]"
        elif char == "[":
            inside = True
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "|" and depth == 0:
            return False
    return True
