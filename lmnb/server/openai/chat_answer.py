"""The whole answer of Chat Completions, made of folded events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from lmnb import __version__
from lmnb.chat import conversation
from lmnb.chat.events import Finished
from lmnb.server.generation import Answer
from lmnb.server.openai import ids
from lmnb.server.openai.custom_input import custom_input
from lmnb.server.openai.toolbox import Toolbox
from lmnb.server.openai.wire import Logprob, Stats, Usage, logprobs, stats, usage

FINGERPRINT = f"lmnb-{__version__}"
FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class Function(msgspec.Struct, frozen=True):
    """A called function; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, tag="function"):
    """A call of a function."""

    id: str
    function: Function


class Custom(msgspec.Struct, frozen=True):
    """A called custom tool; `input` is plain text."""

    name: str
    input: str


class CustomCall(msgspec.Struct, frozen=True, tag="custom"):
    """A call of a custom tool."""

    id: str
    custom: Custom


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The model's turn. Fields that are empty are left out: some clients hang on `[]`."""

    role: str = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall | CustomCall] | msgspec.UnsetType = msgspec.UNSET
    function_call: Function | msgspec.UnsetType = msgspec.UNSET


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


def finish_reason(end: Finished, calls: int, *, legacy: bool = False) -> FinishReason:
    """`tool_calls` if and only if there are calls: agents loop for ever otherwise.

    A call that was cut is not one to be made. `legacy` callers gave `functions`, and look for `function_call`.
    """
    if end.is_cut or end.reason in {"length", "context"}:
        return "length"
    if not calls:
        return "stop"
    return "function_call" if legacy else "tool_calls"


def completion(
    model: str, answers: Sequence[Answer], toolbox: Toolbox, *, with_logprobs: bool
) -> ChatCompletion:
    """`answers` share one prompt."""
    ends = [answer.finished for answer in answers]
    return ChatCompletion(
        id=ids.chat_completion(),
        created=int(time.time()),
        model=model,
        choices=[
            _choice(i, answer, toolbox, with_logprobs=with_logprobs)
            for i, answer in enumerate(answers)
        ],
        usage=usage([ends]),
        stats=stats(ends[0]),
    )


def _choice(index: int, answer: Answer, toolbox: Toolbox, *, with_logprobs: bool) -> Choice:
    calls = answer.tool_calls
    made = [] if toolbox.legacy else [_call(call, toolbox) for call in calls]
    function = Function(calls[0].name, calls[0].arguments) if calls and toolbox.legacy else None
    return Choice(
        index,
        AnswerMessage(
            content=answer.text or (None if calls else ""),
            reasoning_content=answer.thinking or msgspec.UNSET,
            tool_calls=made or msgspec.UNSET,
            function_call=function or msgspec.UNSET,
        ),
        ChoiceLogprobs(logprobs(answer.logprobs)) if with_logprobs else None,
        finish_reason(answer.finished, len(calls), legacy=toolbox.legacy),
    )


def _call(call: conversation.ToolCall, toolbox: Toolbox) -> ToolCall | CustomCall:
    if toolbox.caller_knows(call.name).custom:
        return CustomCall(call.id, Custom(call.name, custom_input(call.arguments)))
    return ToolCall(call.id, Function(call.name, call.arguments))
