"""A grammar that takes over an answer where a text begins, such as the marker of a tool call.

Until then the answer is free: nothing is masked, nothing forced, and a token costs a search in the
last few bytes.
"""

from __future__ import annotations

from lmnb.engine.constraint import Row
from lmnb.engine.grammar import CONTROL, Grammar, Vocabulary
from lmnb.engine.model import Model
from lmnb.engine.options import ConstraintSpec, Trigger

_SPACE = b" \t\r\n"


class Watcher:
    """Looks for the triggers in the bytes of an answer, thinking left out.

    Bytes are as in `Vocabulary.marked`, so that a control token and its spelled-out text differ.

    Parameters
    ----------
    triggers
        Each is followed by the grammar.
    leading
        A trigger counts at the beginning of the answer only, white space aside.
    opening, after
        Around the thinking; b"" is none. Without an `opening` the thinking has begun. Once there are
        words, `opening` is one of them.
    """

    def __init__(
        self, triggers: tuple[bytes, ...], *, leading: bool, opening: bytes, after: bytes
    ) -> None:
        self._triggers = triggers
        self._leading = leading
        self._opening = opening if after else b""
        self._after = after
        self._thinking = bool(after) and not opening
        self._over = False  # nothing can trigger any more
        self._said = False  # there are words
        self._seen = b""  # the end of the answer, as far as something may have begun in it
        longest = max(map(len, (*triggers, self._opening)))
        self._keep = longest - 1

    def copy(self) -> Watcher:
        """Another at the same place."""
        twin = object.__new__(Watcher)
        twin.__dict__.update(self.__dict__)
        return twin

    def find(self, piece: bytes) -> tuple[bytes, bytes] | None:
        """Look at one more token: the trigger that is complete with it, and what it says beyond."""
        if self._over:
            return None
        self._seen += piece
        while True:
            if self._thinking:
                position = self._seen.find(self._after)
                if position < 0:
                    self._seen = _end(self._seen, len(self._after) - 1)
                    return None
                self._seen = self._seen[position + len(self._after) :]
                self._thinking = self._said = False
            found = self._first()
            if found is None:
                return None
            position, text = found
            self._seen = self._seen[position + len(text) :]
            if text != self._opening:
                return text, self._seen
            self._thinking = True

    def give_up(self) -> None:
        """What was found was not the beginning of a call after all."""
        self._over = self._leading

    def _first(self) -> tuple[int, bytes] | None:
        """Where a trigger or the thinking begins, and which; the longest of those at one place."""
        if self._leading:
            return self._at_start()
        seen = self._seen
        begins = len(seen) - len(seen.lstrip(_SPACE))
        thinks = bool(self._opening) and not self._said and seen.startswith(self._opening, begins)
        found = [
            (position, -len(text), text)
            for text in self._triggers
            if (position := seen.find(text)) >= 0
        ]
        if thinks:
            found.append((begins, -len(self._opening), self._opening))
        if not found:
            kept = _end(seen, self._keep)
            # Half of an opening is no word yet.
            whole = self._opening.startswith(seen[begins:]) and not self._said
            self._said = not whole
            self._seen = seen[begins:] if whole else kept
            return None
        position, _, text = min(found)
        return position, text

    def _at_start(self) -> tuple[int, bytes] | None:
        seen = self._seen.lstrip(_SPACE)
        texts = [text for text in (*self._triggers, self._opening) if text]
        for text in texts:
            if seen.startswith(text):
                return len(self._seen) - len(seen), text
        if not any(text.startswith(seen) for text in texts):
            self._over, self._seen = True, b""
        return None


class Triggered:
    """A `Constraint` that is none until the answer comes to one of the triggers.

    A token that goes beyond a trigger in a way the grammar does not allow leaves the answer free:
    it has been written, and only the next one could have been masked.
    """

    def __init__(
        self, grammar: Grammar, model: Model, spec: ConstraintSpec, trigger: Trigger
    ) -> None:
        self._vocabulary = vocabulary = grammar.vocabulary
        self._tokens = {
            marked(model, text): tokens(model, vocabulary, text) for text in trigger.texts
        }
        self._watcher = Watcher(
            tuple(self._tokens),
            leading=trigger.leading,
            opening=marked(model, spec.opening or ""),
            after=marked(model, spec.after or ""),
        )
        self._waiting = grammar
        self._grammar: Grammar | None = None

    @property
    def begun(self) -> bool:
        """Whether the answer has come to a trigger."""
        return self._grammar is not None

    @property
    def finished(self) -> bool:
        """Whether only the end of the text may follow."""
        return self._grammar is not None and self._grammar.finished

    def mask(self, row: Row) -> None:
        """As `Grammar.mask`; nothing while the answer is free."""
        if self._grammar is not None:
            self._grammar.mask(row)

    def accept(self, token: int) -> None:
        """Advance by a token; see `Grammar.accept`."""
        if self._grammar is not None:
            self._grammar.accept(token)
            return
        self._waiting.written += 1
        found = self._watcher.find(self._vocabulary.marked[token])
        if found is None:
            return
        trigger, beyond = found
        if self._waiting.begin([*self._tokens[trigger], *self._vocabulary.tokens(beyond)]):
            self._grammar = self._waiting
        else:
            self._watcher.give_up()

    def forced(self) -> list[int]:
        """As `Grammar.forced`; none while the answer is free."""
        return [] if self._grammar is None else self._grammar.forced()

    def allowed(self, tokens: list[int]) -> int:
        """How many of these, in order, are possible; those after a trigger remain to be seen."""
        if self._grammar is not None:
            return self._grammar.allowed(tokens)
        watcher = self._watcher.copy()
        for count, token in enumerate(tokens):
            if watcher.find(self._vocabulary.marked[token]) is not None:
                return count + 1
        return len(tokens)


def marked(model: Model, text: str) -> bytes:
    """A text as the tokens of it are in `Vocabulary.marked`."""
    return b"".join(
        (CONTROL if control else b"") + part.encode() for part, control in model.parts(text)
    )


def tokens(model: Model, vocabulary: Vocabulary, text: str) -> list[int]:
    """Tokens of a text without anything a tokenizer would put in front of it."""
    found: list[int] = []
    for part, control in model.parts(text):
        found += [model.control_tokens[part]] if control else vocabulary.tokens(part.encode())
    return found


def _end(seen: bytes, length: int) -> bytes:
    return seen[max(0, len(seen) - length) :]
