"""What a model of a family says, as the family's own template writes it.

The answer's text is what the template prints with the assistant's message, less what it prints
before it. What a family supports is decided by what is printed, for every template by these rules:

- The message is taken as it is, not bent (`lmnb.chat.rendering.bend.bend_calls`): templates that show
  one call a turn, or no words beside calls, do not support several calls, or words beside them.
- What is printed begins with the prompt. (In R1's distillations a second call does not.)
- Words beside calls are not printed as if they were thinking.
- All of it is printed before the turn is ended, in its order: thinking, words, names and arguments of calls. Thinking that
  is left out, as most families do sooner or later, is put before the rest, between its marks.
- A text in an argument does not contain the very mark that ends it, if it is written as it is.

A template that knows no tools supports all of it, in lmnb's own syntax. One that shows calls in a
way that is not understood (`is_understood`) supports none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lmnb.chat.conversation import (
    Message,
    Reasoning,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from lmnb.chat.formats import default
from lmnb.chat.formats.deriving.borders import common_prefix, common_suffix, markers
from lmnb.chat.formats.deriving.derive import derive
from lmnb.chat.formats.format import (
    Calls,
    DictArguments,
    Format,
    TaggedArguments,
    WrittenCall,
)
from lmnb.chat.generate import _template_arguments
from lmnb.chat.rendering.bend import bend_calls
from lmnb.chat.rendering.environment import make_environment
from lmnb.chat.rendering.job import Job, Turn
from lmnb.chat.rendering.marks import cut
from lmnb.chat.rendering.media import Media
from lmnb.chat.rendering.template import Template, _marked
from lmnb.chat.rendering.turns import make_turns
from lmnb.chat.tool_names import adapt
from lmnb.engine.options import Segment
from round_trips.cases import TOOLS, Case, call, cases

END = "<|eos|>"
_ENVIRONMENT = make_environment()
_ATTEMPTS = 5


@dataclass(frozen=True)
class Written:
    """A case as the family writes it: what was said before, with the marker, and the answer."""

    case: Case
    marker: str
    before: tuple[Message, ...]
    answer: tuple[Segment, ...]


class Family:
    """A template, and what it prints."""

    def __init__(self, source: str) -> None:
        self.template = Template(source, _ENVIRONMENT)
        self._tools = adapt(TOOLS)

    @cached_property
    def end(self) -> str:
        """The control token that ends a turn: the template's own, or the end of text."""
        last = next(reversed(markers(self._tail)), END)
        return END if last in self._before_name else last

    @cached_property
    def _tail(self) -> str:
        """What is printed after the words of a turn."""
        said = Message("assistant", (Text("Wordsww"),))
        return self._turn((_question(""),), said, 0).rpartition("Wordsww")[2]

    @cached_property
    def _before_name(self) -> str:
        """What is printed in the turn before the name of a call."""
        question, said = (_question(""),), Message("assistant", (call("now", {}),))
        prompt = self._print(question, said, 0, generate=True) or ""
        return _after(self._turn(question, said, 0), prompt).partition("now")[0]

    @cached_property
    def format(self) -> Format:
        return derive(self.template, bos_text="", eos_text=self.end)

    @property
    def calls(self) -> Calls:
        return self.format.calls or default.CALLS

    @property
    def is_understood(self) -> bool:
        """Whether calls are read, if the template shows any."""
        return self.format.calls is not None or not self.template.takes_with_tools.calls

    @cached_property
    def own_markers(self) -> tuple[str, ...]:
        """The tags that the family writes around thinking and calls, less what ends a raw text."""
        found = (
            [self.format.thinking.begin, self.format.thinking.end] if self.format.thinking else []
        )
        answer = self._answer((_question(""),), Message("assistant", (call("now", {}),)))
        found += markers("".join(segment.text for segment in answer))
        raw = _raw_end(self.calls)
        kept = (text.strip() for text in found)
        return tuple(dict.fromkeys(text for text in kept if text and not (raw and raw in text)))

    def write(self, case: Case, marker: str) -> Written | None:
        """The case with `marker` in what the answer is an answer to; None if it is unsupported."""
        before: tuple[Message, ...] = (_question("" if case.after_result else marker),)
        if case.after_result:
            asked = call("look_up", {"query": "first"}, 9)
            result = ToolResult(asked.id, (Text(f"found {marker}"),))
            before = (*before, Message("assistant", (asked,)), Message("tool", (result,)))
        calls = any(
            isinstance(part, ToolCall) for said in (*before, case.message) for part in said.parts
        )
        if self._is_bent((*before, case.message)) or (calls and not self.is_understood):
            return None
        answer = self._answer(before, case.message)
        if answer and answer == self._answer(before, _as_thinking(case.message)):
            return None
        if not _in_order(answer, case.message) and case.thinks and self.format.thinking:
            answer = self._thinking_left_out(before, case.message)
        said = tuple(_until(self.end, answer))
        return Written(case, marker, before, said) if _in_order(said, case.message) else None

    def supported(self, marks: Sequence[str]) -> list[Written]:
        """All cases that the family supports, each with a marker of its own."""
        wanted = cases(self.own_markers)
        assert len(wanted) <= len(marks)
        written = (self.write(case, mark) for case, mark in zip(wanted, marks, strict=False))
        return [found for found in written if found is not None]

    # --- inside ------------------------------------------------------------------

    def _answer(self, before: tuple[Message, ...], said: Message) -> tuple[Segment, ...]:
        """What the model writes; nothing where the template fails on it."""
        for attempt in range(_ATTEMPTS):
            prompt = self._print(before, said, attempt, generate=True)
            whole = self._turn(before, said, attempt)
            if prompt is not None:
                break
        else:
            return ()
        opened, header = self._header(prompt)
        rest = _after(whole, prompt) or _after(whole, header)
        if opened:
            rest = self._going_on(rest, said)
        if self.end == END and markers(self._tail):  # it stands before calls, so it ends no turn
            rest = rest.removesuffix(self._tail)
        marked = [_marked(turn) for turn in self._turns((said,))]
        return cut(rest, [text for turn in marked for text in (turn.thinking, turn.content)])

    def _turn(self, before: tuple[Message, ...], said: Message, attempt: int) -> str:
        """What is printed with the answer; not what is printed after every conversation."""
        whole = self._print((*before, said), said, attempt, generate=False) or ""
        without = self._print(before, said, attempt, generate=False) or ""
        if whole.startswith(without):
            return whole
        return whole.removesuffix(common_suffix((whole, without)))

    def _header(self, prompt: str) -> tuple[bool, str]:
        """Whether thinking is open at the prompt's end; the prompt without its marks."""
        if self.format.thinking is None:
            return False, prompt
        begin, end = self.format.thinking.begin.strip(), self.format.thinking.end.strip()
        header = prompt.rstrip()
        closed = header.endswith(end)
        header = header.removesuffix(end).rstrip() if closed else header
        if begin and not header.endswith(begin):
            return False, prompt
        return not closed, header.removesuffix(begin)

    def _going_on(self, rest: str, said: Message) -> str:
        """The rest of an answer whose thinking has begun: it has to be ended, if it is not."""
        assert self.format.thinking is not None
        rest = rest.lstrip().removeprefix(self.format.thinking.begin.strip())
        thought = "".join(turn.thinking for turn in map(_marked, self._turns((said,))))
        return rest if thought and thought in rest else self.format.thinking.end + rest

    def _thinking_left_out(self, before: tuple[Message, ...], said: Message) -> tuple[Segment, ...]:
        assert self.format.thinking is not None
        begin, end = self.format.thinking.begin, self.format.thinking.end
        prompt = self._print(before, said, 0, generate=True) or ""
        thought = "".join(part.text for part in said.parts if isinstance(part, Thinking))
        rest = Message(said.role, tuple(p for p in said.parts if not isinstance(p, Thinking)))
        answer = self._answer(before, rest)
        opens = Segment("" if self._header(prompt)[0] else begin, special=True)
        # Where thinking is always open, the answer has ended it already.
        ended = "".join(segment.text for segment in answer).startswith(end)
        return (opens, Segment(thought), Segment("" if ended else end, special=True), *answer)

    def _print(
        self, messages: tuple[Message, ...], said: Message, attempt: int, *, generate: bool
    ) -> str | None:
        """The messages printed as for a prompt that `said` answers; None if the template fails."""
        job = Job(
            template="",
            turns=tuple(map(_marked, self._turns(messages))),
            tools=self._tools.tools,
            bos_text="",
            eos_text=END,
            continue_final=False,
            arguments=_arguments(said),
        )
        found = list(self.template._attempts(job.turns, job))[attempt : attempt + 1]
        for turns, takes in found:
            with suppress(Exception):  # templates fail in every way there is
                return self.template.print(
                    turns,
                    job.tools if takes.tools else (),
                    takes,
                    variables=job.arguments | {"bos_token": "", "eos_token": END},
                    generate=generate,
                )
        return None

    def _turns(self, messages: tuple[Message, ...]) -> tuple[Turn, ...]:
        return make_turns(messages, Media(), self._tools)

    def _is_bent(self, messages: tuple[Message, ...]) -> bool:
        takes = self.template.takes_with_tools
        turns = self._turns(messages)
        return bool(takes.calls) and bend_calls(turns, takes, lambda _: "") != turns


def reasoning(said: Message) -> Reasoning:
    """What a request asks for, so that this is an answer to it."""
    return Reasoning(enabled=any(isinstance(part, Thinking) for part in said.parts))


def _arguments(said: Message) -> dict[str, Any]:
    return _template_arguments(Request(model="", reasoning=reasoning(said)))


def _question(marker: str) -> Message:
    return Message("user", (Text(f"How is it? {marker}"),))


def _after(whole: str, prompt: str) -> str:
    """What follows the prompt, or where that is spaced otherwise, its last header."""
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    last = next(reversed(markers(prompt)), "")
    header = prompt[prompt.rindex(last) :].rstrip()
    begin = whole.find(header, len(common_prefix((whole, prompt.rpartition(header)[0]))))
    return whole[begin + len(header) :] if last and begin >= 0 else ""


def _until(end: str, answer: Sequence[Segment]) -> Iterator[Segment]:
    for segment in answer:
        before, found, _ = (
            segment.text.partition(end) if segment.special else (segment.text, "", "")
        )
        yield Segment(before, segment.special)
        if found:
            return


def _as_thinking(message: Message) -> Message:
    """Words beside calls as if they were thought; nothing else is changed."""
    if not any(isinstance(part, ToolCall) for part in message.parts):
        return Message("assistant", ())
    thought = (Thinking(p.text) if isinstance(p, Text) else p for p in message.parts)
    return Message("assistant", tuple(thought)) if message.text else Message("assistant", ())


def _raw_end(calls: Calls) -> str:
    """What ends a text in an argument that is written as it is; "" if texts are JSON."""
    form = calls.call.arguments if isinstance(calls.call, WrittenCall) else None
    if isinstance(form, TaggedArguments) and form.raw_strings:
        return form.value_end.strip()
    return form.quote if isinstance(form, DictArguments) else ""


def _in_order(answer: Sequence[Segment], message: Message) -> bool:
    """Whether all parts of the message are found, in their order; arguments may be in another."""
    written, position = "".join(segment.text for segment in answer), 0
    for part in message.parts:
        text = part.name if isinstance(part, ToolCall) else getattr(part, "text", "").strip()
        position = written.find(text, position)
        if position < 0:
            return False
        position += len(text)
        if isinstance(part, ToolCall) and not all(
            key in written[position:] for key in json.loads(part.arguments)
        ):
            return False
    return True
