"""Events as the chunks of a streamed chat completion (protocols, 1.2).

Clients build the answer by concatenating: openai-python appends every string of
a delta to what it has and adds every number. So role, id and name are said once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from lmnb.chat.events import (
    Event,
    Finished,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallStart,
)
from lmnb.server.openai import ids
from lmnb.server.openai.chat_answer import (
    FINGERPRINT,
    ChoiceLogprobs,
    FinishReason,
    finish_reason,
)
from lmnb.server.openai.wire import Stats, Usage, logprobs, stats, usage


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """`name` comes first and once; `arguments` in pieces."""

    arguments: str
    name: str | None = None


class ToolCallChunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """More of the `index`-th call."""

    index: int
    function: FunctionDelta
    id: str | None = None
    type: str | None = None


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is new."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCallChunk, ...] | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    """News of one of `n` answers."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason | None = None


class Chunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of the stream. All fields but the last two are in every chunk."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None = None
    stats: Stats | None = None


class ChatStream:
    """Turns `(index, event)` into chunks. One per response."""

    def __init__(self, model: str, choices: int, *, with_logprobs: bool, with_usage: bool) -> None:
        self._id = ids.chat_completion()
        self._created = int(time.time())
        self._model = model
        self._with_logprobs = with_logprobs
        self._with_usage = with_usage
        self._calls = [0] * choices
        self._ends: list[Finished | None] = [None] * choices

    def start(self) -> Iterator[Chunk]:
        """Announce every choice, in order: openai-python's accumulator indexes by arrival."""
        for index in range(len(self._calls)):
            yield self._chunk(index, Delta(role="assistant", content=""))

    def feed(self, index: int, event: Event) -> Chunk | None:
        """The chunk that says `event`, if it is one that clients hear of."""
        match event:
            case TextDelta(text=text, logprobs=tokens):
                known = ChoiceLogprobs(logprobs(tokens)) if self._with_logprobs else None
                return self._chunk(index, Delta(content=text), known)
            case ThinkingDelta(text=text):
                return self._chunk(index, Delta(reasoning_content=text))
            case ToolCallStart(index=call, id=id_, name=name):
                self._calls[index] += 1
                first = ToolCallChunk(call, FunctionDelta("", name), id_, "function")
                return self._chunk(index, Delta(tool_calls=(first,)))
            case ToolCallDelta(index=call, json=json):
                more = ToolCallChunk(call, FunctionDelta(json))
                return self._chunk(index, Delta(tool_calls=(more,)))
            case Finished():
                self._ends[index] = event
                reason = finish_reason(event, self._calls[index])
                return self._chunk(index, Delta(), reason=reason)
            case _:
                return None

    def finish(self) -> Iterator[Chunk]:
        """What comes after the last choice has finished: the usage, if it was asked for."""
        ends = [end for end in self._ends if end is not None]
        if self._with_usage and ends:
            yield Chunk(
                id=self._id,
                object="chat.completion.chunk",
                created=self._created,
                model=self._model,
                system_fingerprint=FINGERPRINT,
                choices=(),
                usage=usage([ends]),
                stats=stats(ends[0]),
            )

    def _chunk(
        self,
        index: int,
        delta: Delta,
        known: ChoiceLogprobs | None = None,
        reason: FinishReason | None = None,
    ) -> Chunk:
        return Chunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            system_fingerprint=FINGERPRINT,
            choices=(ChunkChoice(index, delta, known, reason),),
        )
