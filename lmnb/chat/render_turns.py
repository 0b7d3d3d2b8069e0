"""Conversations bent to what a template can take.

Some templates know no system role, or know it at the head only; some insist that user and
assistant alternate. What is bent here says the same in other places, and only when it must.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lmnb.chat.render_job import Turn

_GAP = "\n\n"


def fold_system(turns: Sequence[Turn], *, head: bool, inside: bool) -> tuple[Turn, ...]:
    """Move system turns into the words of the neighbouring user.

    Those at the head are joined into one; if the template knows none (`head` is false) they open
    the first user turn. A later one, if the template knows none there (`inside` is false), ends
    the turn of the user or tool before it, or else opens the user turn after it: earlier turns
    keep their prompt text, so that the prefix cache still holds them.
    """
    count = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    words = _GAP.join(turn.content for turn in turns[:count])
    rest = list(turns[count:]) if inside else _fold_inside(turns[count:])
    if not count:
        return tuple(rest)
    if head:
        return (Turn("system", words), *rest)
    return tuple(_open_with(words, rest))


def _fold_inside(turns: Sequence[Turn]) -> list[Turn]:
    folded: list[Turn] = []
    carried: list[str] = []
    for turn in turns:
        if turn.role != "system":
            if carried and turn.role != "user":
                folded.append(Turn("user", _GAP.join(carried)))
                carried = []
            folded.append(_with(turn, _GAP.join((*carried, turn.content))))
            carried = []
        elif folded and folded[-1].role in {"user", "tool"} and not carried:
            folded[-1] = _with(folded[-1], folded[-1].content + _GAP + turn.content)
        else:
            carried.append(turn.content)
    if carried:
        folded.append(Turn("user", _GAP.join(carried)))
    return folded


def _open_with(words: str, turns: list[Turn]) -> list[Turn]:
    for i, turn in enumerate(turns):
        if turn.role == "user":
            return [*turns[:i], _with(turn, words + _GAP + turn.content), *turns[i + 1 :]]
    return [Turn("user", words), *turns]


def merge(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Leave out empty turns (but the last), and join neighbours of the same role."""
    merged: list[Turn] = []
    for i, turn in enumerate(turns):
        if not turn.content.strip() and i < len(turns) - 1:
            continue
        if merged and merged[-1].role == turn.role:
            last = merged[-1]
            merged[-1] = Turn(
                turn.role, last.content + _GAP + turn.content, last.thinking + turn.thinking
            )
        else:
            merged.append(turn)
    return tuple(merged)


def _with(turn: Turn, content: str) -> Turn:
    return msgspec.structs.replace(turn, content=content)
