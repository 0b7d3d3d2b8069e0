"""One cell's exchange with a model: its answer, or as many answers as its calls of tools take."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from lmnb.notebook.answer import Answer
from lmnb.notebook.api import Api, Request
from lmnb.notebook.calls import run_shown, skipped
from lmnb.notebook.models import Ready
from lmnb.notebook.output import note, shell
from lmnb.notebook.reply import Reply, Step, Timings, Usage
from lmnb.notebook.tools import Toolbox
from lmnb.notebook.turns import Call, Turn

_INTERRUPTED = "Error: The user interrupted this."


class Exchange:
    """What has been said and done since the cell began.

    Parameters
    ----------
    turns
        The conversation so far, the cell's message last.
    tools
        What the model may call; None is nothing.
    max_steps
        Answers after which no more calls are run.
    """

    def __init__(
        self, turns: Sequence[Turn], tools: Toolbox | None = None, max_steps: int = 10
    ) -> None:
        self.answer = Answer()
        self._asked = len(turns)
        self._turns = list(turns)
        self._tools = tools
        self._max_steps = max_steps
        self._steps: list[Step] = []
        self._settled = False
        self._open: list[Call] = []
        self._first: float | None = None
        self._generation = 0.0
        self._model = Ready("", None)
        self._cell = shell().execution_count

    @property
    def turns(self) -> Sequence[Turn]:
        """The conversation as it is sent next."""
        return self._turns

    @property
    def complete(self) -> bool:
        """Whether the last answer ended by itself."""
        return self.answer.complete

    def run(self, api: Api, resource: Any, request: Request, model: Ready) -> None:
        """Ask, do what is called for, and ask again, until there is an answer."""
        self._model = model
        for step in range(1, self._max_steps + 1):
            if step > 1:
                self.answer, self._settled = Answer(), False
            calls = self._ask(api, resource, request._replace(turns=self._turns))
            if not calls:
                return
            if step == self._max_steps:
                self._refuse(calls)
                return
            self._call(calls)

    def reply(self, *, interrupted: bool = False) -> Reply:
        """What came, the calls included."""
        answer, turns = self.answer, self._turns
        turns += [_result(call, _INTERRUPTED, failed=True) for call in self._open]
        if not self._settled:
            self._add_step()
            if answer.text:
                turns.append({"role": "assistant", "content": answer.text})
        kept = turns if len(turns) > self._asked else turns[: self._asked - 1]
        last = self._steps[-1]
        return Reply(
            text=last.text,
            thinking=last.thinking,
            model=self._model.identifier,
            stop_reason=last.stop_reason,
            usage=_total([step.usage for step in self._steps]),
            timings=Timings(self._first, self._generation, self._model.load_seconds),
            interrupted=interrupted,
            conversation=tuple(kept),
            steps=tuple(self._steps),
            shown_in=self._cell,
        )

    def _ask(self, api: Api, resource: Any, request: Request) -> Sequence[Call]:
        answer = self.answer
        with answer.streaming():
            what = "the prompt" if not self._steps else "the results"
            answer.waiting(f"{self._model.identifier} is reading {what}")
            answer.sent()
            with closing(api.stream(resource, request)) as parts:
                for part in parts:
                    answer.add(part)
        end = answer.end
        return end.calls if end is not None and self._tools is not None else ()

    def _call(self, calls: Sequence[Call]) -> None:
        """Run the calls in their order, and add them and their results to the conversation."""
        assert self._tools is not None
        self._begin(calls)
        while self._open:
            call = self._open[0]
            run = run_shown(self._tools, call)
            done = self._steps[-1]
            self._steps[-1] = done._replace(calls=(*done.calls, run))
            self._turns.append(_result(call, run.text, failed=run.error is not None))
            del self._open[0]

    def _refuse(self, calls: Sequence[Call]) -> None:
        self._begin(calls)
        reason = f"not run, as this is step {self._max_steps} of {self._max_steps}"
        for call in calls:
            skipped(call, reason)
            self._turns.append(_result(call, f"Error: {reason}", failed=True))
        self._open = []
        note("The limit of steps is reached; --max-steps N allows more.")

    def _begin(self, calls: Sequence[Call]) -> None:
        """The answer ends in calls: show it, and add it to the conversation."""
        answer = self.answer
        answer.settle()
        self._add_step()
        self._settled = True
        turn: Turn = {"role": "assistant", "content": answer.text, "calls": list(calls)}
        if answer.thinking:
            turn["thinking"] = answer.thinking
        if answer.end is not None and answer.end.signature:
            turn["signature"] = answer.end.signature
        self._turns.append(turn)
        # Every call gets a result, also one that ■ stops, or the conversation would be broken.
        self._open = list(calls)

    def _add_step(self) -> None:
        answer = self.answer
        if self._first is None:
            self._first = answer.first
        self._generation += answer.generation
        self._steps.append(answer.step())


def _result(call: Call, text: str, *, failed: bool) -> Turn:
    turn: Turn = {"role": "tool", "content": text, "call_id": call["id"]}
    if failed:
        turn["failed"] = True
    return turn


def _total(usages: Sequence[Usage | None]) -> Usage | None:
    known = [usage for usage in usages if usage is not None]
    return Usage(*(sum(counts) for counts in zip(*known, strict=True))) if known else None
