"""The body of Responses, and its translation (protocols, 1.3)."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from starlette.datastructures import Headers

from lmnb.chat.conversation import Message, OutputFormat, Request, Text
from lmnb.server.openai.body import Fields, Int
from lmnb.server.openai.errors import InvalidValue, MissingParameter, UnsupportedParameter
from lmnb.server.openai.output_format import OutputFields
from lmnb.server.openai.output_format import translate as translate_format
from lmnb.server.openai.responses_items import translate as translate_items
from lmnb.server.openai.responses_mcp_past import NOTHING, McpPast
from lmnb.server.openai.responses_tools import ToolFields
from lmnb.server.openai.sampling import SamplingFields, token_limit
from lmnb.server.openai.thinking import BudgetFields, reasoning

LOGPROBS = "message.output_text.logprobs"
"""The value of `include` that asks for log probabilities."""

SEALED_REASONING = "reasoning.encrypted_content"
"""The value of `include` that asks for thoughts in a form to be sent back unread."""


class TextFields(Fields):
    """The form of the answer."""

    format: Any = None


class ReasoningFields(Fields):
    """How much to think, and whether thoughts are given as a summary, which is all of them.

    `generate_summary` is the older name. `max_tokens` bounds the thinking, as in OpenRouter's form.
    """

    effort: str | None = None
    max_tokens: Int | None = None
    summary: str | None = None
    generate_summary: str | None = None


def _id_of(value: Any) -> Any:
    """A conversation is named by its id, or by an object that has it."""
    return value.get("id") if isinstance(value, dict) else value


class ResponsesBody(SamplingFields, OutputFields, ToolFields, BudgetFields):
    """POST /v1/responses, and `response.create` of its WebSocket.

    Without `generate` the prompt is read into the prefix cache, and that is all.
    """

    input: Any = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    max_output_tokens: Int | None = None
    max_tool_calls: Annotated[Int, Field(ge=0)] | None = None
    top_logprobs: Annotated[Int, Field(ge=0, le=20)] | None = None
    include: list[str] = Field(default_factory=list)
    text: TextFields = TextFields()
    reasoning: ReasoningFields = ReasoningFields()
    metadata: dict[str, str] = Field(default_factory=dict)
    user: str | None = None
    safety_identifier: str | None = None
    background: bool = False
    conversation: Annotated[str, BeforeValidator(_id_of)] | None = None
    prompt: Any = None
    generate: bool = True

    @model_validator(mode="before")
    @classmethod
    def _prewarming_generates_nothing(cls, data: Any) -> Any:
        options = data.get("prompt_cache_options") if isinstance(data, dict) else None
        if isinstance(options, dict) and options.get("prewarm") is True:
            return {**data, "generate": False}
        return data

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.prompt is not None:
            raise UnsupportedParameter(
                "'prompt' is not supported: there are no stored prompts here.",
                hint="Send 'instructions' and 'input'.",
                param="prompt",
            )
        if self.conversation is not None and self.previous_response_id is not None:
            raise InvalidValue(
                "'conversation' and 'previous_response_id' exclude each other.",
                hint="Send one of them.",
                param="conversation",
            )
        if self.background and not self.store:
            raise InvalidValue(
                "A response in the background has to be stored: 'store' must not be false.",
                param="background",
            )
        if self.background and not self.generate:
            raise InvalidValue(
                "'generate' must not be false for a response in the background.", param="generate"
            )
        return self

    def output_format(self) -> OutputFormat:
        """`text.format`, or `response_format`, which many clients send here too."""
        if self.text.format is not None:
            return translate_format(self.text.format, "text.format")
        return super().output_format()

    @property
    def logprobs(self) -> int | None:
        """How many alternatives per token, or None if no log probabilities are wanted."""
        if self.top_logprobs or LOGPROBS in self.include:
            return self.top_logprobs or 0
        return None


def translate(
    body: ResponsesBody,
    headers: Headers,
    history: tuple[Message, ...],
    mcp: McpPast = NOTHING,
) -> tuple[Request, tuple[Message, ...]]:
    """The request, and the conversation to be stored with the answer.

    `history` is the stored conversation that this one continues, `mcp` what of MCP stands in it.
    `instructions` are for this request only: they go in front of the request and are not stored.
    Tools of MCP servers are not among the request's.
    """
    toolbox = body.toolbox
    conversation = history + _given(body, mcp)
    system: tuple[Message, ...] = ()
    if body.instructions:
        system = (Message("system", (Text(body.instructions),)),)
    if not system and not conversation:
        raise InvalidValue("'input' is empty; at least one message is needed.", param="input")
    request = Request(
        model=body.model,
        messages=system + conversation,
        tools=toolbox.tools,
        tool_choice=toolbox.choice,
        output_format=body.output_format(),
        reasoning=reasoning(
            body.reasoning.effort, budget=body.thinking_bound(body.reasoning.max_tokens)
        ),
        sampling=body.sampling(),
        stop=body.stops(),
        max_tokens=token_limit(body.max_output_tokens) if body.generate else 1,
        logprobs=body.logprobs,
        cache_key=body.cache_key(headers),
        ttl=body.ttl,
        adapters=body.adapters(),
        draft=body.draft_model or None,
    )
    return request, conversation


def _given(body: ResponsesBody, mcp: McpPast) -> tuple[Message, ...]:
    """What is said in the request. It may be nothing if there is something to continue."""
    if body.input is not None:
        return translate_items(body.input, requests=mcp.requests)
    if body.previous_response_id or body.conversation or body.instructions:
        return ()
    raise MissingParameter("Missing required parameter: 'input'.", param="input")
