"""One chat template: what it can take, and a conversation rendered with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lmnb.chat.render_environment import OutputTooLong, TemplateRefusal, print_template
from lmnb.chat.render_job import Job, Outcome, Refused, Rendered, Turn
from lmnb.chat.render_marks import cut, mark
from lmnb.chat.render_turns import fold_system, merge
from lmnb.engine.protocol import Segment

_END = "\U0010fffd\U0010fffc"  # where a prefilled answer ends; private use, in no content


@dataclass(frozen=True)
class Takes:
    """What the template was found to take, by trying it.

    no_tools
        Variables where there are no tools: `tools` is None, as in transformers; but templates made
        for tools alone want an empty list (some as JSON, and the date with it).
    typed_content
        Contents must be lists of `{"type": "text", "text": …}`: a string is dropped.
    system, inner_system
        System turns at the head, and between other turns, appear where they stand.
    """

    no_tools: dict[str, Any]
    typed_content: bool
    system: bool
    inner_system: bool


class Template:
    """A compiled chat template.

    Raises
    ------
    TemplateSyntaxError
        `source` is not Jinja.
    """

    def __init__(self, source: str, environment: ImmutableSandboxedEnvironment) -> None:
        self._template = environment.from_string(source)

    def render(self, job: Job) -> Outcome:
        """The prompt that ends where the assistant is to go on.

        The conversation is tried as it is and, if the template fails on that, with neighbours of
        the same role joined. The error of the first try is the one that is told.
        """
        turns = tuple(_marked(turn) for turn in job.turns)
        folded = fold_system(turns, head=self.takes.system, inside=self.takes.inner_system)
        first: Refused | None = None
        for attempt in dict.fromkeys((folded, merge(folded))):
            try:
                return Rendered(self._prompt(attempt, job))
            except Exception as error:  # noqa: BLE001 - templates fail in every way there is
                first = first or refusal(error)
        assert first is not None
        return first

    @cached_property
    def takes(self) -> Takes:
        """Found out with small conversations, once."""
        user, answer, more = Turn("user", "QQuery"), Turn("assistant", "AAnswer"), Turn("user", "M")
        system = Turn("system", "SSystem")
        tries = [
            Takes(none, typed, False, False) for none in _no_tools() for typed in (False, True)
        ]
        basic = next((takes for takes in tries if self._shows([user], takes)), tries[0])
        return replace(
            basic,
            system=self._shows([system, user], basic),
            inner_system=self._shows([user, answer, system, more], basic)
            and self._shows([user, system], basic),
        )

    # --- inside ------------------------------------------------------------------

    def _shows(self, turns: list[Turn], takes: Takes) -> bool:
        """Whether all the turns appear in the prompt, in order."""
        try:
            output = self._print(turns, {}, takes)
        except Exception:  # noqa: BLE001 - a template that fails does not take it
            return False
        position = 0
        for turn in turns:
            position = output.find(turn.content, position)
            if position < 0:
                return False
        return True

    def _prompt(self, turns: tuple[Turn, ...], job: Job) -> tuple[Segment, ...]:
        variables = job.arguments | {"bos_token": job.bos_text, "eos_token": job.eos_text}
        contents = [text for turn in turns for text in (turn.thinking, turn.content)]
        if not job.continue_final:
            return cut(self._print(turns, variables, self.takes), contents)
        last = turns[-1]
        ended = Turn(last.role, last.content + _END, last.thinking)
        output = self._print([*turns[:-1], ended], variables, self.takes, generate=False)
        if (position := output.rfind(_END)) >= 0:
            return cut(output[:position].replace(_END, ""), contents)
        # The template does not print it as it is: begin an answer and put the words there.
        output = self._print(turns[:-1], variables, self.takes)
        return (*cut(output, contents), *cut(last.content, [last.content]))

    def _print(
        self,
        turns: Sequence[Turn],
        variables: dict[str, Any],
        takes: Takes,
        *,
        generate: bool = True,
    ) -> str:
        messages = [_message(turn, typed=takes.typed_content) for turn in turns]
        own = {"messages": messages, "add_generation_prompt": generate}
        return print_template(self._template.generate, takes.no_tools | variables | own)


def _no_tools() -> tuple[dict[str, Any], ...]:
    today = datetime.now().astimezone().strftime("%Y-%m-%d")
    none = {"tools": None, "documents": None, "bos_token": "", "eos_token": ""}
    return none, none | {"tools": [], "functions": "[]", "datetime": today}


def _message(turn: Turn, *, typed: bool) -> dict[str, Any]:
    content: Any = [{"type": "text", "text": turn.content}] if typed else turn.content
    message: dict[str, Any] = {"role": turn.role, "content": content}
    if turn.thinking:
        message["reasoning_content"] = turn.thinking
    return message


def _marked(turn: Turn) -> Turn:
    said = turn.role == "assistant"
    return Turn(turn.role, mark(turn.content, keep_think=said), mark(turn.thinking))


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
