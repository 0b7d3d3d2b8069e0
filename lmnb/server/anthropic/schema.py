"""The bodies of Anthropic's Messages API: what is read and what is answered.

Fields that are accepted and mean nothing here are not listed: unknown fields are ignored, since
clients add new ones with every release (reference: the API's Messages pages; betas included).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

Block: TypeAlias = dict[str, Any]
"""A content block, told apart by its `type`; new types appear often, so none is refused here."""


class MessageParam(msgspec.Struct, frozen=True):
    """A turn as it is sent. `role` is user, assistant or (beta) system."""

    role: str
    content: str | list[Block] | None = None


class Metadata(msgspec.Struct, frozen=True):
    """`user_id` of Claude Code is JSON with a `session_id`."""

    user_id: str | None = None


class CountBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    model: str
    messages: list[MessageParam]
    system: str | list[Block] | None = None
    tools: list[Block] | None = None
    tool_choice: str | Block | None = None
    thinking: Block | None = None
    output_config: Block | None = None
    output_format: Block | None = None
    metadata: Metadata | None = None
    ttl: float | None = None


class MessagesBody(CountBody, frozen=True, kw_only=True):
    """`POST /v1/messages`. Those from `min_p` on are extras, which SDKs send as `extra_body`."""

    max_tokens: int | None = None
    context_management: Block | None = None
    stream: bool | None = None
    thread: Block | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


# --- answers --------------------------------------------------------------------

StopReason: TypeAlias = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    """The answer, or a part of it between tool calls."""

    text: str
    citations: None = None


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    """What the model thought. `signature` is opaque to clients, who send it back."""

    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    """A call. `input` is a JSON object."""

    id: str
    name: str
    input: msgspec.Raw


class CacheCreation(msgspec.Struct, frozen=True):
    """Tokens written to caches of a lifetime; there are none of those here."""

    ephemeral_1h_input_tokens: int = 0
    ephemeral_5m_input_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """How many of the output tokens were spent on thinking."""

    thinking_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Token counts. `input_tokens` excludes what came out of the cache: clients add the three."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_creation: CacheCreation = CacheCreation()
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    service_tier: str = "standard"
    server_tool_use: None = None


class ContextManagement(msgspec.Struct, frozen=True):
    """Which of the request's edits of its context were applied: none ever are."""

    applied_edits: tuple[Block, ...] = ()


class Message(msgspec.Struct, frozen=True, kw_only=True, tag="message"):
    """An answer; in `message_start` the beginning of one, with `stop_reason` null."""

    id: str
    role: str = "assistant"
    model: str
    content: tuple[TextBlock | ThinkingBlock | ToolUseBlock, ...] = ()
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: None = None
    container: None = None
    usage: Usage
    context_management: ContextManagement | msgspec.UnsetType = msgspec.UNSET
