"""The text of an answer, taken apart into thinking, words and tool calls while it arrives.

What a model writes is forgiven as far as its meaning is clear: white space beside markers,
brackets and end markers that are missing, JSON that is nearly JSON, keys in any order. A call of a
tool that does not exist is a call all the same, since the caller answers it with an error from
which the model learns. What begins like a call and is none is given as text, and nothing is lost.

A call that the text ends in has no `ToolCallEnd`. If not even its name is known, it is left out
where a limit cut it, and is text where the model ended there itself.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from lmnb.chat.conversation import ToolCall
from lmnb.chat.events import (
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from lmnb.chat.formats.format import HARMONY_START, Format, HarmonyCall
from lmnb.chat.formats.reading.answer import Answer
from lmnb.chat.formats.reading.harmony import MARKERS as HARMONY_MARKERS
from lmnb.chat.formats.reading.harmony import Harmony
from lmnb.chat.formats.reading.prompt_end import begun_marker, thinking_open
from lmnb.chat.formats.reading.source import (
    Begun,
    Cut,
    Ended,
    More,
    Piece,
    Reading,
    Said,
    Source,
)
from lmnb.chat.formats.reading.token_places import TokenPlaces
from lmnb.chat.formats.reading.tools import Tools
from lmnb.chat.formats.write import write_calls
from lmnb.chat.tool_names import Adapted
from lmnb.engine.options import TokenLogprob

Part: TypeAlias = ThinkingDelta | TextDelta | ToolCallStart | ToolCallDelta | ToolCallEnd

_USABLE_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
"""What all protocols pass on as it is, so that an id is known again when it comes back."""

_CALLS = [ToolCall("id", "name", '{"key": "text", "other": 1}')] * 2
"""With all markers that calls have."""


class Splitter:
    """Splits one answer.

    Parameters
    ----------
    form
        How the model writes. Without calls, none are looked for.
    tools
        The tools it was told of; without any, calls are words as well.
    prompt
        The control text of the prompt, or its end: thinking that has begun in it goes on.
    continued
        The prompt ends with the beginning of the answer.
    taken
        Ids of calls in the conversation, which are not given again.
    """

    def __init__(
        self,
        form: Format,
        tools: Adapted,
        prompt: str = "",
        *,
        continued: bool = False,
        taken: Iterable[str] = (),
    ) -> None:
        self._source = Source()
        self._tools = tools
        self._places = TokenPlaces()
        self._taken = set(taken)
        self._ends: list[int] = []
        self._index = -1
        self._in_call = False
        self.markers = _markers(form, calls=bool(tools.tools))
        """Texts whose control tokens have to be seen in the answer."""
        self.calls = 0
        """Complete calls so far."""
        known = Tools(tools.tools)
        self._reader: Harmony | Answer
        if form.calls is not None and isinstance(form.calls.call, HarmonyCall):
            self._reader = Harmony(self._source, known)
            begun = prompt[prompt.rfind(HARMONY_START) :] if HARMONY_START in prompt else ""
        else:
            open_ = thinking_open(form.thinking, prompt, continued=continued)
            self._reader = Answer(self._source, form, known, open_=open_, bare=continued)
            begun = "" if open_ else begun_marker(self._reader.markers, prompt)
        self._running = self._run()
        self._offset = len(begun)
        list(self._parts(begun))

    @property
    def thinking_tokens(self) -> int:
        """Tokens of thinking, with its markers, so far."""
        return sum(
            (len(self._ends) if thought.end is None else bisect_right(self._ends, thought.end))
            - bisect_right(self._ends, thought.begin)
            for thought in self._reader.thoughts
        )

    @property
    def is_cut(self) -> bool:
        """Whether the last call has begun, but not ended."""
        return self._in_call

    def feed(
        self, text: str, ends: Sequence[int] = (), logprobs: Sequence[TokenLogprob] = ()
    ) -> list[Part]:
        """What more text says.

        `ends` are the places in the text of the whole answer where its tokens end, those that came
        with this text, and `logprobs` is theirs or nothing.
        """
        places = [end + self._offset for end in ends]
        self._ends += places
        self._places.add(places, logprobs)
        return list(self._parts(text))

    def finish(self, *, cut: bool) -> list[Part]:
        """What the end of the text says. `cut`: the model would have gone on."""
        self._source.end(was_cut=cut)
        parts = list(self._parts(""))
        if parts and not isinstance(parts[-1], TextDelta):
            return parts
        rest = self._places.rest()
        return [*parts, TextDelta("", rest)] if rest else parts

    # --- inside ------------------------------------------------------------------

    def _run(self) -> Reading[None]:
        with contextlib.suppress(Cut):  # in a call, which then has no end
            yield from self._reader.read()

    def _parts(self, text: str) -> Iterator[Part]:
        """Parts of the same kind that come together are one."""
        self._source.feed(text)
        last: Part | None = None
        for piece in self._running:
            if piece is None:
                break
            part = self._part(piece)
            joined = None if last is None else _joined(last, part)
            if last is not None and joined is None:
                yield last
            last = joined or part
        if last is not None:
            yield last

    def _part(self, piece: Piece) -> Part:
        match piece:
            case Said():
                return self._said(piece)
            case Begun(name=name, id=written):
                self._index += 1
                self._in_call = True
                return ToolCallStart(self._index, self._id(written), self._tools.original(name))
            case More(json=json):
                return ToolCallDelta(self._index, json)
            case Ended():
                self._in_call = False
                self.calls += 1
                return ToolCallEnd(self._index)

    def _said(self, piece: Said) -> Part:
        text = piece.text[max(self._offset - piece.at, 0) :] if piece.at >= 0 else piece.text
        if piece.thinking:
            return ThinkingDelta(text)
        if piece.at < 0:
            return TextDelta(text)
        return TextDelta(text, self._places.take(piece.at, piece.at + len(piece.text)))

    def _id(self, written: str) -> str:
        """The id the model wrote, if it tells calls apart; else a new one."""
        made = written
        if not _USABLE_ID.fullmatch(made) or made in self._taken:
            made = f"call_{secrets.token_hex(12)}"
        self._taken.add(made)
        return made


def _joined(first: Part, second: Part) -> Part | None:
    match first, second:
        case ThinkingDelta(), ThinkingDelta():
            return ThinkingDelta(first.text + second.text)
        case TextDelta(), TextDelta():
            return TextDelta(first.text + second.text, first.logprobs + second.logprobs)
        case ToolCallDelta(), ToolCallDelta():
            return ToolCallDelta(first.index, first.json + second.json)
    return None


def _markers(form: Format, *, calls: bool) -> tuple[str, ...]:
    spans = [span for span in (form.thinking, form.answer) if span is not None]
    found = [text for span in spans for text in (span.begin, span.end)]
    if form.calls is not None and isinstance(form.calls.call, HarmonyCall):
        found += HARMONY_MARKERS
    elif form.calls is not None and calls:
        found.append(write_calls(form.calls, _CALLS))
    return tuple(text for text in found if text)
