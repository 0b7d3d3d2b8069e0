"""Speculation: guesses about the next tokens, several of which one forward pass can verify.

A guess that is right spares a forward pass, a wrong one costs a row in a pass. Whether that pays
depends on the machine: on a CPU a row costs about half as much as a pass of one, on a GPU next to
nothing. So the costs are measured as the passes go by, the chances of the guesses are counted, and
a draft is made as long as its next token promises more tokens a second than the pass has without.
"""

from __future__ import annotations

from typing import Protocol

from lmnb.engine.context import MAX_DRAFTS, Context
from lmnb.engine.protocol import LoadConfig
from lmnb.engine.sequence import Sequence
from lmnb.errors import InvalidRequest

_NGRAM = 3
"""Tokens that must have stood somewhere before, for what followed them to be a guess."""
_WINDOW = 8192
"""Tokens looked back at most: the search takes 1 µs per 1,000."""
_FORGET = 0.97
"""How much a measured pass still counts after the next one."""


class Cost:
    """How long a decode pass takes by its rows: `base * (1 + share * rows)`, fitted as they pass."""

    def __init__(self) -> None:
        self.share = 0.5
        self._weight = self._rows = self._seconds = self._squares = self._products = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a pass: least squares, old passes fading."""
        self._weight = _FORGET * self._weight + 1
        self._rows = _FORGET * self._rows + rows
        self._seconds = _FORGET * self._seconds + seconds
        self._squares = _FORGET * self._squares + rows * rows
        self._products = _FORGET * self._products + rows * seconds
        rows_mean, seconds_mean = self._rows / self._weight, self._seconds / self._weight
        variance = self._squares / self._weight - rows_mean**2
        if variance > 0.1:  # else all passes were alike, and the last answer stands
            slope = max(0.0, self._products / self._weight - rows_mean * seconds_mean) / variance
            base = max(seconds_mean - slope * rows_mean, 0.02 * seconds_mean)
            self.share = slope / base

    def seconds(self, rows: float) -> float:
        """What a pass of so many rows takes; before any has been observed, in units of its own."""
        if not self._weight:
            return 1 + self.share * rows
        mean = self._rows / self._weight
        return self._seconds / self._weight * (1 + self.share * rows) / (1 + self.share * mean)


class Odds:
    """How often a lookup that has been right for so many tokens is right once more."""

    def __init__(self) -> None:
        self._right = [2.0, 4.0, 6.0, 7.0, 7.5]
        self._tried = [8.0] * 5

    def note(self, streak: int, *, right: bool) -> None:
        """Count one more case."""
        group = min(streak.bit_length(), 4)
        if self._tried[group] > 100:
            self._tried[group] /= 2
            self._right[group] /= 2
        self._tried[group] += 1
        self._right[group] += right

    def chance(self, streak: int) -> float:
        """The probability that the next token is right."""
        group = min(streak.bit_length(), 4)
        return self._right[group] / self._tried[group]


class Lookup:
    """Prompt lookup for one sequence: a text goes on as it did where its last tokens stood before.

    It guesses every token, whether or not the guess is put to use. So what its guesses are worth is
    known without computing any of them.
    """

    def __init__(self, sequence: Sequence, odds: Odds) -> None:
        self._sequence = sequence
        self._odds = odds
        self._seen = sequence.length
        self._follow = 0  # where the earlier text goes on; 0: nowhere
        self.streak = 0

    def update(self) -> bool:
        """Look at the new tokens; whether there is a guess about the next one."""
        sequence = self._sequence
        tokens = sequence.tokens
        while self._seen < sequence.length:
            if self._follow:
                right = bool(tokens[self._follow] == tokens[self._seen])
                self._odds.note(self.streak, right=right)
                self.streak = self.streak + 1 if right else 0
                self._follow = self._follow + 1 if right else 0
            self._seen += 1
        if not self._follow:
            self._follow = sequence.find_earlier(_NGRAM, _WINDOW)
        return self._follow > 0

    def guess(self, count: int) -> list[int]:
        """The next tokens. What follows the end of the text is its repetition."""
        tokens = self._sequence.tokens[self._follow :].tolist()
        period = len(tokens)
        return [tokens[n % period] for n in range(count)]


class Drafter(Protocol):
    """A model that drafts."""

    @property
    def seconds(self) -> float:
        """What one more token of all drafts takes."""

    def draft(self, sequences: list[Sequence], count: int) -> list[list[int]]:
        """Up to `count` guesses for each sequence. They have their slots."""


class Worth:
    """The balance of a decode pass: its tokens and seconds as expected, drafts included."""

    def __init__(self, cost: Cost, rows: int, answers: int) -> None:
        self._cost = cost
        self._rows = rows
        self._tokens = float(answers)
        self._extra = 0.0

    def take(self, chances: list[float], extra: float = 0.0) -> bool:
        """Add a drafted token per chance, and `extra` seconds for the drafting, if that pays."""
        seconds = self._cost.seconds(self._rows) + self._extra
        after = self._cost.seconds(self._rows + len(chances)) + self._extra + extra
        if (self._tokens + sum(chances)) * seconds <= self._tokens * after:
            return False
        self._rows += len(chances)
        self._tokens += sum(chances)
        self._extra += extra
        return True


class Speculation:
    """Decides about the drafts of all sequences, pass by pass.

    `count` fixes how long drafts are (0: there are none); None is as long as pays.
    """

    def __init__(self, context: Context, config: LoadConfig) -> None:
        count = config.draft_tokens
        if count is not None and not 0 <= count <= MAX_DRAFTS:
            raise InvalidRequest(
                f"draft_tokens must lie between 0 and {MAX_DRAFTS}, not {count}.",
                param="draft_tokens",
            )
        self._count = count
        self._batch_size = context.batch_size
        # Memory that cannot go back could not forget a wrong draft.
        self.enabled = context.can_trim and count != 0
        self.cost = Cost()
        self.odds = Odds()

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a decode pass what rows cost."""
        self.cost.observe(rows, seconds)

    def propose(self, plan: list[tuple[Sequence, int]]) -> None:
        """Give the sequences of a decode pass drafts, wherever computing them along may pay."""
        if not self.enabled or not plan:
            return
        rows = sum(count for _, count in plan)
        worth = Worth(self.cost, rows, len(plan))
        room = min(MAX_DRAFTS, self._batch_size - rows)
        for sequence, count in plan:
            if count == sequence.missing:
                room -= self._look_up(sequence, worth, room)

    def _look_up(self, sequence: Sequence, worth: Worth, room: int) -> int:
        lookup = sequence.lookup
        if lookup is None:
            lookup = sequence.lookup = Lookup(sequence, self.odds)
        most = min(room, sequence.limit - sequence.length - 1, self._count or MAX_DRAFTS)
        if not lookup.update() or most <= 0:
            return 0
        length = most if self._count else self._length(lookup, worth, most)
        return _propose(sequence, lookup.guess(length)) if length else 0

    def _length(self, lookup: Lookup, worth: Worth, most: int) -> int:
        """How many tokens of a lookup pay."""
        chance, length = 1.0, 0
        while length < most:
            chance *= self.odds.chance(lookup.streak + length)
            if not worth.take([chance]):
                break
            length += 1
        return length


def _propose(sequence: Sequence, guess: list[int]) -> int:
    if sequence.constraint is not None:
        guess = guess[: sequence.constraint.allowed(guess)]
    if guess:
        sequence.propose(guess)
    return len(guess)
