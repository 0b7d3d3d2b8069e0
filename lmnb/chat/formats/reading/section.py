"""All the calls of a turn, one after another."""

from __future__ import annotations

from lmnb.chat.formats.format import (
    Calls,
    HarmonyCall,
    JsonCall,
    PythonCall,
    WrittenCall,
    tells,
)
from lmnb.chat.formats.reading.call import CallReader, NotACall
from lmnb.chat.formats.reading.json_call import JsonCallReader
from lmnb.chat.formats.reading.python_call import PythonCallReader
from lmnb.chat.formats.reading.source import Begun, Cut, Marker, Reading, Source
from lmnb.chat.formats.reading.tools import Tools
from lmnb.chat.formats.reading.written_call import WrittenReader

_LONGEST_HEAD = 100_000
"""Characters that may be read of a call before it is known to be one: arguments before the name."""
_READ_AGAIN = 1000
"""Characters of what was no call after all in which other calls are looked for."""


class Section:
    """Reads calls, wherever a format begins them.

    begins
        With what they begin. What stands around all calls may be missing, as models forget it.
    plain
        The same, of formats without any marker: calls begin with a mere bracket, as other text
        does. They count only where words would begin.
    strays
        What stands at the end of calls, and means nothing where there is none.
    failed
        The place up to which text has been looked at that was no call, and is words.

    What people may write as well (brackets, `>>>`), and the second tag of an opening without its
    first, begins calls only of tools that there are.
    """

    def __init__(self, calls: Calls, tools: Tools) -> None:
        self._begin = Marker(calls.begin)
        self._separator = Marker(calls.separator)
        self._end = Marker(calls.end)
        self._call = _reader(calls, tools, (self._end, self._separator))
        first = self._begin or self._call.opening
        every = (first, self._call.opening, self._call.late_opening)
        begins = [marker for marker in dict.fromkeys(every) if marker]
        self.begins = [marker for marker in begins if not marker.is_bracket]
        self.plain = [marker for marker in begins[:1] if marker.is_bracket]
        ends = (*self._call.closers, *self._end.parts)
        self.strays = [marker for marker in ends if not marker.is_bracket]
        self.failed = 0

    def read(self, source: Source, begun: Marker) -> Reading[bool]:
        """Read all calls; False, and nothing read, if there is not even one.

        `begun` is the marker that comes next. Of a call that is cut before its name is known,
        nothing is left: it was no text.

        Raises
        ------
        Cut
            The text ended within a call that has begun.
        """
        place = source.keep()
        known = begun is self._call.late_opening or not tells(begun.literal)
        try:
            yield from source.take(self._begin)
            if not known and (yield from source.take(self._end)):
                source.release()
                return True
            if not (yield from self._read(source, place, known=known)):
                return False
        except Cut:
            if not source.keeps:
                raise
            if begun.is_bracket or source.over:
                self._fail(source, place)
                return False
            source.at = len(source.text)
            return True
        while (yield from self._next(source, known=known)):
            pass
        yield from source.take(self._end)
        return True

    def _next(self, source: Source, *, known: bool) -> Reading[bool]:
        """Read another call, if one comes next."""
        place = source.keep()
        separated = yield from source.take(self._separator)
        opening = self._call.opening
        if not (separated or (opening and (yield from source.accepts(opening)) >= 0)):
            source.release()
            return False
        try:
            return (yield from self._read(source, place, known=known))
        except Cut:
            if not source.keeps:
                raise
            if source.over:
                self._fail(source, place)
            else:
                source.at = len(source.text)
            return False

    def _read(self, source: Source, place: int, *, known: bool) -> Reading[bool]:
        """Read a call; if it is none, go back to `place`.

        Raises
        ------
        Cut
            The text ended within it. The source keeps nothing any more if the call had begun.
        """
        try:
            for piece in self._call.read(source, known=known):
                _check_head(source, place)
                if isinstance(piece, Begun):
                    source.release()
                yield piece
        except NotACall:
            self._fail(source, place)
            return False
        return True

    def _fail(self, source: Source, place: int) -> None:
        """Go back to `place`: what has been read is no call.

        Were everything read again, text in which each of many markers seems to begin a call that
        holds all the others would be read as many times.
        """
        if source.place - place > _READ_AGAIN:
            self.failed = source.place
        source.back(place)
        source.release()


def _check_head(source: Source, place: int) -> None:
    if source.keeps and source.place - place > _LONGEST_HEAD:
        raise NotACall


def _reader(calls: Calls, tools: Tools, behind: tuple[Marker, ...]) -> CallReader:
    match calls.call:
        case WrittenCall() as form:
            return WrittenReader(form, tools, behind)
        case JsonCall() as form:
            return JsonCallReader(form, tools)
        case PythonCall():
            return PythonCallReader(tools)
        case HarmonyCall():
            raise AssertionError("Harmony has no section of calls.")
