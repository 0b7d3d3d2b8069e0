"""Arguments as Python writes them in a call: `key="text", n=1)`."""

from __future__ import annotations

import re

from lmnb.chat.conversation import Tool
from lmnb.chat.formats.reading.source import Cut, Json, Source, Waiting
from lmnb.chat.formats.reading.tools import positions
from lmnb.chat.formats.reading.values import Values, escaped

_KEYWORD = re.compile(r"([\w-]+)\s*=(?!=)")
_MAYBE_KEYWORD = re.compile(r"[\w-]*\s*=?")
_BEGINS = re.compile(r"[\w)\"'\[{(*-]")


class PythonReader:
    """An `ArgumentsReader`: from behind the opening parenthesis to the closing one, which is read.

    Arguments without a keyword are those of the tool's schema, in its order.
    """

    def begins(self, source: Source) -> Waiting[bool]:
        return _BEGINS.match((yield from source.ahead())) is not None

    def read(self, source: Source, tool: Tool | None) -> Json[None]:
        unnamed = positions(tool)
        written = 0
        while True:
            character = yield from _after_gap(source)
            if character == ")":
                source.at += 1
                break
            if not character:
                if written:
                    break  # as in JSON: a model that has ended its turn needs no bracket
                raise Cut
            if character in "]}=:":
                source.at += 1
                continue
            key = (yield from _keyword(source)) or next(unnamed)
            yield ("," if written else "{") + f'"{escaped(key)}":'
            yield from Values(source).read()
            written += 1
        yield "}" if written else "{}"


def _after_gap(source: Source) -> Waiting[str]:
    """Read white space and commas; the character behind them, not yet read."""
    while True:
        yield from source.space()
        character = source.text[source.at : source.at + 1]
        if character != ",":
            return character
        source.at += 1


def _keyword(source: Source) -> Waiting[str]:
    """Read `key=` if it comes next."""
    yield from source.match(_MAYBE_KEYWORD)
    found = _KEYWORD.match(source.text, source.at)
    if found is None:
        return ""
    source.at = found.end()
    return found[1]
