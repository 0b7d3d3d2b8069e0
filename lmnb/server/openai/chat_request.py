"""The body of Chat Completions, and its translation (protocols, 1.2)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import Field
from starlette.datastructures import Headers

from lmnb.chat.conversation import Message, Reasoning, Request, ToolCall
from lmnb.server.notes import note
from lmnb.server.openai.body import Fields, Int
from lmnb.server.openai.chat_messages import translate as translate_messages
from lmnb.server.openai.chat_tools import ToolFields
from lmnb.server.openai.errors import UnsupportedValue
from lmnb.server.openai.output_format import OutputFields
from lmnb.server.openai.sampling import SamplingFields, token_limit
from lmnb.server.openai.thinking import BudgetFields, reasoning

MAX_CHOICES = 128


class StreamOptions(Fields):
    """`include_usage`: a last chunk without choices says what was used."""

    include_usage: bool = False


class ReasoningFields(Fields):
    """`effort` is one of OpenAI's words; an unknown one is the template's to ignore.

    The others are OpenRouter's. `max_tokens` bounds the thinking.
    """

    effort: str | None = None
    enabled: bool | None = None
    max_tokens: Int | None = None


class ThinkingFields(Fields):
    """DeepSeek's and Anthropic's form: `type` is "enabled" or "disabled"."""

    type: str | None = None
    budget_tokens: Int | None = None


class ChatBody(SamplingFields, OutputFields, ToolFields, BudgetFields):
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
    thinking: ThinkingFields = ThinkingFields()
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    modalities: list[str] = Field(default_factory=list)
    web_search_options: Any = None
    moderation: Any = None
    return_progress: bool = False
    """llama.cpp's: chunks that tell how far the prompt has been read."""


def translate(body: ChatBody, headers: Headers) -> tuple[Request, ...]:
    """One request per choice: the same prompt, each with a seed of its own.

    Raises
    ------
    NotSupported
        Files, audio as output.
    InvalidRequest
        Messages or tools that cannot be understood.
    """
    if "audio" in body.modalities:
        raise UnsupportedValue(
            "Audio output is not supported ('modalities').",
            hint="Ask for text only.",
            param="modalities",
        )
    for name in ("web_search_options", "moderation"):
        if getattr(body, name) is not None:
            note(f"'{name}' was left out: there is no such service here.")
    toolbox = body.toolbox
    messages = translate_messages(body.messages)
    common = Request(
        model=body.model,
        messages=messages,
        tools=toolbox.tools,
        tool_choice=toolbox.choice,
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


def _reasoning(body: ChatBody) -> Reasoning:
    enabled = {"enabled": True, "disabled": False}.get(body.thinking.type or "")
    return reasoning(
        body.reasoning_effort or body.reasoning.effort,
        enabled=body.reasoning.enabled if enabled is None else enabled,
        budget=body.thinking_bound(body.thinking.budget_tokens, body.reasoning.max_tokens),
    )


def _is_prefill(last: Message) -> bool:
    """A conversation that ends with the assistant's words wants them continued."""
    return last.role == "assistant" and not any(isinstance(part, ToolCall) for part in last.parts)
