"""Deterministic automata of regular expressions.

From the places of an expression: a state is the set of places where the last character can have
been (V. M. Glushkov, The abstract theory of automata, 1961), or the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lmnb.chat.formats.forcing.inputs.characters import Characters, Interval
from lmnb.chat.formats.forcing.inputs.expressions import Either, Expression, One, Repeated, Several
from lmnb.errors import InvalidRequest

MOST_PLACES = 2000
MOST_STATES = 500
MOST_VISITS = 20_000
"""Parts of an expression, repeated ones as often as they may be."""
MOST_WORK = 2_000_000
"""Steps that make an automaton: about a second."""

Places = frozenset[int]


class Automaton(NamedTuple):
    """States are numbers, 0 the beginning, which nothing leads back to.

    moves
        From each state: which characters lead to which other. Each character leads to one at most.
    accepting
        Where the text may end. From everywhere such a state can be reached.
    work
        Steps that it took to make it, `MOST_WORK` at most.
    """

    moves: tuple[dict[int, Characters], ...]
    accepting: frozenset[int]
    work: int


def automaton(expression: Expression) -> Automaton:
    """The automaton of a regular expression.

    Raises
    ------
    InvalidRequest
        It has too many states, or takes too long to make.
    """
    work = _Work()
    places = _Places(work)
    part = places.part(expression)
    states: dict[Places | None, int] = {None: 0}
    pending: list[Places | None] = [None]
    moves: list[dict[int, Characters]] = []
    while pending:
        state = pending.pop(0)
        following = part.first if state is None else places.after(state)
        found: dict[int, list[Interval]] = {}
        for interval, reached in _partition([(p, places.sets[p]) for p in following]):
            work.add(1 + len(reached))
            if reached not in states:
                states[reached] = len(states)
                pending.append(reached)
            found.setdefault(states[reached], []).append(interval)
        moves.append({target: Characters(intervals) for target, intervals in found.items()})
        if len(states) > MOST_STATES:
            raise too_complex()
    accepting = frozenset(
        number
        for state, number in states.items()
        if (part.nullable if state is None else state & part.last)
    )
    return _minimal(_without_dead_ends(moves, accepting), accepting, work)


def _without_dead_ends(
    moves: list[dict[int, Characters]], accepting: frozenset[int]
) -> list[dict[int, Characters]]:
    alive = set(accepting)
    grown = True
    while grown:
        more = {state for state, each in enumerate(moves) if alive & each.keys()} - alive
        alive |= more
        grown = bool(more)
    return [{to: of for to, of in each.items() if to in alive} for each in moves]


def _minimal(
    moves: list[dict[int, Characters]], accepting: frozenset[int], work: _Work
) -> Automaton:
    """One state for all that go on alike (E. F. Moore, 1956); the beginning stays one of its own."""
    groups = [0, *(1 + (state in accepting) for state in range(1, len(moves)))]
    intervals = sum(len(of.intervals) for each in moves for of in each.values())
    while True:
        work.add(intervals)
        onward = [_merged(each, groups) for each in moves]
        keys = list(zip(groups, (frozenset(each.items()) for each in onward), strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        refined = [numbers[key] for key in keys]
        if len(numbers) == len(set(groups)):
            break
        groups = refined
    first = {group: state for state, group in reversed(list(enumerate(refined)))}
    return Automaton(
        tuple(_merged(moves[first[group]], refined) for group in range(len(first))),
        frozenset(refined[state] for state in accepting),
        work.done,
    )


def _merged(moves: dict[int, Characters], groups: list[int]) -> dict[int, Characters]:
    found: dict[int, Characters] = {}
    for target, of in moves.items():
        group = groups[target]
        found[group] = found[group] | of if group in found else of
    return found


class _Work:
    """Counts steps of about a microsecond at most."""

    def __init__(self) -> None:
        self.done = 0

    def add(self, steps: int) -> None:
        self.done += steps
        if self.done > MOST_WORK:
            raise too_complex()


def too_complex() -> InvalidRequest:
    """What is told of a terminal that takes too much."""
    return InvalidRequest(
        "The Lark grammar has a terminal that is too complex.",
        hint="Divide it up, or leave bounds of its repetitions out.",
    )


class _Part(NamedTuple):
    """An expression, or a piece of one, by the places where it may begin and end."""

    nullable: bool
    first: Places
    last: Places


_NOTHING = _Part(nullable=True, first=frozenset(), last=frozenset())


class _Places:
    """The places of characters in an expression, and which may follow which."""

    def __init__(self, work: _Work) -> None:
        self.sets: list[Characters] = []
        self._following: list[set[int]] = []
        self._visits = 0
        self._work = work

    def after(self, state: Places) -> Places:
        self._work.add(sum(len(self._following[place]) for place in state))
        return frozenset().union(*(self._following[place] for place in state))

    def part(self, expression: Expression) -> _Part:
        self._visits += 1
        if self._visits > MOST_VISITS:
            raise too_complex()
        match expression:
            case One(of=characters):
                return self._one(characters)
            case Several(parts=parts):
                found = _NOTHING
                for part in parts:
                    found = self._joined(found, self.part(part))
                return found
            case Either(options=options):
                kinds = [self.part(option) for option in options]
                return _Part(
                    any(kind.nullable for kind in kinds),
                    frozenset().union(*(kind.first for kind in kinds)),
                    frozenset().union(*(kind.last for kind in kinds)),
                )
            case Repeated():
                return self._repeated(expression)

    def _one(self, characters: Characters) -> _Part:
        if not characters:  # no text at all
            return _Part(nullable=False, first=frozenset(), last=frozenset())
        if len(self.sets) >= MOST_PLACES:
            raise too_complex()
        self.sets.append(characters)
        self._following.append(set())
        place = frozenset({len(self.sets) - 1})
        return _Part(nullable=False, first=place, last=place)

    def _joined(self, before: _Part, after: _Part) -> _Part:
        self._work.add((1 + len(before.last)) * (1 + len(after.first)))
        for place in before.last:
            self._following[place] |= after.first
        return _Part(
            before.nullable and after.nullable,
            before.first | after.first if before.nullable else before.first,
            before.last | after.last if after.nullable else after.last,
        )

    def _repeated(self, repeated: Repeated) -> _Part:
        if max(repeated.least, repeated.most or 0) > MOST_PLACES:
            raise too_complex()
        found = _NOTHING
        for _ in range(repeated.least):
            found = self._joined(found, self.part(repeated.part))
        if repeated.most is None:
            again = self.part(repeated.part)
            self._joined(again, again)
            return self._joined(found, again._replace(nullable=True))
        for _ in range(repeated.most - repeated.least):
            found = self._joined(found, self.part(repeated.part)._replace(nullable=True))
        return found


def _partition(sets: list[tuple[int, Characters]]) -> Iterator[tuple[Interval, Places]]:
    """Intervals of characters with the places they lead to: all in one lead to the same."""
    events: dict[int, list[tuple[int, bool]]] = {}
    for place, characters in sets:
        for low, high in characters.intervals:
            events.setdefault(low, []).append((place, True))
            events.setdefault(high + 1, []).append((place, False))
    inside: set[int] = set()
    begin = 0
    for code in sorted(events):
        if inside:
            yield (begin, code - 1), frozenset(inside)
        for place, enters in sorted(events[code], key=lambda event: event[1]):
            (inside.add if enters else inside.discard)(place)
        begin = code
