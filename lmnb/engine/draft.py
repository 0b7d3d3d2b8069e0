"""Speculation: guesses about the next tokens, several of which one forward pass can verify.

A guess that is right spares a forward pass, a wrong one costs a row in a pass. Whether that pays
depends on the machine: on a CPU a row costs about half as much as a pass of one, on a GPU next to
nothing. So the costs are measured as the passes go by, the chances of the guesses are counted, and
a draft is made as long as its next token promises more tokens a second than the pass has without.

Drafts are verified by sampling what would have been sampled without them, so they change no answer
beyond the rounding of the forward pass: its sums may come out a little differently for several rows
than for one, as they do between a full and an empty batch.
"""

from __future__ import annotations

import math
from itertools import takewhile
from typing import Protocol

from lmnb.engine.context import MAX_DRAFTS, Context
from lmnb.engine.sequence import Sequence
from lmnb.errors import InvalidRequest

_NGRAM = 3
"""Tokens that must have stood somewhere before, for what followed them to be a guess."""
_WINDOW = 8192
"""Tokens looked back at most: the search takes 1 µs per 1,000."""
_LOST = 32
"""Tokens between two looks at a text from which on a lookup begins anew."""
_MARGIN = 1.05
"""What a draft must win at least: forecasts are rough, and the drafting itself takes time."""
_LIKELY_LENGTH = 8
"""Tokens of a draft that are looked at to see whether any would pay."""
_FADE = 0.998
"""What is left of a measured cost after each pass of another size."""
_SILENCE = 64
"""Passes after which a draft model that has not paid is tried once more."""


class Cost:
    """How long a decode pass takes by its rows: `unit * (1 + share * rows)`, and what was measured.

    Both are followed as the passes go by, by steps against the error of the prediction. A slower
    machine moves `unit`; only passes of different sizes say something about `share`. No line is
    true everywhere, though: CPUs multiply by blocks of rows, so that two can cost nearly twice as
    much as one and four hardly more than two. So each number of rows has its own `bend`, which
    fades while nothing is measured: what did not pay once is tried again some day.
    """

    def __init__(self) -> None:
        self.share = 0.5
        self._unit = 0.0
        self._usual = 0.0  # rows of late
        self._bends: dict[int, tuple[float, int]] = {}  # of the logarithm, and in which pass
        self._passes = 0

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a pass."""
        self._passes += 1
        if not self._unit:
            self._unit, self._usual = seconds / (1 + self.share * rows), rows
            return
        error = math.log(max(seconds, 1e-9) / self._line(rows))
        error = max(-1.0, min(1.0, error))  # a pass may have been held up by anything
        bend = self._bend(rows)
        self._bends[rows] = (bend + 0.5 * (error - bend), self._passes)
        unusual = (rows - self._usual) / max(rows, self._usual)
        self.share = max(0.001, self.share * math.exp(0.5 * error * unusual))
        self._unit *= math.exp(0.2 * error)
        self._usual += 0.3 * (rows - self._usual)

    def seconds(self, rows: int) -> float:
        """What a pass of so many rows takes; before any has been observed, in units of its own."""
        return self._line(rows) * math.exp(self._bend(rows))

    def _line(self, rows: int) -> float:
        return (self._unit or 1.0) * (1 + self.share * rows)

    def _bend(self, rows: int) -> float:
        bend, measured = self._bends.get(rows, (0.0, self._passes))
        return bend * _FADE ** (self._passes - measured)


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

    def best(self) -> float:
        """The highest of all probabilities."""
        return max(right / tried for right, tried in zip(self._right, self._tried, strict=True))


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
        if sequence.length - self._seen > _LOST:  # it was not asked for a while
            self._seen, self._follow, self.streak = sequence.length, 0, 0
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
        """The next tokens, up to an image. What follows the end of the text is its repetition."""
        tokens = self._sequence.tokens[self._follow : self._follow + count].tolist()
        guess = (tokens[n % len(tokens)] for n in range(count))
        return list(takewhile(lambda token: token >= 0, guess))


class Drafter(Protocol):
    """What drafts for several sequences at once (`DraftModel`, `NextTokens`)."""

    @property
    def seconds(self) -> float:
        """What one more token of all drafts takes; 0 before it is known."""

    def draft(self, sequences: list[Sequence], count: int, *, alone: bool) -> list[list[int]]:
        """Up to `count` guesses for each sequence. They have slots, and are in their order."""


class Assisted:
    """One sequence for which a model drafts, and how often that was right of late."""

    def __init__(self, sequence: Sequence, drafter: Drafter) -> None:
        self.drafter = drafter
        self._sequence = sequence
        self._drafted = self._accepted = 0
        self._right, self._tried = 3.0, 4.0

    def note(self, guess: list[int]) -> None:
        """The drafter was asked. That it had no guess counts as a wrong one."""
        if not guess:
            self._right, self._tried = 0.8 * self._right, 0.8 * self._tried + 1

    def chance(self) -> float:
        """The probability that the next guess is right."""
        drafted = self._sequence.drafted - self._drafted
        if drafted:
            accepted = self._sequence.accepted - self._accepted
            self._drafted, self._accepted = self._sequence.drafted, self._sequence.accepted
            self._right = 0.8 * self._right + accepted
            self._tried = 0.8 * self._tried + accepted + (accepted < drafted)
        return self._right / self._tried


class Worth:
    """The balance of a decode pass: its tokens and seconds as expected, drafts included."""

    def __init__(self, cost: Cost, rows: int, answers: int) -> None:
        self._cost = cost
        self._rows = rows
        self._tokens = float(answers)
        self._extra = 0.0

    def take(self, won: list[float], *, width: int = 1, extra: float = 0.0) -> int:
        """Add drafts of the length that brings the most tokens a second; 0 if none pays.

        `won[n]` are the tokens that the step after n steps is expected to bring. Each step costs
        `width` rows, and `extra` seconds for the drafting.
        """
        length = self.best(won, width=width, extra=extra)
        self._rows += length * width
        self._tokens += sum(won[:length])
        self._extra += length * extra
        return length

    def best(self, won: list[float], *, width: int = 1, extra: float = 0.0) -> int:
        """How many steps `take` would take."""
        before = self._cost.seconds(self._rows) + self._extra
        tokens, best, length = self._tokens, self._tokens / before, 0
        for steps, more in enumerate(won, 1):
            tokens += more
            seconds = self._cost.seconds(self._rows + steps * width) + self._extra + steps * extra
            pays = (tokens - self._tokens) * before > _MARGIN * self._tokens * (seconds - before)
            if pays and tokens / seconds > best:
                best, length = tokens / seconds, steps
        return length

    def could_pay(self, chance: float) -> bool:
        """Whether a draft would pay each token of which is right with this probability."""
        return bool(self.best([chance**steps for steps in range(1, _LIKELY_LENGTH + 1)]))


class Speculation:
    """Decides about the drafts of all sequences, pass by pass.

    `count` fixes how long drafts are (0: there are none); None is as long as pays.
    """

    def __init__(self, context: Context, count: int | None) -> None:
        if count is not None and not 0 <= count <= MAX_DRAFTS:
            raise InvalidRequest(
                f"draft_tokens must lie between 0 and {MAX_DRAFTS}, not {count}.",
                param="draft_tokens",
            )
        self._count = count
        self._batch_size = context.batch_size
        # Memory that cannot go back could not forget a wrong draft.
        self.enabled = context.can_retract and count != 0
        self.cost = Cost()
        self.odds = Odds()
        self._silent = 0

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
        # Beside other answers a lookup does not pay: slots with unequal numbers of tokens are
        # computed in passes of their own. (Measured on a CPU at 16 streams: 5 % slower.)
        alone = len(plan) == 1
        looks_up = bool(self._count) or (alone and worth.could_pay(self.odds.best()))
        assisted: list[tuple[Sequence, Assisted]] = []
        for sequence, count in plan:
            if count != sequence.missing:
                continue
            if sequence.assisted is None:
                if looks_up:
                    room -= self._look_up(sequence, worth, room)
            else:
                assisted.append((sequence, sequence.assisted))
        for drafter in dict.fromkeys(own.drafter for _, own in assisted):
            group = [(sequence, own) for sequence, own in assisted if own.drafter is drafter]
            if room > 0:
                room -= self._ask_model(group, worth, room, alone=alone)

    # --- prompt lookup -----------------------------------------------------------------

    def _look_up(self, sequence: Sequence, worth: Worth, room: int) -> int:
        lookup = sequence.lookup
        if lookup is None:
            lookup = sequence.lookup = Lookup(sequence, self.odds)
        most = min(room, sequence.limit - sequence.length - 1, self._count or MAX_DRAFTS)
        if not lookup.update() or most <= 0:
            return 0
        length = most if self._count else worth.take(self._chances(lookup, most))
        return _propose(sequence, lookup.guess(length)) if length else 0

    def _chances(self, lookup: Lookup, most: int) -> list[float]:
        """The probability that a draft is right up to each of its tokens."""
        chances, chance = [], 1.0
        for length in range(most):
            chance *= self.odds.chance(lookup.streak + length)
            chances.append(chance)
        return chances

    # --- a draft model -------------------------------------------------------------------

    def _ask_model(
        self, assisted: list[tuple[Sequence, Assisted]], worth: Worth, room: int, *, alone: bool
    ) -> int:
        """Have sequences drafted for by the drafter they share; how many tokens it guessed."""
        assisted.sort(key=lambda row: row[0].slot or 0)
        most = min(room // len(assisted), self._count or MAX_DRAFTS)
        # Nobody's draft may reach beyond the end of its context.
        most = min(most, *(sequence.limit - sequence.length - 1 for sequence, _ in assisted))
        if most <= 0:
            return 0
        depth = most if self._count else self._depth([a for _, a in assisted], worth, most)
        if not depth:
            return 0
        sequences = [sequence for sequence, _ in assisted]
        guesses = assisted[0][1].drafter.draft(sequences, depth, alone=alone)
        for (sequence, own), guess in zip(assisted, guesses, strict=True):
            own.note(guess)
            _propose(sequence, guess)
        return sum(len(guess) for guess in guesses)

    def _depth(self, assisted: list[Assisted], worth: Worth, most: int) -> int:
        """How many tokens of the model's drafts pay. While none does, it gets a try now and then."""
        single = [one.chance() for one in assisted]
        won = [sum(chance**steps for chance in single) for steps in range(1, most + 1)]
        depth = worth.take(won, width=len(assisted), extra=assisted[0].drafter.seconds)
        self._silent = 0 if depth else self._silent + 1
        if self._silent > _SILENCE:
            self._silent = 0
            depth = min(2, most)
        return depth


def _propose(sequence: Sequence, guess: list[int]) -> int:
    if sequence.constraint is not None:
        guess = guess[: sequence.constraint.allowed(guess)]
    if guess:
        sequence.propose(guess)
    return len(guess)
