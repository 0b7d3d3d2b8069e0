"""Arguments as one JSON object, as a string that has one inside, or as Gemma's kind of object."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from lmnb.chat.conversation import Tool
from lmnb.chat.formats.reading.source import Cut, Json, Marker, Source, Waiting
from lmnb.chat.formats.reading.tools import positions
from lmnb.chat.formats.reading.values import Values, escaped

_QUOTED = re.compile(r'\s*"(?:\s|\\[nrt]|\\\Z)*\{?')
"""The beginning of a string that has an object inside, as far as there is one."""


class JsonReader:
    """An `ArgumentsReader`. `quote` and `closers` as in `Values`."""

    def __init__(self, closers: Sequence[Marker], *, quote: str = "") -> None:
        self._closers = closers
        self._quote = quote

    def begins(self, source: Source) -> Waiting[bool]:
        character = yield from source.ahead()
        if character == '"':
            quoted = yield from source.match(_QUOTED)
            return quoted is not None and quoted[0].endswith("{")
        return character == "{" or (yield from source.accepts_any(self._closers))

    def read(self, source: Source, tool: Tool | None) -> Json[None]:
        values = Values(source, quote=self._quote, closers=self._closers)
        character = yield from source.ahead()
        if character == "{":
            yield from source.space()
            yield from values.read()
        elif not character or (yield from source.accepts_any(self._closers)):
            yield "{}"
        else:
            yield _object((yield from _whole(values)), tool)


def _object(written: str, tool: Tool | None) -> str:
    """The JSON of an object for a value that is none.

    Nothing is no arguments, and text may have an object inside. All else is the first argument, but
    for text that has only the beginning of an object: no tool is to run with that, so that it gets a
    name that no tool knows.
    """
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):  # numbers of thousands of digits, a thousand brackets
        value = written
    text = value.strip() if isinstance(value, str) else ""
    if value is None or (isinstance(value, str) and not text):
        return "{}"
    if text.startswith("{"):
        inside = _inside(text)
        if inside is not None:
            return inside
        tool = None
    return f'{{"{escaped(next(positions(tool)))}":{written.strip()}}}'


def _inside(text: str) -> str | None:
    """The object that is written in a text, with which it begins; None if it has no end."""
    source = Source()
    source.feed(text)
    source.end(was_cut=False)
    try:
        return "".join(filter(None, Values(source).read()))
    except Cut:
        return None


def _whole(values: Values) -> Waiting[str]:
    whole = ""
    for text in values.read():
        if text is None:
            yield None
        else:
            whole += text
    return whole
