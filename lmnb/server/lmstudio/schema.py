"""The bodies of LM Studio's REST API v1 (developer docs, "REST API").

Unknown fields are refused, as LM Studio does: a misspelt option would be an option that does
nothing. `ttl`, `seed`, `stop`, `identifier`, `wait`, and the sampling and load options that LM
Studio does not list are additions; the options have llama.cpp's names.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from lmnb.engine.config import LoadConfig

ReasoningOption: TypeAlias = Literal["off", "low", "medium", "high", "on"]


class MessageInput(msgspec.Struct, frozen=True, tag="message", forbid_unknown_fields=True):
    """Words of the user."""

    content: str


class TextInput(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    """The same, by the name that the documentation's examples use."""

    content: str


class ImageInput(msgspec.Struct, frozen=True, tag="image", forbid_unknown_fields=True):
    """An image as a data URL."""

    data_url: str


class PluginIntegration(msgspec.Struct, frozen=True, tag="plugin", forbid_unknown_fields=True):
    """A server of `mcp.json`, as `mcp/<label>`; a bare string means the same with all its tools."""

    id: str
    allowed_tools: tuple[str, ...] | None = None


class EphemeralMcp(msgspec.Struct, frozen=True, tag="ephemeral_mcp", forbid_unknown_fields=True):
    """A remote MCP server that lives as long as the request."""

    server_label: str
    server_url: str
    allowed_tools: tuple[str, ...] | None = None
    headers: dict[str, str] | None = None


class ChatBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /api/v1/chat`."""

    model: str
    input: str | list[MessageInput | TextInput | ImageInput]
    system_prompt: str | None = None
    integrations: list[str | PluginIntegration | EphemeralMcp] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    max_output_tokens: int | None = None
    reasoning: ReasoningOption | None = None
    context_length: int | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
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
    ttl: float | None = None


class LoadBody(LoadConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /api/v1/models/load`."""

    model: str
    echo_load_config: bool | None = None
    ttl: float | None = None
    identifier: str | None = None


class DownloadBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/models/download`."""

    model: str
    quantization: str | None = None


class UnloadBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/models/unload`."""

    instance_id: str
    wait: bool = False


# --- answers --------------------------------------------------------------------


class MessageOutput(msgspec.Struct, frozen=True, tag="message"):
    """The answer."""

    content: str


class ReasoningOutput(msgspec.Struct, frozen=True, tag="reasoning"):
    """What the model thought."""

    content: str


class PluginInfo(msgspec.Struct, frozen=True, tag="plugin"):
    """A tool of a server of `mcp.json`."""

    plugin_id: str


class EphemeralInfo(msgspec.Struct, frozen=True, tag="ephemeral_mcp"):
    """A tool of a server that the request named."""

    server_label: str


ProviderInfo: TypeAlias = PluginInfo | EphemeralInfo


class ToolCallOutput(msgspec.Struct, frozen=True, tag="tool_call"):
    """A call that was made. `output` is JSON text: MCP's content blocks."""

    tool: str
    arguments: dict[str, Any]
    output: str
    provider_info: ProviderInfo


class FailureMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """`execution_error` is ours: the server died, took too long, or the tool says that it failed."""

    type: Literal["invalid_name", "invalid_arguments", "execution_error"]
    tool_name: str
    arguments: dict[str, Any] | None = None
    provider_info: ProviderInfo | None = None


class InvalidToolCallOutput(msgspec.Struct, frozen=True, tag="invalid_tool_call"):
    """A call that came to nothing; the model was told why."""

    reason: str
    metadata: FailureMetadata


Output: TypeAlias = MessageOutput | ReasoningOutput | ToolCallOutput | InvalidToolCallOutput


class Stats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts and speed. `model_load_time_seconds` is there only if the request loaded the model.

    Counts of drafts are there only if there were any.
    """

    input_tokens: int
    total_output_tokens: int
    reasoning_output_tokens: int
    tokens_per_second: float
    time_to_first_token_seconds: float
    model_load_time_seconds: float | None = None
    total_draft_tokens_count: int = 0
    accepted_draft_tokens_count: int = 0
    rejected_draft_tokens_count: int = 0


class ChatResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of `POST /api/v1/chat`. `response_id` is there only if it is stored."""

    model_instance_id: str
    output: tuple[Output, ...]
    stats: Stats
    response_id: str | None = None
