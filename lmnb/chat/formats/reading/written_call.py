"""Calls as text with places: `<function={name}>{arguments}</function>`."""

from __future__ import annotations

import re

from lmnb.chat.formats.format import (
    ARGUMENTS,
    ID,
    INDEX,
    NAME,
    DictArguments,
    TaggedArguments,
    WrittenCall,
)
from lmnb.chat.formats.reading.call import ArgumentsReader, NotACall, read_arguments, read_word
from lmnb.chat.formats.reading.json_arguments import JsonReader
from lmnb.chat.formats.reading.source import Marker, Reading, Source
from lmnb.chat.formats.reading.tagged_arguments import TaggedReader
from lmnb.chat.formats.reading.tools import Tools

_PLACES = (NAME, ID, INDEX, ARGUMENTS)
_NUMBER = re.compile(r"\d*")


class WrittenReader:
    """A `CallReader`. `behind` is what may follow a call: the next one, or the end of all."""

    def __init__(self, form: WrittenCall, tools: Tools, behind: tuple[Marker, ...]) -> None:
        at = form.pieces.index(ARGUMENTS)
        self._pieces = _joined(form.pieces[:at])
        self._tools = tools
        self.opening = Marker(self._pieces[0] if self._pieces[0] not in _PLACES else "")
        self.late_opening = _last_tag(self.opening)
        end = Marker("".join(piece for piece in form.pieces[at:] if piece not in _PLACES))
        self.closers = end.parts
        closers = (*self.closers, *behind, self.opening)
        self._arguments: ArgumentsReader
        match form.arguments:
            case TaggedArguments():
                self._arguments = TaggedReader(form.arguments, closers)
            case DictArguments(quote=quote):
                self._arguments = JsonReader(closers, quote=quote)
            case _:
                self._arguments = JsonReader(closers)

    def read(self, source: Source, *, known: bool) -> Reading[None]:
        words = {NAME: "", ID: "", INDEX: ""}
        late = known and (yield from source.accepts(self.late_opening)) >= 0
        for piece, following in zip(self._pieces, (*self._pieces[1:], ""), strict=True):
            if piece == INDEX:
                yield from source.space()
                yield from source.word(_NUMBER)
            elif piece in words:
                behind = Marker("" if following in _PLACES else following)
                words[piece] = yield from read_word(source, behind)
            elif piece.strip():
                marker, late = self.late_opening if late else Marker(piece), False
                if not (yield from source.take(marker)):
                    raise NotACall
        name = words[NAME] or words[ID]
        if known and self._tools.find(self._tools.name(name)) is None:
            raise NotACall
        if not (yield from self._arguments.begins(source)):
            raise NotACall
        yield from read_arguments(source, self._arguments, self._tools, name, words[ID])
        for closer in self.closers:
            yield from source.take(closer)


def _last_tag(opening: Marker) -> Marker:
    """From where the last tag of several begins."""
    before, bracket, tag = opening.literal.rpartition("<")
    return Marker(bracket + tag if before.strip() else "")


def _joined(pieces: tuple[str, ...]) -> tuple[str, ...]:
    """The pieces with neighbouring literals in one."""
    joined: list[str] = []
    for piece in pieces:
        if joined and piece not in _PLACES and joined[-1] not in _PLACES:
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)
