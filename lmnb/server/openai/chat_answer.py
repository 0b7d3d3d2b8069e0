"""The whole answer of Chat Completions, made of folded events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from lmnb import __version__
from lmnb.chat.events import Finished
from lmnb.server.generation import Answer
from lmnb.server.openai import ids
from lmnb.server.openai.wire import Logprob, Stats, Usage, logprobs, stats, usage

FINGERPRINT = f"lmnb-{__version__}"
FinishReason = Literal["stop", "length", "tool_calls"]


class Function(msgspec.Struct, frozen=True):
    """A called function; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    """A call."""

    id: str
    function: Function
    type: str = "function"


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The model's turn. Fields that are empty are left out: some clients hang on `[]`."""

    role: str = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChoiceLogprobs(msgspec.Struct, frozen=True):
    """One entry per token."""

    content: list[Logprob]
    refusal: None = None


class Choice(msgspec.Struct, frozen=True):
    """One of `n` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """What POST /v1/chat/completions answers."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    stats: Stats
    system_fingerprint: str = FINGERPRINT


def finish_reason(end: Finished, calls: int) -> FinishReason:
    """`tool_calls` if and only if there are calls: agents loop for ever otherwise."""
    if end.reason in {"length", "context"}:
        return "length"
    return "tool_calls" if calls else "stop"


def completion(model: str, answers: Sequence[Answer], *, with_logprobs: bool) -> ChatCompletion:
    """`answers` share one prompt."""
    ends = [answer.finished for answer in answers]
    return ChatCompletion(
        id=ids.chat_completion(),
        created=int(time.time()),
        model=model,
        choices=[
            _choice(i, answer, with_logprobs=with_logprobs) for i, answer in enumerate(answers)
        ],
        usage=usage([ends]),
        stats=stats(ends[0]),
    )


def _choice(index: int, answer: Answer, *, with_logprobs: bool) -> Choice:
    calls = [ToolCall(call.id, Function(call.name, call.arguments)) for call in answer.tool_calls]
    return Choice(
        index,
        AnswerMessage(
            content=answer.text or (None if calls else ""),
            reasoning_content=answer.thinking or msgspec.UNSET,
            tool_calls=calls or msgspec.UNSET,
        ),
        ChoiceLogprobs(logprobs(answer.logprobs)) if with_logprobs else None,
        finish_reason(answer.finished, len(calls)),
    )
