"""What has begun when the prompt ends: an answer's thinking, a marker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from lmnb.chat.formats.deriving.borders import common_prefix
from lmnb.chat.formats.format import HARMONY_START, Format, HarmonyCall, Span
from lmnb.chat.formats.reading.source import Marker
from lmnb.engine.options import ThinkingBudget

_SHORTEST = 3
"""Characters of a marker's beginning that nothing else ends in."""


def thinking_around(
    form: Format,
    prompt: str,
    *,
    calls: Literal["free", "forced"] | None,
    wanted: bool | None,
    continued: bool = False,
) -> tuple[str | None, str | None]:
    """The text that may begin the thinking, and the one that ends it, for a constraint.

    (None, None): there is none before the answer. (None, end): it has begun. (begin, end): the model
    may think or answer at once.

    Parameters
    ----------
    calls
        What the constraint is for: calls where the model begins one, calls alone, or (None) words.
    wanted
        Whether the caller wants thinking; None leaves it to the model.
    continued
        The prompt ends within an answer, as for `Splitter`.
    """
    if form.thinking is None:
        return None, None
    if form.calls is not None and isinstance(form.calls.call, HarmonyCall):
        if calls is None and form.answer is not None:
            return None, form.answer.begin  # whatever comes before, these are the words
        if calls == "free":
            return None, None  # a header tells a call from a thought
    begin, end = form.thinking.begin.strip(), form.thinking.end.strip()
    if thinking_open(form.thinking, prompt, continued=continued):
        return None, end
    ending = prompt.rstrip()
    if not begin or not end or ending.endswith(end) or wanted is False:
        return None, None
    return begin, end


def thinking_budget(
    form: Format, prompt: str, tokens: int, *, continued: bool = False
) -> ThinkingBudget | None:
    """What the engine is told of a bound on thinking; None where the format has no end of it.

    White space behind the end is left to the model, and to the grammar of what follows. Arguments as
    of `Splitter`.
    """
    if form.thinking is None or not form.thinking.end.strip():
        return None
    opening, between, shared = form.thinking.begin.strip(), "", ""
    if form.calls is not None and isinstance(form.calls.call, HarmonyCall) and form.answer:
        between = HARMONY_START
        shared = common_prefix((opening, form.answer.begin))
    return ThinkingBudget(
        tokens=tokens,
        end=form.thinking.end.rstrip(),
        opening=opening,
        begun=thinking_open(form.thinking, prompt, continued=continued),
        between=between,
        shared=shared,
    )


def thinking_open(thinking: Span | None, prompt: str, *, continued: bool = False) -> bool:
    """Whether thinking has begun when the prompt ends. Arguments as of `Splitter`."""
    if thinking is None:
        return False
    begin, end = thinking.begin.strip(), thinking.end.strip()
    if not begin:
        return not (end and prompt.rstrip().endswith(end))
    begun = prompt.rfind(begin)
    if begun < 0 or (end and prompt.rfind(end) > begun):
        return False
    return continued or not prompt[begun + len(begin) :].strip()


def begun_marker(markers: Iterable[Marker], prompt: str) -> str:
    """The marker, or the beginning of one, that the prompt ends with."""
    ending = prompt.rstrip()
    found = ""
    for marker in markers:
        literal = marker.literal.strip()
        lengths = range(len(literal), _SHORTEST - 1, -1)
        begun = next(
            (literal[:length] for length in lengths if ending.endswith(literal[:length])), ""
        )
        found = max(found, begun, key=len)
    return found
