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
    Prompt,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from lmnb.server.openai import ids
from lmnb.server.openai.chat_answer import (
    FINGERPRINT,
    ChoiceLogprobs,
    FinishReason,
    finish_reason,
)
from lmnb.server.openai.custom_input import CustomInput
from lmnb.server.openai.toolbox import Toolbox
from lmnb.server.openai.wire import Stats, Usage, logprobs, stats, usage


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """`name` comes first and once; `arguments` in pieces."""

    arguments: str
    name: str | None = None


class CustomDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """`name` comes first and once; `input` in pieces."""

    input: str
    name: str | None = None


class ToolCallChunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """More of the `index`-th call, of a function or a custom tool."""

    index: int
    function: FunctionDelta | None = None
    id: str | None = None
    type: str | None = None
    custom: CustomDelta | None = None


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is new."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCallChunk, ...] | None = None
    function_call: FunctionDelta | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    """News of one of `n` answers."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason | None = None


class PromptProgress(msgspec.Struct, frozen=True):
    """Tokens of the prompt, those that were in the cache, and those that have been read so far."""

    total: int
    cache: int
    processed: int
    time_ms: int


class Chunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of the stream. All fields but the last three are in every chunk."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None = None
    stats: Stats | None = None
    prompt_progress: PromptProgress | None = None


class ChatStream:
    """Turns `(index, event)` into chunks. One per response."""

    def __init__(
        self,
        model: str,
        choices: int,
        toolbox: Toolbox,
        *,
        with_logprobs: bool,
        with_usage: bool,
        with_progress: bool = False,
    ) -> None:
        self._id = ids.chat_completion()
        self._created = int(time.time())
        self._model = model
        self._toolbox = toolbox
        self._with_logprobs = with_logprobs
        self._with_usage = with_usage
        self._with_progress = with_progress
        self._begun = time.monotonic()
        self._calls = [0] * choices
        self._inputs: dict[int, CustomInput] = {}
        """Of each choice that is calling a custom tool: the reader of its input."""
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
            case ToolCallStart() | ToolCallDelta() if self._is_dropped(event):
                return None
            case ToolCallStart():
                return self._chunk(index, self._begin_call(index, event))
            case ToolCallDelta():
                return self._more_of_call(index, event)
            case ToolCallEnd(index=call):
                reader = self._inputs.pop(index, None)
                return self._input(index, call, reader.finish()) if reader else None
            case Prompt() if self._with_progress:
                spent = int((time.monotonic() - self._begun) * 1000)
                read = PromptProgress(event.total, event.cached, event.done, spent)
                return msgspec.structs.replace(self._chunk(index, Delta()), prompt_progress=read)
            case Finished():
                self._ends[index] = event
                legacy = self._toolbox.legacy
                reason = finish_reason(event, self._calls[index], legacy=legacy)
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

    def _is_dropped(self, event: ToolCallStart | ToolCallDelta) -> bool:
        """`function_call` has a place for one call: later ones would be joined to it."""
        return self._toolbox.legacy and event.index > 0

    def _begin_call(self, index: int, event: ToolCallStart) -> Delta:
        self._calls[index] += 1
        first = FunctionDelta("", event.name)
        if self._toolbox.legacy:
            return Delta(function_call=first)
        if self._toolbox.caller_knows(event.name).custom:
            self._inputs[index] = CustomInput()
            custom = CustomDelta("", event.name)
            chunk = ToolCallChunk(event.index, None, event.id, "custom", custom)
        else:
            chunk = ToolCallChunk(event.index, first, event.id, "function")
        return Delta(tool_calls=(chunk,))

    def _more_of_call(self, index: int, event: ToolCallDelta) -> Chunk | None:
        reader = self._inputs.get(index)
        if reader is not None:
            return self._input(index, event.index, reader.feed(event.json))
        more = FunctionDelta(event.json)
        if self._toolbox.legacy:
            return self._chunk(index, Delta(function_call=more))
        return self._chunk(index, Delta(tool_calls=(ToolCallChunk(event.index, more),)))

    def _input(self, index: int, call: int, text: str) -> Chunk | None:
        """More of the input of a custom tool's call, if there is more."""
        if not text:
            return None
        chunk = ToolCallChunk(call, custom=CustomDelta(text))
        return self._chunk(index, Delta(tool_calls=(chunk,)))

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
