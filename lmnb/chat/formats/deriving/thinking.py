"""How a template writes thinking and the words for the user."""

from __future__ import annotations

from lmnb.chat.formats.deriving.borders import (
    counterpart,
    is_marker,
    markers,
    without_empty,
)
from lmnb.chat.formats.deriving.probe import LATER, NAMES, THOUGHT, WORDS, Probe, call
from lmnb.chat.formats.format import NAME, Calls, JsonCall, Span, WrittenCall
from lmnb.chat.rendering.messages import SWITCHES


def derive_words(
    probe: Probe, source: str, header: str, tail: str, calls: Calls | None
) -> tuple[Span | None, Span | None]:
    """What stands around thinking, and around the words; None each where there is nothing."""
    before, after = _around_words(probe, header, tail)
    thinking, answer_begin = _shown(probe, header, before, calls)
    if thinking is None:
        thinking = _left_out(probe, source, header) or _opened(probe, header)
        if thinking and (thinking.begin.strip() in before or thinking.end.strip() in before):
            answer_begin = ""
    if not answer_begin.strip():
        answer_begin = ""
    answer = Span(answer_begin, after) if answer_begin or after.strip() else None
    return thinking, answer


def _around_words(probe: Probe, header: str, tail: str) -> tuple[str, str]:
    text = probe.turn(WORDS)
    before, found, after = text.removesuffix(tail).partition(WORDS)
    return (without_empty(before.removeprefix(header)), after) if found else ("", "")


def _shown(
    probe: Probe, header: str, before_words: str, calls: Calls | None
) -> tuple[Span | None, str]:
    """From turns that show their thinking: its span, and what begins the words."""
    text = probe.turn(WORDS, THOUGHT)
    begin, found, rest = text.removeprefix(header).partition(THOUGHT)
    end, words, _ = rest.partition(WORDS)
    answer = before_words
    if found and words:
        if answer.strip() and end.endswith(answer) and end.strip() != answer.strip():
            end = end.removesuffix(answer)
        else:
            answer = ""
    else:
        text = probe.turn(thinking=THOUGHT, calls=(call(0),))
        begin, found, rest = text.removeprefix(header).partition(THOUGHT)
        if not found or calls is None:
            return None, answer
        end = rest.partition(opening(calls) or NAMES[0])[0]
    if not begin.strip():
        begin = _prefilled(probe, header) or _last_marker(header, end)
    return (Span(begin, end), answer) if end.strip() else (None, before_words)


def opening(calls: Calls) -> str:
    """What is written before the name in the first call, as far as it is always the same."""
    if isinstance(calls.call, WrittenCall):
        at = calls.call.pieces.index(NAME)
        return calls.begin + "".join(calls.call.pieces[:at])
    if isinstance(calls.call, JsonCall):
        return calls.begin + calls.call.begin
    return calls.begin


def _last_marker(header: str, end: str) -> str:
    """A marker that opens thinking and ends the header, since all turns begin with it."""
    for opener in reversed(markers(header)):
        if counterpart(opener) and counterpart(opener) in end:
            return opener
    return ""


def _prefilled(probe: Probe, header: str) -> str:
    """What the prompt writes of the answer when thinking is wanted."""
    opening = probe.opening(**dict.fromkeys(SWITCHES, True))
    return opening.removeprefix(header) if opening.startswith(header) else ""


def _left_out(probe: Probe, source: str, header: str) -> Span | None:
    """From turns in which the template looks for the end of thinking, to leave it out."""
    for end in dict.fromkeys(markers(source)):
        for count in range(len(LATER) + 1):
            text = probe.turn(f"{THOUGHT}{end}{WORDS}", after=LATER[:count])
            before, found, _ = text.partition(WORDS)
            if found and THOUGHT not in before:
                opener = _prefilled(probe, header)
                if counterpart(opener.strip()) != end:
                    opener = end.replace("/", "", 1).replace("END", "START")
                return Span(opener, end)
    return None


def _opened(probe: Probe, header: str) -> Span | None:
    """From prompts that open the thinking, or open and close it at once where it is not wanted."""
    opener = _prefilled(probe, header)
    if is_marker(opener.strip()) and (end := counterpart(opener.strip())):
        return Span(opener, end)
    closed = probe.opening(**dict.fromkeys(SWITCHES, False))
    if not closed.startswith(header) or len(pair := markers(closed.removeprefix(header))) != 2:
        return None
    return Span(*pair) if counterpart(pair[0]) == pair[1] else None
