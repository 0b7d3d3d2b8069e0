"""The one conversation type. Each protocol is translated into it and out of it.

All values are immutable msgspec structs, so they serialise (stored chats are
these values as JSON) and compare. `None` always means "not given": defaults
are filled in once, further down the road, by the model's own metadata and
then by `lmnb.engine.options.Sampling`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Words of a person, a model or a tool. Never read as control tokens."""

    text: str


class Image(msgspec.Struct, frozen=True, tag="image"):
    """An encoded image: the bytes of a PNG, JPEG, … file."""

    data: bytes
    media_type: str


class Audio(msgspec.Struct, frozen=True, tag="audio"):
    """Encoded audio: the bytes of a WAV, MP3, … file."""

    data: bytes
    media_type: str


class Document(msgspec.Struct, frozen=True, tag="document"):
    """A file the user attached: its bytes, kind and title, and what is said about it.

    Before a prompt is made, its text takes its place (`lmnb.chat.documents`).
    """

    data: bytes
    media_type: str
    title: str | None = None
    context: str | None = None


class Thinking(msgspec.Struct, frozen=True, tag="thinking"):
    """What the model thought before it answered."""

    text: str


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call"):
    """A call the model made. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class ToolResult(msgspec.Struct, frozen=True, tag="tool_result"):
    """What a call returned. `id` is that of the `ToolCall`."""

    id: str
    parts: tuple[Text | Image | Document, ...]
    is_error: bool = False


Part: TypeAlias = Text | Image | Audio | Document | Thinking | ToolCall | ToolResult
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


class Message(msgspec.Struct, frozen=True):
    """One turn. `developer` of OpenAI is `system` here."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


class OutputFormat(msgspec.Struct, frozen=True):
    """The form the answer must have.

    schema
        Goes with `json_schema` only.
    definition
        The regular expression (Rust's syntax, without look-around) or Lark grammar.
    strict
        A schema with keywords that cannot be enforced is refused; else the rest of it is.
    param
        The field of the request that asks for it, for errors.
    """

    type: Literal["text", "json_object", "json_schema", "regex", "lark"] = "text"
    schema: dict[str, Any] | None = None
    definition: str = ""
    name: str | None = None
    strict: bool = True
    param: str | None = None


class Tool(msgspec.Struct, frozen=True):
    """A function the model may call. `parameters` is a JSON schema.

    A `deferred` one is not told of at the head of the prompt: the conversation tells of it.
    `input_format` is the form of a custom tool's input, the one parameter, which is a string.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool = False
    deferred: bool = False
    input_format: OutputFormat | None = None

    @property
    def grammar(self) -> str | None:
        """The Lark grammar of a custom tool's input, if it has one."""
        form = self.input_format
        return form.definition if form is not None and form.type == "lark" else None


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether a tool must, may or must not be called. `name` goes with `named` only."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None
    parallel: bool = True


class Reasoning(msgspec.Struct, frozen=True):
    """How much the model should think, as far as its template offers a choice.

    `effort` is one of OpenAI's words. `budget` is the most tokens it may think, -1 or less any
    number; that is enforced wherever the model's format has an end of thinking.
    """

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None


class SamplingOptions(msgspec.Struct, frozen=True):
    """Sampling as the caller asked for it, in llama.cpp's words.

    Ranges: `lmnb.engine.sampling_options.RANGES`. temperature 0 is greedy; 0 turns off top_k,
    min_p, xtc_probability, dynatemp_range, dry_multiplier, mirostat and the two penalties
    presence_penalty and frequency_penalty; 1 turns off top_p, typical_p and repeat_penalty; -1 or 0
    turns off top_n_sigma. repeat_last_n and dry_penalty_last_n count tokens, -1 is all.
    seed is any integer (taken modulo 2**32); logit_bias maps token ids to an additive bias.
    """

    temperature: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    top_k: int | None = None
    top_p: float | None = None
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
    logit_bias: dict[int, float] | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a protocol can ask of a model, in no protocol's words.

    Exactly one of `messages` (a chat, rendered by the model's template) and `prompt`
    (raw text or token ids, rendered by nothing) is given.

    model
        Name as the caller wrote it: key, `key@variant`, instance identifier or alias.
    continue_final
        The last message is the assistant's and is to be continued, not answered (prefill).
    max_tokens
        Upper bound of generated tokens; None is "until the context is full". It is clamped
        to what the context leaves, never rejected. A raw prompt may have 0.
    suffix
        What comes after the text that a raw `prompt` is to be continued with: the model fills in
        the middle.
    score_prompt
        Tell the log probabilities of the tokens of a raw `prompt`, too.
    logprobs
        None: none wanted. N: the chosen token's and those of the N most likely (0 ≤ N ≤ 20).
    ttl
        Idle seconds until unload, honoured if a request has loaded the model.
    cache_key
        Requests with the same key are of one session. Prefixes are found by their tokens; of a
        session they are kept a little longer, and nobody else's request overwrites them.
    adapters
        LoRA adapters by name or number, with their scales; None is those the model applies by
        default, () is none.
    load
        Options for a load that this request causes (LM Studio's `context_length`).
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    suffix: str | None = None
    score_prompt: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    output_format: OutputFormat = OutputFormat()
    reasoning: Reasoning = Reasoning()
    template_kwargs: dict[str, Any] = {}
    sampling: SamplingOptions = SamplingOptions()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    continue_final: bool = False
    logprobs: int | None = None
    draft: str | None = None
    cache_key: str | None = None
    ttl: float | None = None
    adapters: tuple[tuple[str | int, float], ...] | None = None
    load: dict[str, Any] = {}
