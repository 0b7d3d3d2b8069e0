"""A bound on what a model thinks: after so many tokens the end of its thinking is written for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from lmnb.engine.constraint import Constraint, Row, only
from lmnb.engine.grammar import CONTROL
from lmnb.engine.model import Model
from lmnb.engine.options import ThinkingBudget
from lmnb.engine.triggered import marked

_SPACE = b" \t\r\n"
_LONGEST_CHARACTER = 4
_UNLIKELY = 40.0
"""Nothing is sampled whose logit is so far below the highest."""
_MOST_SPACE = 4
"""Tokens of white space that a model may write before the end."""


class Thoughts:
    """Counts the tokens of an answer's thinking.

    It begins where an answer does, or right behind other thinking, white space aside. Its marks
    elsewhere, as in words or in the arguments of a call, are those of somebody who writes about them.

    Bytes are as in `Vocabulary.marked`, so that a control token and its spelled-out text differ.

    Parameters
    ----------
    opening
        What begins the thinking. b"" is nothing: once it has ended, none can follow.
    end
        What ends it.
    begun
        The prompt has begun it.
    between
        What stands before each further message of an answer that has several, all of which have
        this `end`. Any of them may be thinking. b"": an answer is one message.
    keep
        Bytes of the thinking that are kept, at least: its last ones.
    """

    def __init__(
        self, opening: bytes, end: bytes, *, begun: bool, between: bytes = b"", keep: int = 0
    ) -> None:
        self.count = 0
        """Tokens so far, those of the marks left out."""
        self.now = begun
        self._opening = opening
        self._end = end
        self._between = between
        longest = max(len(end), len(between) + len(opening))
        self._keep = max(keep, longest, _LONGEST_CHARACTER)
        self._said = not opening  # the message has words: it is none of thinking
        self.seen = b""
        """The end of the answer, as far as a mark may have begun in it."""

    @property
    def over(self) -> bool:
        """Whether none can follow."""
        return not self.now and self._said and not self._between

    def copy(self) -> Thoughts:
        """Another at the same place."""
        twin = object.__new__(Thoughts)
        twin.__dict__.update(self.__dict__)
        return twin

    def feed(self, piece: bytes) -> None:
        """Look at one more token."""
        if self.over:
            return
        before = self.now
        self.seen += piece
        while self._ends() if self.now else self._begins():
            pass
        self.count += before and self.now
        self.seen = self.seen[-self._keep :]

    def is_spent(self, budget: int) -> bool:
        """Whether it has had so many tokens. It may finish a character of several."""
        late = self.count >= budget + _LONGEST_CHARACTER
        return self.now and self.count >= budget and (late or _is_whole(self.seen))

    def _ends(self) -> bool:
        _, found, rest = self.seen.partition(self._end)
        if found:
            self.now, self.seen = False, rest
            self._said = not self._opening
        return bool(found)

    @property
    def header(self) -> bytes | None:
        """The beginning of a message, as long as it may become one of thinking; else None."""
        return None if self.now or self._said else self._header()

    def _header(self) -> bytes:
        text = self.seen.lstrip(_SPACE)
        return text.removeprefix(self._between) if self._between else text

    def _begins(self) -> bool:
        while not self._said or self._next_message():
            text = self._header()
            if text.startswith(self._opening):
                self.now, self.seen = True, text[len(self._opening) :]
                return True
            marks = (self._opening, self._between + self._opening)
            self._said = not any(mark.startswith(text) for mark in marks)
            if not self._said:
                return False
        return False

    def _next_message(self) -> bool:
        """Whether another one begins. What stands before it is forgotten."""
        _, found, rest = self.seen.partition(self._end) if self._between else (b"", b"", b"")
        if found:
            self._said, self.seen = False, rest
        return bool(found)


class ThinkingLimit:
    """A `Constraint` that ends the thinking, around the one that binds the answer, if there is one.

    A model that writes the end itself just then does so in its own tokens. Else it is written for
    it: all but its first token is forced, so that no forward passes are spent on it. If the model has
    begun to write it, it is the rest of it.

    That is done once: a model that thinks again at once would do so for ever. In an answer of several
    messages no further one can begin to be thinking, as soon as its header tells it from others.

    Once the answer has begun that is bound, there is no thinking: whoever binds it knows best, as with
    an end that is spelled out where the model has a control token for it.
    """

    def __init__(self, model: Model, budget: ThinkingBudget, inner: Constraint | None) -> None:
        self._model = model
        self._budget = budget
        self._inner = inner
        self._rests = list(_rests(model, budget.end))
        self._thoughts = Thoughts(
            marked(model, budget.opening),
            marked(model, budget.end.strip()),
            begun=budget.begun,
            between=marked(model, budget.between),
            keep=len(marked(model, budget.end)),
        )
        shared = marked(model, budget.shared)
        self._shared = shared
        self._telling = marked(model, budget.opening).removeprefix(shared)
        self._ahead: deque[int] = deque()
        self._done = False

    @property
    def begun(self) -> bool:
        """Whether an answer has begun that is bound."""
        return self._inner is not None and self._inner.begun

    @property
    def finished(self) -> bool:
        """Whether only the end of the text may follow."""
        return self._inner is not None and self._inner.finished

    def mask(self, row: Row) -> None:
        """As `Constraint.mask`; nothing while the model may think."""
        if self._inner is not None and not self._ahead:
            self._inner.mask(row)
        if not self._ahead and self._is_spent(self._thoughts):
            likeliest = int(row.argmax())
            if self._may_follow(likeliest):
                only(likeliest, row)
                return
            self._ahead.extend(self._model.continuation(self._missing()))
            self._done = not self._budget.between
        if self._ahead:
            only(self._ahead[0], row)
        elif self._is_shut(self._thoughts):
            for token in np.flatnonzero(row > row.max() - _UNLIKELY).tolist():
                if self._opens(token):
                    row[token] = -np.inf

    def accept(self, token: int) -> None:
        """Advance by a token; see `Constraint.accept`."""
        if self._ahead and self._ahead[0] == token:
            self._ahead.popleft()
        else:
            self._ahead.clear()
        if self._inner is not None:
            self._inner.accept(token)
        self._thoughts.feed(self._piece(token))

    def forced(self) -> list[int]:
        """The rest of an end that has been begun for the model; else what binds the answer forces."""
        if self._ahead:
            return list(self._ahead)
        return [] if self._inner is None else self._within(self._inner.forced())

    def allowed(self, tokens: list[int]) -> int:
        """How many of these, in order, are possible before the end has to come."""
        if self._ahead:
            return 0
        tokens = self._within(tokens)
        return len(tokens) if self._inner is None else self._inner.allowed(tokens)

    def _within(self, tokens: list[int]) -> list[int]:
        """Of these the first, up to where the end has to come, or a message must not go on so."""
        if self.begun or self._done or self._thoughts.over:
            return tokens
        thoughts = self._thoughts.copy()
        for count, token in enumerate(tokens):
            if self._is_spent(thoughts) or (self._is_shut(thoughts) and self._opens(token)):
                return tokens[:count]
            thoughts.feed(self._piece(token))
        return tokens

    def _is_spent(self, thoughts: Thoughts) -> bool:
        return not (self._done or self.begun) and thoughts.is_spent(self._budget.tokens)

    def _is_shut(self, thoughts: Thoughts) -> bool:
        """Whether the next token decides if a message is one of thinking, and it must not be."""
        if not self._shared or self.begun or thoughts.count < self._budget.tokens:
            return False
        return thoughts.header == self._shared

    def _opens(self, token: int) -> bool:
        piece = self._piece(token)
        return bool(piece) and (self._telling.startswith(piece) or piece.startswith(self._telling))

    def _piece(self, token: int) -> bytes:
        text = self._model.text(token).encode()
        return self._model.pieces[token] or (CONTROL + text if text else b"")

    def _missing(self) -> str:
        """What is missing of the end."""
        seen = self._thoughts.seen
        return next((rest for begun, rest in self._rests if seen.endswith(begun)), self._budget.end)

    def _may_follow(self, token: int) -> bool:
        """Whether the thinking ends with this token, too: it belongs to the end, or has it in it.

        White space before the end is left to the model, as far as it is little.
        """
        said, missing = self._piece(token), self._missing()
        if missing.endswith(self._budget.end.lstrip()):
            missing, space = missing.lstrip(), said
            said = said.lstrip(_SPACE)
            if space and not said:
                return self._thoughts.count < self._budget.tokens + _MOST_SPACE
        end = marked(self._model, missing)
        return bool(said) and (end.startswith(said) or said.startswith(end))


def _rests(model: Model, end: str) -> Iterator[tuple[bytes, str]]:
    """Beginnings of the end, as in `marked`, and what is missing then; the longest first.

    White space may have been left out. A control token is not begun by what spells it out.
    """
    word = end.lstrip()
    space = end.removesuffix(word)
    found, rest = [(b"", word)], word
    for part, control in model.parts(word):
        for text in [part] if control else part:
            rest = rest[len(text) :]
            found.append((found[-1][0] + marked(model, text), rest))
    yield from reversed(found[1:-1])
    yield from ((space[:n].encode(), end[n:]) for n in range(len(space), 0, -1))


def _is_whole(data: bytes) -> bool:
    """Whether the text does not end within a character of UTF-8."""
    for length, byte in enumerate(reversed(data[-_LONGEST_CHARACTER:]), 1):
        if byte < 0x80:
            return True
        if byte >= 0xC0:
            return length >= (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return True
