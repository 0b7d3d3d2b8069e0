"""From token bytes to text: UTF-8 put together across tokens, stop strings held back."""

from __future__ import annotations

import codecs
from bisect import bisect_right

from lmnb.engine.options import TokenLogprob


class TextStream:
    """The text of one answer.

    Bytes go in token by token, text comes out as soon as it can neither be half a character nor
    the beginning of a stop string. A stop string itself never comes out.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self._ready = ""
        self._ends: list[int] = []  # of tokens that were not taken yet, in the text
        self._logprobs: list[TokenLogprob] = []  # of the same tokens, or none
        self._length = 0  # of all text seen
        self.stop: str | None = None
        """The stop string that was met."""

    def push(self, piece: bytes, logprob: TokenLogprob | None = None) -> bool:
        """Take the bytes of one token; True once a stop string is complete.

        All tokens have a `logprob`, or none.
        """
        new = self._decoder.decode(piece)
        self._length += len(new)
        self._ends.append(self._length)
        if logprob is not None:
            self._logprobs.append(logprob)
        if not self._stops:
            self._ready += new
            return False
        self._held += new
        position = self._find_stop()
        if position is not None:
            cut = self._length - len(self._held) + position
            self._ready += self._held[:position]
            self._held = ""
            self._length = cut
            count = bisect_right(self._ends, cut)
            del self._ends[count:], self._logprobs[count:]
            return True
        keep = self._possible_stop()
        self._ready += self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return False

    def finish(self) -> None:
        """No more tokens: what was held back is text after all."""
        tail = self._decoder.decode(b"", final=True)
        self._length += len(tail)
        self._ready += self._held + tail
        self._held = ""

    def take(self) -> tuple[str, tuple[TokenLogprob, ...], tuple[int, ...]]:
        """Text that became final since the last call, the logprobs of its tokens, and their ends.

        A token's end is counted in characters of the whole text.
        """
        text, self._ready = self._ready, ""
        count = bisect_right(self._ends, self._length - len(self._held))
        logprobs, ends = tuple(self._logprobs[:count]), tuple(self._ends[:count])
        del self._ends[:count], self._logprobs[:count]
        return text, logprobs, ends

    def _find_stop(self) -> int | None:
        """Where the earliest stop string begins in the held text."""
        best: int | None = None
        for stop in self._stops:
            position = self._held.find(stop)
            if position >= 0 and (best is None or position < best):
                best, self.stop = position, stop
        return best

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = min(len(self._held), max(len(stop) for stop in self._stops) - 1)
        for length in range(longest, 0, -1):
            tail = self._held[len(self._held) - length :]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
