"""What a model answered: the object that `_`, `Out[n]` and `-o NAME` hold."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from lmnb.notebook.code import code_of
from lmnb.notebook.markdown import closed, for_jupyter
from lmnb.notebook.output import Bundle, shell
from lmnb.notebook.tokens import Heatmap, Token, frame
from lmnb.notebook.tools import ToolRun
from lmnb.notebook.turns import Turn

if TYPE_CHECKING:
    import pandas as pd


class Usage(NamedTuple):
    """Token counts. `input` includes `cached`; `output` includes `reasoning`."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0


class Timings(NamedTuple):
    """Seconds, as seen from the notebook.

    `first_token` counts from the sending of the request, a load not included; it is None if
    nothing came. `generation` is the time from the first token to the last. `load` is set if
    the model was loaded for this answer.
    """

    first_token: float | None = None
    generation: float = 0.0
    load: float | None = None


class Step(NamedTuple):
    """One answer of the model, and the calls that it ended in. A cell without tools takes one."""

    text: str
    thinking: str = ""
    stop_reason: str | None = None
    usage: Usage | None = None
    calls: tuple[ToolRun, ...] = ()
    logprobs: tuple[Token, ...] = ()
    raw: Any = None


@dataclass(frozen=True, eq=False)
class Reply:
    """An answer. `str(reply)` is its text; shown in a cell, it is rendered as Markdown.

    `stop_reason` is in the words of the API that was used; it is None if the answer was
    interrupted or failed. `usage` is that of all steps together, None where the server had not told
    it yet. `conversation` holds all messages up to and including this answer. `parsed` is the value
    that the answer stands for, if `--schema` was given. `text`, `thinking` and `stop_reason` are
    the last step's.
    """

    text: str
    model: str
    thinking: str = ""
    stop_reason: str | None = None
    usage: Usage | None = None
    timings: Timings = field(default_factory=Timings)
    interrupted: bool = False
    conversation: tuple[Turn, ...] = field(default=(), repr=False)
    steps: tuple[Step, ...] = field(default=(), repr=False)
    parsed: Any = None
    shown_in: int | None = field(default=None, repr=False)
    """Number of the execution that has shown the answer while it streamed."""

    def __str__(self) -> str:
        return self.text

    @property
    def calls(self) -> tuple[ToolRun, ...]:
        """The calls of tools that were made, in their order."""
        return tuple(call for step in self.steps for call in step.calls)

    @property
    def code(self) -> str:
        """The code in the text: its blocks in Python or no language, else all; empty without any."""
        return code_of(self.text)

    @property
    def logprobs(self) -> tuple[Token, ...]:
        """The tokens of the text with their log probabilities, if `--logprobs` was given."""
        return self.steps[-1].logprobs if self.steps else ()

    @property
    def raw(self) -> Any:
        """The SDK's own object of the answer; None if that did not end."""
        return self.steps[-1].raw if self.steps else None

    @property
    def tokens(self) -> pd.DataFrame:
        """A row for each token: `token`, `logprob` and `alternatives` (token: log probability).

        Raises
        ------
        NotFound
            `--logprobs` was not given.
        """
        return frame(self.logprobs)

    @property
    def heatmap(self) -> Heatmap:
        """The text, coloured by how sure the model was. Raises `NotFound` without `--logprobs`."""
        return Heatmap(self.logprobs)

    @property
    def tokens_per_second(self) -> float | None:
        """Generation speed over the tokens after the first; None if it cannot be told."""
        if self.usage is None or self.usage.output < 2 or self.timings.generation <= 0:
            return None
        return (self.usage.output - 1) / self.timings.generation

    def _ipython_display_(self) -> None:
        """Show nothing in the cell that has streamed the answer; `_` and `Out` get it anyway."""
        if self.shown_in is None or self.shown_in != getattr(shell(), "execution_count", None):
            raise NotImplementedError  # IPython goes on to _repr_mimebundle_.

    def _repr_mimebundle_(self, **_: Any) -> Bundle:
        return self.bundle()

    def bundle(self) -> Bundle:
        """The final state of the answer; JSON that was asked for is no Markdown."""
        if self.parsed is None:
            return bundle(self.text, self.thinking)
        shown = f"```json\n{self.text}\n```"
        return {"text/markdown": folded(self.thinking) + shown, "text/plain": self.text}

    def footer(self) -> str:
        """One line about how the answer came about."""
        parts = ["⏹ interrupted"] if self.interrupted else []
        parts += [self.model] if self.model else []
        if self.usage is not None:
            cached = f" ({self.usage.cached} cached)" if self.usage.cached else ""
            parts.append(f"{self.usage.input}{cached} → {self.usage.output} tokens")
        if (speed := self.tokens_per_second) is not None:
            parts.append(f"{speed:.1f} tokens/s")
        if self.timings.first_token is not None:
            parts.append(f"first token {self.timings.first_token:.2f} s")
        if self.timings.load is not None:
            parts.append(f"loaded in {self.timings.load:.1f} s")
        if self.stop_reason:
            parts.append(self.stop_reason)
        if len(self.steps) > 1:
            parts.append(f"{len(self.steps)} steps")
        if self.conversation:
            parts.append(f"history {len(self.conversation)} messages")
        return " · ".join(parts)

    def metadata(self) -> dict[str, Any]:
        """What is written into the saved notebook beside the text, for tools to read."""
        return {
            "lmnb": {
                "model": self.model,
                "stop_reason": self.stop_reason,
                "interrupted": self.interrupted,
                "usage": self.usage._asdict() if self.usage else None,
                "timings": {
                    name: None if seconds is None else round(seconds, 3)
                    for name, seconds in self.timings._asdict().items()
                },
            }
        }


def bundle(text: str, thinking: str = "") -> Bundle:
    """The final state of an answer."""
    return {
        "text/markdown": folded(thinking) + for_jupyter(closed(text)),
        "text/plain": text,
    }


def footer_bundle(line: str) -> Bundle:
    """The footer as an output of its own, so that nothing in the answer can swallow it."""
    return {"text/html": f"<small>{html.escape(line)}</small>", "text/plain": f"[{line}]"}


def folded(thinking: str) -> str:
    """The model's thinking, folded away above the answer."""
    if not thinking.strip():
        return ""
    words = len(thinking.split())
    body = for_jupyter(closed(thinking)).strip()
    return f"<details><summary>Thinking · {words} words</summary>\n\n{body}\n\n</details>\n\n"
