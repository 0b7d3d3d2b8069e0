"""The one event type: what a generation says while it runs.

Order: `Loading`* `Prompt`* `Scored`? then deltas, then exactly one `Finished`. Thinking comes
before words, but may come again after calls or, in some families, after words. Tool calls
come one after another, each `ToolCallStart`, `ToolCallDelta`*, `ToolCallEnd`; words may stand
before, between and, rarely, after them. A failure is not an event but an `LmnbError` raised by the iterator.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from lmnb.engine.options import TokenLogprob


class Loading(msgspec.Struct, frozen=True):
    """The model is being loaded; `progress` runs from 0 to 1."""

    model: str
    progress: float
    seconds: float | None = None
    """How long the load took; given once, with progress 1."""


class Prompt(msgspec.Struct, frozen=True):
    """The prompt is being read: `done` of `total` tokens, `cached` of them for free."""

    done: int
    total: int
    cached: int


class Scored(msgspec.Struct, frozen=True):
    """The prompt's tokens with their log probabilities; that of the first one means nothing.

    Comes before all deltas, if it was asked for.
    """

    tokens: tuple[TokenLogprob, ...]


class ThinkingDelta(msgspec.Struct, frozen=True):
    """More of the model's thinking."""

    text: str


class TextDelta(msgspec.Struct, frozen=True):
    """More of the answer. `logprobs` (if asked for): one entry per token that became final."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ToolCallStart(msgspec.Struct, frozen=True):
    """The model begins its `index`-th call (from 0).

    `id` is unique in the conversation. `name` is the caller's name of the tool, or whatever the
    model wrote if there is none of that name.
    """

    index: int
    id: str
    name: str


class ToolCallDelta(msgspec.Struct, frozen=True):
    """More of the JSON text of the call's arguments: together one object, once the call has ended."""

    index: int
    json: str


class ToolCallEnd(msgspec.Struct, frozen=True):
    """The call is complete.

    One that has no end was cut: the last of an answer that ended for `length`, `context` or
    `stop_string`, or for `stop` where the model ended its turn in the middle of the call. Its
    arguments are the beginning of JSON text, and the answer is `Finished.is_cut`: to clients it ends
    as one that met its limit, since they run the calls of answers that are complete.
    """

    index: int


FinishReason: TypeAlias = Literal["stop", "stop_string", "length", "context", "tool_calls"]
"""`stop`: the model ended its turn. `stop_string`: a string of the request was met.
`length`: max_tokens reached. `context`: the context is full. `tool_calls`: the model ended its turn
and made calls, all of them complete."""


class Usage(msgspec.Struct, frozen=True):
    """Token counts. `input` includes `cached`; `output` includes `reasoning` and `accepted`.

    `reasoning` are the tokens of thinking and of its markers.

    `drafted` tokens were guessed by speculation, the answer took `accepted` of them.
    """

    input: int
    cached: int
    output: int
    reasoning: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def rejected(self) -> int:
        """Drafted tokens that were computed in vain."""
        return self.drafted - self.accepted

    @property
    def total(self) -> int:
        """Input and output together."""
        return self.input + self.output


class Timings(msgspec.Struct, frozen=True):
    """Seconds. `first_token` counts from the arrival at the engine, load not included."""

    queue: float
    prompt: float
    first_token: float
    generation: float
    load: float | None = None
    """Set only if this request caused the load, or waited for it."""

    def tokens_per_second(self, output_tokens: int) -> float:
        """Generation speed over the tokens after the first; 0 if there were none."""
        return (
            (output_tokens - 1) / self.generation
            if self.generation > 0 and output_tokens > 1
            else 0.0
        )


class Finished(msgspec.Struct, frozen=True):
    """The end. Nothing follows."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    is_cut: bool = False
    """The answer ended, for whatever reason, within a call that had begun."""
    stop: str | None = None
    """The stop string that was met, with reason `stop_string`."""
    instance: str = ""
    """Identifier of the instance that answered."""
    draft: str | None = None
    """The draft model that was asked for."""


Event: TypeAlias = (
    Loading
    | Prompt
    | Scored
    | ThinkingDelta
    | TextDelta
    | ToolCallStart
    | ToolCallDelta
    | ToolCallEnd
    | Finished
)
