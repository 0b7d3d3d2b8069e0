"""The body of Chat Completions, and its translation (protocols, 1.2)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import Field
from starlette.datastructures import Headers

from lmnb.chat.conversation import Message, Reasoning, Request, ToolCall
from lmnb.server.openai.body import Fields, Int
from lmnb.server.openai.chat_messages import translate as translate_messages
from lmnb.server.openai.errors import InvalidValue, UnsupportedValue
from lmnb.server.openai.output_format import OutputFields
from lmnb.server.openai.sampling import SamplingFields, token_limit
from lmnb.server.openai.unsupported import refuse_tools

MAX_CHOICES = 128


class StreamOptions(Fields):
    """`include_usage`: a last chunk without choices says what was used."""

    include_usage: bool = False


class ReasoningFields(Fields):
    """`effort` is one of OpenAI's words; an unknown one is the template's to ignore."""

    effort: str | None = None


class ChatBody(SamplingFields, OutputFields):
    """POST /v1/chat/completions."""

    messages: list[Any]
    max_tokens: Int | None = None
    max_completion_tokens: Int | None = None
    n: Annotated[Int, Field(ge=1, le=MAX_CHOICES)] = 1
    logprobs: bool = False
    top_logprobs: Annotated[Int, Field(ge=0, le=20)] | None = None
    stream_options: StreamOptions = StreamOptions()
    reasoning_effort: str | None = None
    reasoning: ReasoningFields = ReasoningFields()
    thinking: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: list[str] = Field(default_factory=list)


def translate(body: ChatBody, headers: Headers) -> tuple[Request, ...]:
    """One request per choice: the same prompt, each with a seed of its own.

    Raises
    ------
    NotSupported
        Tools, images, audio.
    InvalidRequest
        Messages that cannot be understood.
    """
    _refuse(body)
    messages = translate_messages(body.messages)
    common = Request(
        model=body.model,
        messages=messages,
        output_format=body.output_format(),
        reasoning=_reasoning(body),
        template_kwargs=body.chat_template_kwargs,
        stop=body.stops(),
        max_tokens=token_limit(body.max_completion_tokens, body.max_tokens),
        continue_final=_is_prefill(messages[-1]),
        logprobs=(body.top_logprobs or 0) if body.logprobs or body.top_logprobs else None,
        cache_key=body.cache_key(headers),
        ttl=body.ttl,
        adapters=body.adapters(),
        draft=body.draft_model or None,
    )
    return tuple(msgspec.structs.replace(common, sampling=body.sampling(i)) for i in range(body.n))


def _refuse(body: ChatBody) -> None:
    refuse_tools(body.tools, body.tool_choice)
    refuse_tools(body.functions, body.function_call, "functions")
    if not body.tools and body.tool_choice is not None and body.tool_choice not in ("none", "auto"):
        raise InvalidValue(
            "'tool_choice' asks for a tool call, but there are no 'tools'.", param="tool_choice"
        )
    if "audio" in body.modalities:
        raise UnsupportedValue(
            "Audio output is not supported ('modalities').",
            hint="Ask for text only.",
            param="modalities",
        )


def _reasoning(body: ChatBody) -> Reasoning:
    kind = (body.thinking or {}).get("type")
    return Reasoning(
        enabled={"enabled": True, "disabled": False}.get(kind) if isinstance(kind, str) else None,
        effort=body.reasoning_effort or body.reasoning.effort,
    )


def _is_prefill(last: Message) -> bool:
    """A conversation that ends with the assistant's words wants them continued."""
    return last.role == "assistant" and not any(isinstance(part, ToolCall) for part in last.parts)
