"""Conversations bent to what a template can take.

Some templates know no system role, or know it at the head only; some insist that user and
assistant alternate, some show one call a turn, or no words beside calls, or no tools at all. What
is bent here says the same in other places, and only when it must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import msgspec

from lmnb.chat.conversation import ToolCall
from lmnb.chat.formats.default import result_text
from lmnb.chat.rendering.job import Turn
from lmnb.chat.rendering.messages import Takes

_GAP = "\n\n"


def with_prompt(turns: Sequence[Turn], prompt: str) -> tuple[Turn, ...]:
    """Put `prompt` at the end of the system turn at the head, or into one of its own."""
    if turns and turns[0].role == "system":
        return (_with(turns[0], turns[0].content + _GAP + prompt), *turns[1:])
    return (Turn("system", prompt), *turns)


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
        if turn.role == "tool":
            merged.append(turn)
        elif turn.content.strip() or turn.calls or i == len(turns) - 1:
            last = merged[-1] if merged else None
            if last is not None and last.role == turn.role and not last.calls:
                merged[-1] = msgspec.structs.replace(
                    turn,
                    content=_joined(last.content, turn.content),
                    thinking=last.thinking + turn.thinking,
                )
            else:
                merged.append(turn)
    return tuple(merged)


def words_into_results(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Let a user who speaks right after a result do so within it.

    Templates in which roles must alternate expect the assistant there.
    """
    bent: list[Turn] = []
    for turn in turns:
        if turn.role == "user" and bent and bent[-1].role == "tool":
            bent[-1] = _with(bent[-1], _joined(bent[-1].content, turn.content))
        else:
            bent.append(turn)
    return tuple(bent)


def bend_calls(
    turns: Sequence[Turn], takes: Takes, write: Callable[[Sequence[ToolCall]], str]
) -> tuple[Turn, ...]:
    """Calls and results where the template shows them; `write` gives calls as the model does."""
    bent = tuple(turns)
    if not takes.calls:
        bent = calls_as_words(bent, write)
    else:
        bent = tuple(part for turn in bent for part in _split_words(turn, takes))
        bent = bent if takes.parallel else _one_by_one(bent)
    return bent if takes.results else results_as_words(bent)


def calls_as_words(
    turns: Sequence[Turn], write: Callable[[Sequence[ToolCall]], str]
) -> tuple[Turn, ...]:
    """Calls at the end of what the assistant said, as the model would write them."""
    return tuple(
        msgspec.structs.replace(
            turn, content=_joined(turn.content, write(turn.calls), gap="\n"), calls=()
        )
        if turn.calls
        else turn
        for turn in turns
    )


def results_as_words(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Results as turns of the user; neighbours are one."""
    bent: list[Turn] = []
    for is_tool, group in groupby(turns, key=lambda turn: turn.role == "tool"):
        if is_tool:
            bent.append(Turn("user", result_text([turn.content for turn in group])))
        else:
            bent.extend(group)
    return tuple(bent)


def _split_words(turn: Turn, takes: Takes) -> Iterator[Turn]:
    """Words beside calls go where the template shows them."""
    if not (turn.calls and turn.content):
        yield turn
    elif takes.words == "apart":
        yield Turn(turn.role, turn.content)
        yield _with(turn, "")
    elif takes.words == "thinking" or (takes.words == "unthinking" and turn.thinking):
        thinking = _joined(turn.thinking, turn.content)
        yield msgspec.structs.replace(turn, content="", thinking=thinking)
    else:
        yield turn


def _one_by_one(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Several calls of a turn as turns of one call, each followed by its result."""
    bent: list[Turn] = []
    waiting: list[Turn] = []  # further calls of the turn
    for turn in turns:
        if waiting and turn.role == "tool":
            if turn.call_id == waiting[0].calls[0].id:
                bent.append(waiting.pop(0))
        else:
            bent.extend(waiting)
            waiting = []
        bent.append(turn)
        if len(turn.calls) > 1:
            bent[-1] = msgspec.structs.replace(turn, calls=turn.calls[:1])
            waiting = [Turn(turn.role, "", calls=(call,)) for call in turn.calls[1:]]
    return (*bent, *waiting)


def _joined(first: str, second: str, gap: str = _GAP) -> str:
    return gap.join(text for text in (first, second) if text)


def _with(turn: Turn, content: str) -> Turn:
    return msgspec.structs.replace(turn, content=content)
