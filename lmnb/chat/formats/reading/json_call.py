"""Calls as one JSON object in which the name is a value: `{"name": …, "arguments": …}`."""

from __future__ import annotations

import json
from typing import Any

from lmnb.chat.formats.format import JsonCall
from lmnb.chat.formats.reading.call import NotACall, read_arguments
from lmnb.chat.formats.reading.json_arguments import JsonReader
from lmnb.chat.formats.reading.source import (
    Begun,
    Cut,
    Ended,
    Marker,
    More,
    Reading,
    Source,
    Waiting,
)
from lmnb.chat.formats.reading.tools import Tools
from lmnb.chat.formats.reading.values import Values

_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters", "args")
_IDS = ("id", "tool_call_id", "call_id")
_OTHERS = ("type", "index")
_DEEPEST = 8
"""Objects around the one that has the name."""


class JsonCallReader:
    """A `CallReader`, of any order of the keys, and of the keys that other families use."""

    def __init__(self, form: JsonCall, tools: Tools) -> None:
        self._form = form
        self._tools = tools
        self._begin = Marker(form.begin)
        self.opening = self._begin or Marker("{")
        self.late_opening = Marker("")
        self.closers = Marker(form.end).parts

    def read(self, source: Source, *, known: bool) -> Reading[None]:
        if self._begin and not (yield from source.take(self._begin)):
            raise NotACall
        if (yield from source.ahead()) != "{":
            raise NotACall
        call = _Object(self._form, self._tools, self.closers, known=known)
        yield from call.read(source)
        for closer in self.closers:
            yield from source.take(closer)


class _Object:
    """The object of one call, as far as it has been read."""

    def __init__(
        self, form: JsonCall, tools: Tools, closers: tuple[Marker, ...], *, known: bool
    ) -> None:
        self._form = form
        self._tools = tools
        self._closers = closers
        self._known = known
        self._arguments = JsonReader(closers)
        self._name = ""
        self._id = ""
        self._early: str | None = None
        """Arguments that came before the name."""
        self._begun = False
        self._depth = 0

    def read(self, source: Source) -> Reading[None]:
        try:
            yield from self._entries(source)
        except Cut:
            if not source.over or not (self._begun or self._name):
                raise
        if self._begun:
            return
        if not self._name:
            raise NotACall
        yield Begun(self._name, self._id)
        yield More("{}" if self._early is None else self._early)
        yield Ended()

    def _entries(self, source: Source) -> Reading[None]:
        yield from source.space()
        source.at += 1
        while True:
            character = yield from _after_gap(source)
            if character == "}":
                source.at += 1
                return
            if (yield from source.accepts_any(self._closers)):
                return
            if character in {'"', "'"}:
                key = yield from _value(source)
                if (yield from source.ahead()) != ":":
                    self._fail()
                yield from source.space()
                source.at += 1
                yield from self._entry(source, str(key))
            else:
                self._fail()
                if character in "])":
                    return
                source.at += 1

    def _fail(self) -> None:
        """It is no call; but once it has begun it is, whatever comes then."""
        if not self._begun:
            raise NotACall

    def _entry(self, source: Source, key: str) -> Reading[None]:
        form = self._form
        inner = (yield from source.ahead()) == "{" and self._depth < _DEEPEST
        if inner and (key in form.keys or key == "function"):
            self._depth += 1
            yield from self._entries(source)
            self._depth -= 1
        elif key in (form.arguments_key, *_ARGUMENTS):
            yield from self._read_arguments(source)
        elif key in (form.name_key, *_NAMES) and not self._name:
            self._take_name((yield from _value(source)))
        elif key in (form.id_key, *_IDS):
            self._id = str((yield from _value(source)))
        else:
            if self._known and not self._name and key not in _OTHERS:
                raise NotACall
            yield from _value(source)

    def _take_name(self, value: Any) -> None:
        if not isinstance(value, str) or not value.strip():
            raise NotACall
        self._name = self._tools.name(value.strip())
        if self._known and self._tools.find(self._name) is None:
            raise NotACall

    def _read_arguments(self, source: Source) -> Reading[None]:
        if self._begun or self._early is not None:
            yield from _value(source)
        elif self._name:
            self._begun = True
            yield from read_arguments(source, self._arguments, self._tools, self._name, self._id)
        else:
            self._early = ""
            for text in self._arguments.read(source, None):
                if text is None:
                    yield None
                else:
                    self._early += text


def _after_gap(source: Source) -> Waiting[str]:
    """Read white space and commas; the character behind them, not yet read."""
    while True:
        yield from source.space()
        character = yield from source.peek()
        if character != ",":
            return character
        source.at += 1


def _value(source: Source) -> Waiting[Any]:
    whole = ""
    for text in Values(source).read():
        if text is None:
            yield None
        else:
            whole += text
    try:
        return json.loads(whole)
    except (ValueError, RecursionError):  # numbers of thousands of digits, a thousand brackets
        return whole
