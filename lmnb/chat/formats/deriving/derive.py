"""A `Format` found by comparing what a chat template prints for small conversations.

Nothing here knows a family: what the template writes for a call of another name, for one more
argument, for thinking and for none, tells where each of them begins and ends. What cannot be found
that way is recognised in `lmnb.chat.formats.deriving.families`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from lmnb.chat.formats.deriving.borders import common_prefix, common_suffix, counterpart, markers
from lmnb.chat.formats.deriving.calls import derive_calls
from lmnb.chat.formats.deriving.families import RECOGNISERS
from lmnb.chat.formats.deriving.probe import LATER, THOUGHT, WORDS, Probe, call
from lmnb.chat.formats.deriving.thinking import derive_words, opening
from lmnb.chat.formats.format import Calls, Format, Span
from lmnb.chat.rendering.messages import SWITCHES

if TYPE_CHECKING:
    from lmnb.chat.rendering.template import Template


def derive(template: Template, *, bos_text: str = "", eos_text: str = "") -> Format:
    """The format of a template. One that fails on everything has none: `Format()`."""
    derived = _derive(template, bos_text, eos_text)
    for recognise in RECOGNISERS:
        if known := recognise(template.source, derived):
            return known
    return derived


def _derive(template: Template, bos_text: str, eos_text: str) -> Format:
    probe = Probe(template, bos_text=bos_text, eos_text=eos_text)
    header, tail = _frame(probe)
    calls = derive_calls(probe, header, tail)
    if calls is not None and (opened := opening(calls)).strip():
        header = header.removesuffix(opened)
    thinking, answer = derive_words(probe, template.source, header, tail, calls)
    if thinking is not None and calls is not None:
        calls = _after_thinking(probe, thinking, calls)
    after_calls, after_words = "", tail
    if calls is not None and not calls.begin.strip():
        # What closes calls that nothing opens is the end of the turn. So it is with words.
        after_calls = calls.end
        calls = msgspec.structs.replace(calls, end="")
    if answer is not None and not answer.begin:
        after_words = answer.end + tail
        answer = None
    no_ends = {bos_text, eos_text, *markers(opening(calls) if calls else "")}
    ends = [_end(text, no_ends) for text in (after_calls, after_words)]
    if not any(ends):
        next_turn = probe.turn(WORDS, after=LATER[:1]).rpartition(WORDS)[2]
        ends = [_end(next_turn, no_ends)]
    return Format(
        thinking=thinking,
        answer=answer,
        calls=calls,
        ends=tuple(dict.fromkeys(filter(None, ends))),
    )


def _frame(probe: Probe) -> tuple[str, str]:
    """What stands before and after the assistant's turn, whatever it says."""
    calls = [call(0), call(1)]
    turns = [
        probe.turn(WORDS),
        probe.turn(WORDS, THOUGHT),
        probe.turn(calls=calls) or probe.turn(calls=calls[:1]),
    ]
    shown = [text for text in turns if text]
    header = common_prefix(shown)
    for prompt in (probe.opening(), probe.opening(**dict.fromkeys(SWITCHES, True))):
        shared = common_prefix((header, prompt))
        # A prompt that goes on otherwise than all turns has a reminder between.
        if (prompt and shared == prompt) or shared.rstrip() == header.rstrip():
            header = shared
    # Thinking is switched on in one of them, which may show in a prompt that follows the turn.
    tail = common_suffix([text.removeprefix(header) for text in (turns[0], turns[2]) if text])
    return _before_thinking(header, [text.removesuffix(tail) for text in shown]), tail


def _before_thinking(header: str, turns: list[str]) -> str:
    """The header without the marker at its end that opens thinking, if all turns have that."""
    last = next(reversed(markers(header)), "")
    closing = counterpart(last) if header.rstrip().endswith(last) else ""
    if closing and any(closing in text for text in turns):
        return header[: header.rindex(last)]
    return header


def _after_thinking(probe: Probe, thinking: Span, calls: Calls) -> Calls:
    """`calls`, less white space that ends thinking as well: it stands after words, then."""
    text = probe.turn(thinking=THOUGHT, calls=(call(0),)).rpartition(THOUGHT)[2]
    rest, space = calls.begin.lstrip(), calls.begin
    space = space[: len(space) - len(rest)]
    written = thinking.end + opening(calls)
    plain = thinking.end + opening(msgspec.structs.replace(calls, begin=rest))
    if not space or text.startswith(written) or not text.startswith(plain):
        return calls
    return msgspec.structs.replace(calls, begin=rest, after_words=calls.after_words + space)


def _end(text: str, no_ends: set[str]) -> str:
    """The first word of what follows a turn, if it is a control token by its looks."""
    word = next(iter(text.split()), "")
    if tags := markers(word):
        word = tags[0] if word.startswith(tags[0]) else ""
    return "" if not word or word[0].isalnum() or word in no_ends else word
