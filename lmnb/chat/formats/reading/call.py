"""What the readers of calls have in common."""

from __future__ import annotations

import re
from typing import Protocol

from lmnb.chat.conversation import Tool
from lmnb.chat.formats.reading.source import (
    Begun,
    Ended,
    Json,
    Marker,
    Markers,
    More,
    Reading,
    Source,
    Waiting,
)
from lmnb.chat.formats.reading.tools import Tools
from lmnb.chat.tool_names import MOST_CHARACTERS

_AROUND_NAME = 64
"""Characters that families write beside a name: `functions.NAME:0`; and of a number behind it."""
_WORD = re.compile(rf"[\w.:/@$-]{{1,{MOST_CHARACTERS + _AROUND_NAME}}}")


class NotACall(Exception):
    """It only looked like a call. Nothing has been yielded."""


class CallReader(Protocol):
    """Reads one call.

    opening
        What it begins with; falsy if that is nothing to be looked for.
    late_opening
        The end of the opening, if that is a tag of its own: models forget what stands before it.
    closers
        Markers at its end.
    """

    opening: Marker
    late_opening: Marker
    closers: tuple[Marker, ...]

    def read(self, source: Source, *, known: bool) -> Reading[None]:
        """Read a call, from its opening to its end. `known`: only of a tool that there is.

        Raises
        ------
        NotACall
            It is none; then nothing has been yielded.
        Cut
            The text ended within it.
        """


class ArgumentsReader(Protocol):
    """Reads the arguments of one call."""

    def begins(self, source: Source) -> Waiting[bool]:
        """Whether such arguments, perhaps none at all, come next. Reads nothing."""

    def read(self, source: Source, tool: Tool | None) -> Json[None]:
        """Read them: the JSON text of one object. `tool` is None if there is none of that name.

        Raises
        ------
        Cut
            The text ended within them.
        """


def read_arguments(
    source: Source, reader: ArgumentsReader, tools: Tools, name: str, written_id: str = ""
) -> Reading[None]:
    """Read a call from its arguments on."""
    name = tools.name(name)
    yield Begun(name, written_id)
    for json in reader.read(source, tools.find(name)):
        if json is None:
            yield None
        elif json:
            yield More(json)
    yield Ended()


def read_word(source: Source, behind: Marker) -> Waiting[str]:
    """Read a name or an id, which ends where `behind` begins, if that is anything.

    Raises
    ------
    NotACall
        What comes next is no such word.
    """
    yield from source.space()
    if not behind:
        return _checked((yield from source.word(_WORD)))
    markers = Markers([behind])
    while True:
        place, marker = markers.find(source.text, source.at, ended=source.over)
        word = source.text[source.at : place].rstrip()
        if marker is not None or word:
            _checked(word)
        if marker is not None:
            source.at = place
            return word
        yield from source.more()


def _checked(word: str) -> str:
    if not _WORD.fullmatch(word):
        raise NotACall
    return word
