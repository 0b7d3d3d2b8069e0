"""Arguments each between their own tags: `<parameter=KEY>VALUE</parameter>`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from lmnb.chat.conversation import Tool
from lmnb.chat.formats.format import TaggedArguments
from lmnb.chat.formats.reading.source import PARTIAL, Cut, Json, Marker, Source, Waiting
from lmnb.chat.formats.reading.types import parameter_types
from lmnb.chat.formats.reading.values import Values, escaped

_STRING = frozenset({"string"})
_PYTHON = {"True": "true", "False": "false", "None": "null"}
"""Written by templates that print values without making JSON of them."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Half a character, which JSON may not have without the other."""


class TaggedReader:
    """An `ArgumentsReader`.

    A value that ends in its tag is over only if another argument or one of `closers` comes behind
    it: the tag may be part of the text. Strings come as they are written, other values whole.
    """

    def __init__(self, form: TaggedArguments, closers: Sequence[Marker]) -> None:
        self._form = form
        self._key_begin = Marker(form.key_begin)
        self._key_end = Marker(form.key_end)
        self._value_end = Marker(form.value_end)
        self._separator = Marker(form.separator)
        self._closers = [closer for closer in closers if closer]
        self._before = _border(form.key_end)
        self._behind = form.value_end[: len(form.value_end) - len(form.value_end.lstrip())]

    def begins(self, source: Source) -> Waiting[bool]:
        return (yield from source.accepts_any([self._key_begin, *self._closers]))

    def read(self, source: Source, tool: Tool | None) -> Json[None]:
        count = 0
        while True:
            if count and self._separator:
                yield from source.take(self._separator)
            if not (yield from source.take(self._key_begin)):
                break
            key = yield from self._key(source)
            yield ("," if count else "{") + f'"{escaped(key)}":'
            yield from self._value(source, None if tool is None else parameter_types(tool, key))
            count += 1
        yield "}" if count else "{}"

    def _key(self, source: Source) -> Waiting[str]:
        key = ""
        for text in source.until(self._key_end, "", lambda *_: True):
            if text is None:
                yield None
            else:
                key += text
        return key.strip().strip("\"'")

    def _value(self, source: Source, types: frozenset[str] | None) -> Json[None]:
        before = self._before
        if self._form.typed is not None:
            types, before = yield from self._typed(source, *self._form.typed)
        elif not self._form.raw_strings:
            types = None
        yield from self._skip(source, before)
        text = source.until(self._value_end, self._behind, self._follows)
        if types == _STRING:
            yield '"'
            for piece in text:
                yield piece and escaped(piece)
            yield '"'
            return
        whole = ""
        for piece in text:
            if piece is None:
                yield None
            else:
                whole += piece
        yield as_json(whole, types)

    def _typed(
        self, source: Source, of_text: str, of_other: str
    ) -> Waiting[tuple[frozenset[str] | None, str]]:
        """The types that the tag says, and the white space at its end."""
        if (yield from source.take(Marker(of_text))):
            return _STRING, _border(of_text)
        yield from source.take(Marker(of_other))
        return None, _border(of_other)

    def _skip(self, source: Source, border: str) -> Waiting[None]:
        """Read what belongs to the tag, if it is there."""
        for character in border:
            if (yield from source.peek()) != character:
                return
            source.at += 1

    def _follows(self, text: str, at: int, ended: bool) -> bool | None:
        rest = text[at:].lstrip()
        if ended and not rest:
            return True
        behind = [self._key_begin, *self._closers]
        if self._separator:
            behind.append(self._separator)
        ends = [marker.match(rest, 0) for marker in behind]
        if max(ends) >= 0 or not self._closers:
            return True
        return None if PARTIAL in ends and not ended else False


def _border(literal: str) -> str:
    return literal[len(literal.rstrip()) :]


def as_json(text: str, types: frozenset[str] | None) -> str:
    """What is written in a tag, as JSON of one of the types; None or no types: of any.

    What is not JSON of such a type is a string, as it is written.
    """
    written = text.strip()
    if types and written in _PYTHON:
        written = _PYTHON[written]
    if types and types & {"object", "array"} and written[:1] in {"{", "["}:
        written = _lenient(written)
    try:
        value = json.loads(written, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    if types and not _types_of(value) & types:
        return json.dumps(text, ensure_ascii=False)
    return _lenient(written) if _HALF.search(written) else written


def _lenient(text: str) -> str:
    """JSON where it is nearly JSON, else the text."""
    source = Source()
    source.feed(text)
    source.end(was_cut=True)
    try:
        value = "".join(filter(None, Values(source).read()))
    except Cut:
        return text
    return text if source.text[source.at :].strip() else value


def _types_of(value: object) -> frozenset[str]:
    """The types of JSON schema that a value is of."""
    match value:
        case None:
            return frozenset({"null"})
        case bool():
            return frozenset({"boolean"})
        case int():
            return frozenset({"integer", "number"})
        case float():
            return frozenset({"integer", "number"} if value.is_integer() else {"number"})
        case str():
            return frozenset({"string"})
        case list():
            return frozenset({"array"})
        case _:
            return frozenset({"object"})


def _no_constant(name: str) -> float:
    raise ValueError(name)
