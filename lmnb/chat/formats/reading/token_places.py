"""Which tokens a piece of an answer's text is made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from lmnb.engine.options import TokenLogprob


class TokenPlaces:
    """Holds the logprobs of tokens until their text has been given out, or left out."""

    def __init__(self) -> None:
        self._end = 0
        self._tokens: deque[tuple[int, int, TokenLogprob]] = deque()

    def add(self, ends: Sequence[int], logprobs: Sequence[TokenLogprob]) -> None:
        """More tokens: where each ends in the whole text. There may be no logprobs."""
        for end, logprob in zip(ends, logprobs, strict=False):
            self._tokens.append((self._end, end, logprob))
            self._end = end

    def take(self, start: int, end: int) -> tuple[TokenLogprob, ...]:
        """The tokens that have part in the text from `start` to `end`, and were not taken yet.

        Tokens before that are dropped. One without text, such as the first half of a character,
        goes with the text that follows it.
        """
        taken = []
        while self._tokens and (self._tokens[0][0] < end or self._tokens[0][1] <= start):
            first, last, logprob = self._tokens.popleft()
            if last > start or first == last == start:
                taken.append(logprob)
        return tuple(taken)

    def rest(self) -> tuple[TokenLogprob, ...]:
        """The tokens without text at the end of all."""
        return tuple(logprob for first, last, logprob in self._tokens if first == last == self._end)
