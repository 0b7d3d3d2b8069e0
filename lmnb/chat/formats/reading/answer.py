"""A whole answer: thinking, words, calls, as a format writes them."""

from __future__ import annotations

from lmnb.chat.formats.format import Format
from lmnb.chat.formats.reading.section import Section
from lmnb.chat.formats.reading.source import Marker, Markers, Reading, Source, Thought
from lmnb.chat.formats.reading.tools import Tools
from lmnb.chat.formats.reading.words import Words


class Answer:
    """Reads a whole answer.

    Thinking is looked for where an answer begins, and again after calls: elsewhere somebody writes
    about its markers. Calls are looked for everywhere but in thinking.

    Parameters
    ----------
    tools
        Without any, calls are words.
    open_
        Thinking has begun before the text does.
    bare
        The text is the rest of something: white space at its beginning belongs to it.
    """

    def __init__(
        self,
        source: Source,
        form: Format,
        tools: Tools,
        *,
        open_: bool,
        bare: bool,
    ) -> None:
        self._source = source
        calls = form.calls if tools else None
        self._section = None if calls is None else Section(calls, tools)
        self._think_begin = Marker(form.thinking.begin if form.thinking else "")
        self._think_end = Marker(form.thinking.end if form.thinking else "")
        self._answer_begin = Marker(form.answer.begin if form.answer else "")
        self._answer_end = Marker(form.answer.end if form.answer else "")
        self._calls = [] if self._section is None else [*self._section.begins, *self._section.plain]
        self._words = Words(source, bare=not open_)
        self._bare = bare
        self._open = open_
        self.thoughts: list[Thought] = []
        """Where there has been thinking, and where there is."""

    @property
    def markers(self) -> list[Marker]:
        """With what something begins, as far as it is not mere brackets."""
        begins = [] if self._section is None else self._section.begins
        return [marker for marker in (self._answer_begin, *begins) if marker]

    def read(self) -> Reading[None]:
        """Read to the end of the text."""
        if self._open:
            yield from self._think(bare=self._bare)
        markers = self._markers(called=False)
        while (marker := (yield from self._words.read(markers))) is not None:
            if marker in self._calls:
                assert self._section is not None
                if not (yield from self._section.read(self._source, marker)):
                    self._words.not_a_marker(self._section.failed)
                    continue
                markers = self._markers(called=True)
            elif self._words.said and marker in {self._think_begin, self._think_end}:
                self._words.not_a_marker()
                continue
            else:
                yield from self._source.take(marker)
                if marker is self._think_begin:
                    yield from self._think()
            self._words.again()

    def _think(self, *, bare: bool = False) -> Reading[None]:
        thought = Thought(self._source.place - len(self._think_begin.literal.strip()))
        self.thoughts.append(thought)
        behind = [self._think_end] if self._think_end else [self._answer_begin, *self._calls]
        words = Words(self._source, thinking=True, bare=bare)
        if (yield from words.read(Markers(behind))) is not None:
            yield from self._source.take(self._think_end)
            thought.end = self._source.place

    def _markers(self, *, called: bool) -> Markers:
        always = [self._think_begin, self._think_end, self._answer_begin, self._answer_end]
        if self._section is None:
            return Markers(always)
        strays = self._section.strays if called else []
        return Markers([*always, *strays, *self._section.begins], self._section.plain)
