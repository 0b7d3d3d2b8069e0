"""Values as models write them, JSON or nearly, made into JSON while they arrive.

Models forget and confuse: a comma after the last item, single quotes, Python's `True`, a line break
inside a string, a bracket that is not closed. What comes out is JSON all the same, once the value
comes to an end; white space and numbers stay as they are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from string import hexdigits

from lmnb.chat.formats.reading.source import Json, Marker, Source, Waiting

_OPENERS = {"{": ("}", "}"), "[": ("]", "]"), "(": (")", "]")}
"""What closes it, and what that is in JSON."""
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null", "nan": "null"}
_KEY = re.compile(r"[^\s:=,}\])\"'<]+")
_WORD = re.compile(r"[^\n,\]})<\"']+")
_PLAIN = {quote: re.compile(rf"[^{quote}\\]+") for quote in "\"'"}
_FIRST_HALF = re.compile(r"\\u[dD][89abAB]..")
_SECOND_HALF = re.compile(r"\\u[dD][c-fC-F]..")
_NO_CHARACTER = r"\ufffd"
_HEX = {"x": 2, "u": 4, "U": 8}


def escaped(text: str) -> str:
    """Text as the inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def word_value(word: str) -> str:
    """The JSON of a bare word: a number, a constant, or else a string."""
    word = word.strip()
    if _NUMBER.fullmatch(word):
        return word
    known = _WORDS.get(word.lower())
    if known is not None or not word:
        return known or "null"
    for kind in (lambda text: int(text, 0), float):
        try:
            return json.dumps(kind(word), allow_nan=False)
        except (ValueError, OverflowError):
            continue
    return json.dumps(word, ensure_ascii=False)


@dataclass
class _Open:
    """An object or a list that has begun: what closes it, and what that is in JSON."""

    closer: str
    json: str
    filled: bool = False

    @property
    def junk(self) -> str:
        """Characters that no item begins with."""
        return ":=<({[" if self.json == "}" else ":=<"


class Values:
    """Reads one value.

    Parameters
    ----------
    quote
        A mark of the family's own around strings, in which nothing is escaped (Gemma 4); besides
        the usual quotes.
    closers
        What may stand after the value. Where one comes outside of a string, all is closed.
    """

    def __init__(self, source: Source, *, quote: str = "", closers: Iterable[Marker] = ()) -> None:
        self._source = source
        self._quote = Marker(quote)
        self._closers = [closer for closer in closers if closer and not closer.is_bracket]
        self._open: list[_Open] = []
        self._half = ""
        """The escape of a first surrogate, which means a character together with the next one."""

    def read(self) -> Json[None]:
        """Read the value, and nothing after it.

        Raises
        ------
        Cut
            The text ended within it.
        """
        yield from self._value()
        while self._open:
            yield from self._step()

    def _value(self) -> Json[None]:
        """Read a value that is not made of others, or the bracket that begins one that is."""
        source = self._source
        yield (yield from source.space())
        character = yield from source.peek()
        if character in _OPENERS:
            source.at += 1
            self._open.append(_Open(*_OPENERS[character]))
            yield "[" if character == "(" else character
        elif not (yield from self._string()):
            yield word_value((yield from source.word(_WORD)))

    def _step(self) -> Json[None]:
        """Read the next item of the innermost object or list, or its end."""
        source = self._source
        space = yield from self._gap()
        character = source.text[source.at : source.at + 1]
        if not character:
            # The model has ended its turn without the last brackets, which say nothing new.
            yield self._close_all()
        elif character in "}])":
            yield from self._close(character, space)
        elif (yield from self._is_over()):
            yield self._close_all()
        elif character in self._open[-1].junk and not (yield from self._marked()):
            source.at += 1
        else:
            yield from self._item(space)

    def _gap(self) -> Json[str]:
        """Read white space and commas; the white space. Nothing follows at the end of the text."""
        source = self._source
        gap = ""
        while True:
            gap += yield from source.space()
            if not source.text.startswith(",", source.at):
                return gap
            source.at += 1

    def _item(self, space: str) -> Json[None]:
        inner = self._open[-1]
        yield "," * inner.filled + space
        inner.filled = True
        if inner.json == "]":
            yield from self._value()
            return
        if not (yield from self._string()):
            yield f'"{escaped((yield from self._source.word(_KEY)))}"'
        yield (yield from self._source.space())
        if (yield from self._source.peek()) in ":=":
            self._source.at += 1
        yield ":"
        yield from self._value()

    def _close(self, closer: str, space: str) -> Json[None]:
        """Close all up to the one that ends in `closer`; if there is none, everything."""
        if all(inner.closer != closer for inner in self._open):
            yield self._close_all()
            return
        self._source.at += 1
        while self._open[-1].closer != closer:
            yield self._open.pop().json
        yield space + self._open.pop().json

    def _close_all(self) -> str:
        closers = "".join(inner.json for inner in reversed(self._open))
        self._open.clear()
        return closers

    def _is_over(self) -> Waiting[bool]:
        for closer in self._closers:
            if (yield from self._source.accepts(closer)) >= 0:
                return True
        return False

    # --- strings -----------------------------------------------------------------

    def _marked(self) -> Waiting[bool]:
        return bool(self._quote) and (yield from self._source.accepts(self._quote)) >= 0

    def _string(self) -> Json[bool]:
        """Read a string if one comes next."""
        source = self._source
        if (yield from self._marked()):
            yield from source.take(self._quote)
            yield '"'
            for text in source.until(self._quote, "", _ends_value):
                yield text and escaped(text)
            yield '"'
            return True
        character = yield from source.peek()
        if character not in _PLAIN:
            return False
        source.at += 1
        yield '"'
        while (found := (yield from source.peek())) != character:
            if found == "\\":
                yield self._paired((yield from self._escape()))
            else:
                plain = _PLAIN[character].match(source.text, source.at)
                assert plain is not None
                source.at = plain.end()
                yield self._paired(escaped(plain[0]))
        source.at += 1
        yield self._paired("") + '"'
        return True

    def _paired(self, json: str) -> str:
        """More of a string, with what was held back of it; halves of a pair by themselves: `\ufffd`.

        They are no text, and no UTF-8 can be made of them.
        """
        held, self._half = self._half, ""
        if _FIRST_HALF.fullmatch(json):
            self._half, json = json, ""
        elif _SECOND_HALF.fullmatch(json):
            if held:
                return held + json
            json = _NO_CHARACTER
        return _NO_CHARACTER * bool(held) + json

    def _escape(self) -> Waiting[str]:
        """Read a backslash and what it stands for; its JSON."""
        source = self._source
        source.at += 1
        kind = yield from source.peek()
        source.at += 1
        if kind in '"\\/bfnrt':
            return "\\" + kind
        if kind == "'":
            return kind
        digits = ""
        while len(digits) < _HEX.get(kind, 0) and (yield from source.peek()) in hexdigits:
            digits += source.text[source.at]
            source.at += 1
        if digits and len(digits) == _HEX[kind]:
            if kind == "u":
                return f"\\u{digits}"
            code = int(digits, 16)
            if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
                return escaped(chr(code))
        return escaped(f"\\{kind}{digits}")


def _ends_value(text: str, at: int, ended: bool) -> bool | None:
    """Whether a string can have ended before `at`: a value or a key is followed by punctuation."""
    rest = text[at:].lstrip()
    if not rest:
        return True if ended else None
    return rest[0] in ",:}])"
