"""Arguments as one JSON object, as a string that has one inside, or as Gemma's kind of object."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lmnb.chat.conversation import Tool
from lmnb.chat.formats.reading.source import Json, Marker, Source, Waiting
from lmnb.chat.formats.reading.values import Values


class JsonReader:
    """An `ArgumentsReader`. `quote` and `closers` as in `Values`."""

    def __init__(self, closers: Sequence[Marker], *, quote: str = "") -> None:
        self._closers = closers
        self._quote = quote

    def begins(self, source: Source) -> Waiting[bool]:
        character = yield from source.ahead()
        return character in {"{", '"'} or (yield from source.accepts_any(self._closers))

    def read(self, source: Source, tool: Tool | None) -> Json[None]:  # noqa: ARG002
        values = Values(source, quote=self._quote, closers=self._closers)
        character = yield from source.ahead()
        if character == "{":
            yield from source.space()
            yield from values.read()
        elif character == '"':
            yield (yield from _unwrapped(values))
        elif not character or (yield from source.accepts_any(self._closers)):
            yield "{}"
        else:
            value = yield from _whole(values)
            yield "{}" if value.strip() == "null" else value


def _unwrapped(values: Values) -> Waiting[str]:
    """The JSON inside a string, or the string where there is none inside. Not before its end."""
    string = (yield from _whole(values)).strip()
    inside = Source()
    inside.feed(json.loads(string).strip())
    inside.end(was_cut=False)
    if not inside.text:
        return "{}"
    if not inside.text.startswith("{"):
        return string
    return "".join(filter(None, Values(inside).read()))


def _whole(values: Values) -> Waiting[str]:
    whole = ""
    for text in values.read():
        if text is None:
            yield None
        else:
            whole += text
    return whole
