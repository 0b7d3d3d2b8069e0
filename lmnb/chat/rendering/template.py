"""One chat template: what it can take, and a conversation rendered with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import msgspec
from jinja2 import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lmnb.chat.conversation import Tool, ToolCall
from lmnb.chat.formats.default import CALLS, tool_prompt
from lmnb.chat.formats.deriving.derive import derive
from lmnb.chat.formats.format import Calls
from lmnb.chat.formats.write import write_calls
from lmnb.chat.rendering.bend import (
    bend_calls,
    calls_as_words,
    fold_system,
    merge,
    results_as_words,
    with_prompt,
    words_into_results,
)
from lmnb.chat.rendering.environment import OutputTooLong, TemplateRefusal, print_template
from lmnb.chat.rendering.job import Job, Outcome, Refused, Rendered, Turn
from lmnb.chat.rendering.marks import Words, cut, mark, mark_json
from lmnb.chat.rendering.messages import SWITCHES, Takes, messages, tool_objects, tool_variables
from lmnb.chat.rendering.takes import plain_takes, thinking_takes, tool_takes, words_takes
from lmnb.engine.options import Segment

_END = "\U0010fffd\U0010fffc"  # where a prefilled answer ends; private use, in no content
_THINKING_ON = dict.fromkeys(SWITCHES, True)


class Template:
    """A compiled chat template.

    Raises
    ------
    TemplateSyntaxError
        `source` is not Jinja.
    """

    def __init__(self, source: str, environment: ImmutableSandboxedEnvironment) -> None:
        self.source = source
        self._template = environment.from_string(source)

    def render(self, job: Job) -> Outcome:
        """The prompt that ends where the assistant is to go on.

        The conversation is tried as the template takes it and, if it fails on that, bent further.
        The error of the first try is the one that is told.
        """
        turns = tuple(_marked(turn) for turn in job.turns)
        first: Refused | None = None
        for attempt, takes in self._attempts(turns, job):
            try:
                return Rendered(self._prompt(attempt, turns, job, takes))
            except Exception as error:  # noqa: BLE001 - templates fail in every way there is
                first = first or refusal(error)
        assert first is not None
        return first

    def print(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Tool],
        takes: Takes,
        *,
        variables: dict[str, Any] | None = None,
        generate: bool = True,
    ) -> str:
        """What the template prints, with marks where `turns` have some; it may raise anything."""
        own = {"messages": messages(turns, takes), "add_generation_prompt": generate}
        given = tool_variables(tool_objects(tools, takes), takes) | (variables or {}) | own
        return print_template(self._template.generate, given)

    @cached_property
    def takes(self) -> Takes:
        """What it takes of conversations without tools."""
        return thinking_takes(partial(self.print, variables=_THINKING_ON), self._plain_takes)

    @cached_property
    def takes_with_tools(self) -> Takes:
        """What it takes of conversations with tools, calls or results."""
        takes = tool_takes(self.print, self._plain_takes)
        takes = thinking_takes(partial(self.print, variables=_THINKING_ON), takes)
        return words_takes(self.print, takes)

    @cached_property
    def calls(self) -> Calls:
        """How calls are written: for templates that show no calls, or do not tell of tools."""
        return derive(self).calls or CALLS

    # --- inside ------------------------------------------------------------------

    @cached_property
    def _plain_takes(self) -> Takes:
        return plain_takes(self.print)

    def _takes_of(self, job: Job) -> Takes:
        if job.tools or any(turn.calls or turn.role == "tool" for turn in job.turns):
            return self.takes_with_tools
        return self.takes if any(turn.thinking for turn in job.turns) else self._plain_takes

    def _attempts(
        self, turns: tuple[Turn, ...], job: Job
    ) -> Iterator[tuple[tuple[Turn, ...], Takes]]:
        takes = self._takes_of(job)
        if job.tools and not takes.tools:
            objects = tool_objects(job.tools, takes)
            turns = with_prompt(turns, tool_prompt(objects, self.calls, results=not takes.results))
        bent = self._folded(bend_calls(turns, takes, self._write), takes)
        closed = words_into_results(bent)
        words = results_as_words(calls_as_words(turns, self._write))
        for attempt in dict.fromkeys(
            (bent, closed, merge(closed), merge(self._folded(words, takes)))
        ):
            yield attempt, takes
        if takes.tools and takes.schemas != "closed":
            yield merge(closed), replace(takes, schemas="closed")

    def _folded(self, turns: Sequence[Turn], takes: Takes) -> tuple[Turn, ...]:
        return fold_system(turns, head=takes.system, inside=takes.inner_system)

    def _write(self, said: Sequence[ToolCall]) -> str:
        return write_calls(self.calls, said)

    def _prompt(
        self, turns: tuple[Turn, ...], given: Sequence[Turn], job: Job, takes: Takes
    ) -> tuple[Segment, ...]:
        """`given` are the turns before anything was bent; words are looked for as they were."""
        variables = job.arguments | {"bos_token": job.bos_text, "eos_token": job.eos_text}
        print_ = partial(
            self.print, tools=job.tools if takes.tools else (), takes=takes, variables=variables
        )
        contents = [text for turn in given for text in (turn.thinking, turn.content)]
        if not job.continue_final:
            return cut(print_(turns), contents)
        last = turns[-1]
        ended = msgspec.structs.replace(last, content=last.content + _END)
        output = print_([*turns[:-1], ended], generate=False)
        if (position := output.rfind(_END)) >= 0:
            return cut(output[:position].replace(_END, ""), contents)
        # The template does not print it as it is: begin an answer and put the words there.
        output = print_(turns[:-1])
        return (*cut(output, contents), *cut(last.content, [last.content]))


def _marked(turn: Turn) -> Turn:
    said = turn.role == "assistant"
    return Turn(
        turn.role,
        mark(turn.content, keep_think=said),
        mark(turn.thinking),
        tuple(
            ToolCall(Words(mark(call.id)), Words(mark(call.name)), mark_json(call.arguments))
            for call in turn.calls
        ),
        mark(turn.call_id),
        mark(turn.name),
    )


def refusal(error: Exception) -> Refused:
    """`error` in words; a `MemoryError` is raised again."""
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, TemplateRefusal):
        return Refused("template", str(error))
    if isinstance(error, OutputTooLong):
        return Refused("output", "")
    if isinstance(error, RecursionError):
        return Refused("error", "it calls itself without end")
    if isinstance(error, TemplateSyntaxError):
        return Refused("error", f"{error.message} (line {error.lineno})")
    return Refused("error", str(error) or type(error).__name__)
