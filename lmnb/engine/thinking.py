"""A bound on what a model thinks: after so many tokens the end of its thinking is written for it."""

from __future__ import annotations

from collections import deque

from lmnb.engine.constraint import Constraint, Row, only
from lmnb.engine.grammar import CONTROL
from lmnb.engine.model import Model
from lmnb.engine.protocol import ThinkingBudget
from lmnb.engine.triggered import marked

_SPACE = b" \t\r\n"
_LONGEST_CHARACTER = 4


class Thoughts:
    """Counts the tokens of an answer's thinking.

    Bytes are as in `Vocabulary.marked`, so that a control token and its spelled-out text differ.

    Parameters
    ----------
    opening
        What begins the thinking, where an answer begins or after other thinking. b"" is nothing.
    end
        What ends it.
    begun
        The prompt has begun it.
    anywhere
        `opening` counts wherever it stands, as one that is a control token does.
    keep
        Bytes of the thinking that are kept, at least: its last ones.
    """

    def __init__(
        self, opening: bytes, end: bytes, *, begun: bool, anywhere: bool = False, keep: int = 0
    ) -> None:
        self.count = 0
        """Tokens so far, those of the marks left out."""
        self.now = begun
        self._opening = opening
        self._end = end
        self._keep = max(keep, len(end), len(opening), _LONGEST_CHARACTER)
        self._anywhere = anywhere or opening.startswith(CONTROL)
        self._said = not opening  # there are words: it is too late to think
        self.seen = b""
        """The end of the answer, as far as a mark may have begun in it."""

    @property
    def over(self) -> bool:
        """Whether none can follow."""
        return not self.now and self._said and not self._anywhere

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

    def _begins(self) -> bool:
        if self._anywhere:
            at = self.seen.find(self._opening)
        else:
            text = self.seen.lstrip(_SPACE)
            at = -1 if self._said or not text.startswith(self._opening) else 0
            self.seen = text
            self._said = self._said or not (at == 0 or self._opening.startswith(text))
        if at < 0:
            return False
        self.now, self.seen = True, self.seen[at + len(self._opening) :]
        return True


class ThinkingLimit:
    """A `Constraint` that ends the thinking, around the one that binds the answer, if there is one.

    The end is forced, so that no forward pass is spent on asking for it. If the model has begun to
    write it, it is the rest of it.
    """

    def __init__(self, model: Model, budget: ThinkingBudget, inner: Constraint | None) -> None:
        self._model = model
        self._budget = budget
        self._inner = inner
        self._thoughts = Thoughts(
            marked(model, budget.opening),
            marked(model, budget.end.strip()),
            begun=budget.begun,
            anywhere=budget.anywhere,
            keep=len(marked(model, budget.end)),
        )
        self._ahead: deque[int] = deque()

    @property
    def finished(self) -> bool:
        """Whether only the end of the text may follow."""
        return self._inner is not None and self._inner.finished

    def mask(self, row: Row) -> None:
        """As `Constraint.mask`; nothing while the model may think."""
        if self._ahead:
            only(self._ahead[0], row)
        elif self._inner is not None:
            self._inner.mask(row)

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
        """The end of the thinking where it has had its tokens; else what binds the answer forces."""
        if not self._ahead and self._thoughts.is_spent(self._budget.tokens):
            self._ahead.extend(self._end())
        if self._ahead:
            return list(self._ahead)
        return [] if self._inner is None else self._inner.forced()

    def allowed(self, tokens: list[int]) -> int:
        """How many of these, in order, are possible before the end is forced."""
        if self._ahead:
            return 0
        thoughts = self._thoughts
        if not thoughts.over:
            thoughts = thoughts.copy()
            for count, token in enumerate(tokens, 1):
                thoughts.feed(self._piece(token))
                if thoughts.is_spent(self._budget.tokens):
                    tokens = tokens[:count]
                    break
        return len(tokens) if self._inner is None else self._inner.allowed(tokens)

    def _piece(self, token: int) -> bytes:
        return self._model.pieces[token] or CONTROL + self._model.text(token).encode()

    def _end(self) -> list[int]:
        """The tokens of what is missing of the end."""
        end, seen = self._budget.end, self._thoughts.seen
        begun = (
            n for n in range(len(end) - 1, 0, -1) if seen.endswith(marked(self._model, end[:n]))
        )
        return self._model.continuation(end[next(begun, 0) :])


def _is_whole(data: bytes) -> bool:
    """Whether the text does not end within a character of UTF-8."""
    for length, byte in enumerate(reversed(data[-_LONGEST_CHARACTER:]), 1):
        if byte < 0x80:
            return True
        if byte >= 0xC0:
            return length >= (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return True
