"""Text that arrives in pieces, read as if it were all there."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import msgspec

T = TypeVar("T")


class Said(msgspec.Struct, frozen=True):
    """Words or, if `thinking`, thoughts. `at` is their place in the whole text; -1: nowhere."""

    text: str
    at: int
    thinking: bool = False


class Begun(msgspec.Struct, frozen=True):
    """A call begins. `id` is what the model wrote as its id, if it did."""

    name: str
    id: str = ""


class More(msgspec.Struct, frozen=True):
    """More of the JSON text of the call's arguments."""

    json: str


class Ended(msgspec.Struct, frozen=True):
    """The call is complete."""


@dataclass
class Thought:
    """Places between which there is thinking, with its markers; without `end` it goes on."""

    begin: int
    end: int | None = None


Piece: TypeAlias = Said | Begun | More | Ended
Reading: TypeAlias = Generator[Piece | None, None, T]
"""Reads on, yields what it finds, or None where more text is needed; returns T."""
Json: TypeAlias = Generator[str | None, None, T]
"""As `Reading`, of JSON text."""


Waiting: TypeAlias = Generator[None, None, T]
"""As `Reading`, but finds nothing on the way."""
Follows: TypeAlias = Callable[[str, int, bool], bool | None]
"""Looks at a text from an index on, ended or not; None: more of it is needed."""

_SPACE = re.compile(r"\s*")


class Cut(Exception):
    """The text ended in the middle of something."""


class Source:
    """The text of an answer, as far as it has come. What has been read is forgotten with the next.

    Readers must not keep an index into `text` while they wait: they keep places.

    text, at
        What is not forgotten, and where reading goes on in it.
    ended
        No more text comes.
    over
        The same, and the model ended it there. Where it was cut (by a limit, a stop string), no
        reader takes the end of the text for the end of anything: they get a `Cut`.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self.over = False
        self._dropped = 0
        self._kept: int | None = None
        self._blank = (0, 0)

    @property
    def place(self) -> int:
        """Where reading goes on, counted from the beginning of the whole text."""
        return self._dropped + self.at

    def index(self, place: int) -> int:
        """Where a place is in `text` now."""
        return place - self._dropped

    def feed(self, text: str) -> None:
        """There is more text."""
        drop = self.at if self._kept is None else self.index(self._kept)
        self.text = self.text[drop:] + text
        self._dropped += drop
        self.at -= drop

    def end(self, *, was_cut: bool) -> None:
        """There is no more text. `was_cut`: it would have gone on."""
        self.ended = True
        self.over = not was_cut

    def keep(self) -> int:
        """From here on nothing is forgotten, so that one can go `back` to this place."""
        self._kept = self.place
        return self._kept

    def release(self) -> None:
        """What has been read can be forgotten again."""
        self._kept = None

    @property
    def keeps(self) -> bool:
        """Whether one could go back."""
        return self._kept is not None

    def back(self, place: int) -> None:
        """Read again from an earlier place."""
        self.at = self.index(place)

    def more(self) -> Waiting[None]:
        """Wait for more text.

        Raises
        ------
        Cut
            There is none.
        """
        if self.ended:
            raise Cut
        yield None

    def peek(self) -> Waiting[str]:
        """The next character, not yet read."""
        while self.at >= len(self.text):
            yield from self.more()
        return self.text[self.at]

    def ahead(self) -> Waiting[str]:
        """The next character that is no white space, not yet read; "" at the end of the text."""
        while True:
            start = self._after_space()
            if start < len(self.text) or self.over:
                return self.text[start : start + 1]
            yield from self.more()

    def match(self, pattern: re.Pattern[str]) -> Waiting[re.Match[str] | None]:
        """The match that comes next, not yet read. More text cannot make it longer."""
        while True:
            found = pattern.match(self.text, self.at)
            end = self.at if found is None else found.end()
            if end < len(self.text) or self.over:
                return found
            yield from self.more()

    def word(self, pattern: re.Pattern[str]) -> Waiting[str]:
        """Read what matches, if anything does."""
        found = yield from self.match(pattern)
        if found is None:
            return ""
        self.at = found.end()
        return found[0]

    def space(self) -> Waiting[str]:
        """Read white space."""
        while (stop := self._after_space()) == len(self.text) and not self.over:
            yield from self.more()
        found = self.text[self.at : stop]
        self.at = stop
        return found

    def _after_space(self) -> int:
        """The index behind the white space that comes next. Where it has been seen is kept."""
        begin, end = map(self.index, self._blank)
        known = begin <= self.at <= end
        found = _SPACE.match(self.text, end if known else self.at)
        assert found is not None  # of no length, if there is none
        self._blank = (self.place, self._dropped + found.end())
        return found.end()

    def accepts(self, marker: Marker) -> Waiting[int]:
        """The place where `marker` ends if it comes next, white space aside; -1 if it does not."""
        if not marker:
            return -1
        while True:
            end = marker.match(self.text, self._after_space())
            if end != PARTIAL or self.over:
                return self._dropped + end if end >= 0 else -1
            yield from self.more()

    def accepts_any(self, markers: Iterable[Marker]) -> Waiting[bool]:
        """Whether one of the markers comes next, white space aside."""
        for marker in markers:
            if (yield from self.accepts(marker)) >= 0:
                return True
        return False

    def take(self, marker: Marker) -> Waiting[bool]:
        """Read `marker` if it comes next, and the white space before it; else nothing."""
        place = yield from self.accepts(marker)
        if place >= 0:
            self.back(place)
        return place >= 0

    def until(self, end: Marker, border: str, follows: Follows) -> Json[None]:
        """Read text up to `end`, which is read too. Yields the text as it is.

        Parameters
        ----------
        border
            What belongs to the marker if it stands before it.
        follows
            Whether what comes behind shows that it was the end, and not part of the text.

        Raises
        ------
        Cut
            It never comes. All text has been yielded but for what may be its beginning.
        """
        markers = Markers([end])
        passed = self.place
        while True:
            start = max(self.at, self.index(passed))
            found, marker = markers.find(self.text, start, ended=self.over)
            stop = found if marker is None else marker.match(self.text, found)
            whole = marker and follows(self.text, stop, self.over)
            if whole is False:
                passed = self._dropped + found + 1
                continue
            before = self.text[self.at : found]
            if whole:
                self.at = stop
                yield before.removesuffix(border)
                return
            if not self.over:
                before = before[: len(before) - len(border)]
            self.at += len(before)
            if before:
                yield before
            yield from self.more()


NO = -1
PARTIAL = -2
_CHUNKS = re.compile(r"[<\[][^\s<>\[\]]*[>\]]?|[^\s<\[>\]]+[>\]]?|[>\]]")


class Marker:
    r"""A literal of a format. White space at its borders, and between its parts, is free.

    The parts are what stands between white space, and everything that is in brackets:
    `<tool_call>` and `<function=` of `<tool_call>\n<function=`.
    """

    def __init__(self, literal: str) -> None:
        self.literal = literal
        self._parts = _CHUNKS.findall(literal)
        self.first = self._parts[0][0] if self._parts else ""
        """Its first character; "" if there is nothing to look for."""

    def __bool__(self) -> bool:
        return bool(self._parts)

    @property
    def parts(self) -> tuple[Marker, ...]:
        """Its parts, as markers."""
        return tuple(Marker(part) for part in self._parts)

    @property
    def is_bracket(self) -> bool:
        """Whether it is nothing but what values of JSON or Python begin with, or are parted by."""
        return all(character in "{[(\"'," for part in self._parts for character in part)

    def match(self, text: str, at: int) -> int:
        """Where it ends if it stands at `at`; `NO`; or `PARTIAL` if the text ends in its middle."""
        for number, part in enumerate(self._parts):
            if number:
                space = _SPACE.match(text, at)
                at = space.end() if space else at
            if not text.startswith(part, at):
                return PARTIAL if part.startswith(text[at:]) else NO
            at += len(part)
        return at


class Markers:
    """Several markers, of which the earliest is looked for, and of those at one place the longest.

    Those in `leading` count only where there is nothing before them, white space aside.
    """

    def __init__(self, markers: Iterable[Marker], leading: Iterable[Marker] = ()) -> None:
        self._markers = [marker for marker in markers if marker]
        self._leading = [marker for marker in leading if marker]
        firsts = {marker.first for marker in (*self._markers, *self._leading)}
        # What never matches is looked for where there is no marker.
        self._first = re.compile("|".join(map(re.escape, sorted(firsts))) or r"(?!)")

    def __bool__(self) -> bool:
        return bool(self._markers or self._leading)

    def find(
        self, text: str, at: int, *, start: int | None = None, said: bool = True, ended: bool
    ) -> tuple[int, Marker | None]:
        """The index of the first marker, and the marker: None if it may only become one.

        At the end of the text nothing becomes one any more. Without any, the index is the end of
        the text. They are looked for from `start`, by default `at`; `said`: whether there are
        words before `at`.
        """
        for found in self._first.finditer(text, at if start is None else start):
            start = found.start()
            markers = self._markers
            if self._leading and not said and not text[at:start].strip():
                markers = [*markers, *self._leading]
            ends = [marker.match(text, start) for marker in markers]
            if PARTIAL in ends and not ended:
                return start, None
            longest = max(ends, default=NO)
            if longest > NO:
                return start, markers[ends.index(longest)]
        return len(text), None
