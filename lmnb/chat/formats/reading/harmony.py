"""gpt-oss: an answer of several messages, each with a header that says whom it is for.

`<|channel|>analysis<|message|>…<|end|>`, then `<|start|>assistant` before each further one. A
message for a recipient (`to=functions.name`, before the channel or after it) is a call, one in the
analysis channel is thinking, all others are words for the user.
"""

from __future__ import annotations

import re

from lmnb.chat.formats.reading.call import read_arguments
from lmnb.chat.formats.reading.json_arguments import JsonReader
from lmnb.chat.formats.reading.source import (
    Marker,
    Markers,
    Reading,
    Said,
    Source,
    Thought,
    Waiting,
)
from lmnb.chat.formats.reading.tools import Tools
from lmnb.chat.formats.reading.words import Words

MARKERS = (
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
)
_MESSAGE = Marker("<|message|>")
_ENDS = tuple(map(Marker, ("<|end|>", "<|call|>", "<|return|>")))
_NEXT = tuple(map(Marker, ("<|start|>", "<|channel|>")))
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_BEGINS = ("<|", "to=", "assistant")
"""What a header begins with, as far as it is not in the prompt."""
_LONGEST = 400
_GAP = "\n\n"
"""Between two messages of the same kind."""


class Harmony:
    """Reads a whole answer. Without tools, messages for a recipient are words."""

    def __init__(self, source: Source, tools: Tools) -> None:
        self._source = source
        self._tools = tools
        self._arguments = JsonReader(_ENDS + _NEXT)
        self._said = {False: False, True: False}
        self.thoughts: list[Thought] = []
        """Where there has been thinking, and where there is."""

    def read(self) -> Reading[None]:
        """Read messages to the end of the text."""
        while True:
            yield from self._message()
            for marker in _ENDS:
                yield from self._source.take(marker)
            if not (yield from self._source.ahead()):
                return

    # --- inside ------------------------------------------------------------------

    def _message(self) -> Reading[None]:
        source = self._source
        begin = source.place
        header = yield from self._header()
        if header is None:  # none, or none that is understood
            yield from self._words(Words(source, past=source.place + 1))
            return
        recipient = _RECIPIENT.search(header)
        channel = _CHANNEL.search(header)
        if recipient is not None and self._tools:
            yield from read_arguments(source, self._arguments, self._tools, recipient[1])
            yield from self._words(Words(source))
            return
        thinking = channel is not None and channel[1] == "analysis"
        if thinking:
            self.thoughts.append(Thought(begin))
        yield from self._words(Words(source, thinking=thinking))
        if thinking:
            self.thoughts[-1].end = source.place

    def _header(self) -> Waiting[str | None]:
        """Read a header; None, and nothing read, if there is none.

        Of a header that is not whole nothing is left: it was no words.
        """
        source = self._source
        while True:
            rest = source.text[source.at :].lstrip()
            if not any(rest.startswith(begin) or begin.startswith(rest) for begin in _BEGINS):
                return None
            index, marker = Markers([_MESSAGE]).find(source.text, source.at, ended=source.ended)
            if marker is not None:
                header = source.text[source.at : index]
                source.at = marker.match(source.text, index)
                return header
            if len(rest) > _LONGEST:
                return None
            if source.ended:
                if not (rest.startswith("<|") or (rest == "<" and not source.over)):
                    return None
                source.at = len(source.text)
                return ""
            yield None

    def _words(self, words: Words) -> Reading[None]:
        reading = words.read(Markers(_ENDS + _NEXT))
        for piece in reading:
            if isinstance(piece, Said) and not words.said:
                if self._said[piece.thinking]:
                    yield Said(_GAP, -1, piece.thinking)
                self._said[piece.thinking] = True
            yield piece
