"""The fields that Chat Completions, Completions and Responses share.

Besides OpenAI's own they are LM Studio's and llama.cpp's extras: the official
SDKs send those through `extra_body`.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from starlette.datastructures import Headers

from lmnb.chat.conversation import SamplingOptions
from lmnb.engine.sampling_options import RANGES
from lmnb.errors import ModelNotFound
from lmnb.server.openai.body import Fields, Int
from lmnb.server.openai.errors import InvalidValue

AFFINITY_HEADERS = ("x-session-affinity", "x-session-id", "session_id")
"""Headers by which clients name their session, the most telling first (opencode, Codex)."""

MAX_INT = 2**31 - 1
"""The engine counts in 32 bits."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Strings = Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
"""A string or a list of strings."""


def _named(model: str) -> str:
    """An empty name means no model; serving some other one in silence would be worse."""
    if not model.strip():
        raise ModelNotFound(
            "The request names no model ('model' is empty).",
            hint="GET /v1/models lists the models.",
            param="model",
        )
    return model


def _range(option: str) -> Any:
    low, high = RANGES[option]
    return Field(ge=low, le=high)


ModelName = Annotated[str, AfterValidator(_named)]


class AdapterFields(Fields):
    """A LoRA adapter, by `id` (its number) or `name`, one of the two."""

    id: Annotated[Int, Field(ge=0)] | None = None
    name: str | None = None
    scale: float = 1.0

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if (self.id is None) == (self.name is None):
            raise ValueError("either an 'id' or a 'name'")
        return self

    @property
    def key(self) -> str | int:
        """Which adapter it is."""
        return self.name or self.id or 0


class SamplingFields(Fields):
    """What a generation can be told, whatever the endpoint."""

    model: ModelName
    stream: bool = False
    temperature: Annotated[float, _range("temperature")] | None = None
    dynatemp_range: Annotated[float, _range("dynatemp_range")] | None = None
    dynatemp_exponent: Annotated[float, _range("dynatemp_exponent")] | None = None
    top_k: Annotated[Int, _range("top_k")] | None = None
    top_p: Annotated[float, _range("top_p")] | None = None
    min_p: Annotated[float, _range("min_p")] | None = None
    typical_p: Annotated[float, _range("typical_p")] | None = None
    top_n_sigma: Annotated[float, _range("top_n_sigma")] | None = None
    xtc_probability: Annotated[float, _range("xtc_probability")] | None = None
    xtc_threshold: Annotated[float, _range("xtc_threshold")] | None = None
    repeat_penalty: Annotated[float, _range("repeat_penalty")] | None = None
    repeat_last_n: Annotated[Int, _range("repeat_last_n")] | None = None
    presence_penalty: Annotated[float, _range("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, _range("frequency_penalty")] | None = None
    dry_multiplier: Annotated[float, _range("dry_multiplier")] | None = None
    dry_base: Annotated[float, _range("dry_base")] | None = None
    dry_allowed_length: Annotated[Int, _range("dry_allowed_length")] | None = None
    dry_penalty_last_n: Annotated[Int, _range("dry_penalty_last_n")] | None = None
    dry_sequence_breakers: list[str] | None = None
    mirostat: Annotated[Int, _range("mirostat")] | None = None
    mirostat_tau: Annotated[float, _range("mirostat_tau")] | None = None
    mirostat_eta: Annotated[float, _range("mirostat_eta")] | None = None
    seed: Int | None = None
    stop: Strings = Field(default_factory=list)
    logit_bias: dict[str, Annotated[float, Field(ge=-1000, le=1000)]] | None = None
    ttl: Annotated[float, Field(gt=0)] | None = None
    draft_model: str | None = None
    prompt_cache_key: str | None = None
    lora: list[AdapterFields] | None = None

    def sampling(self, choice: int = 0) -> SamplingOptions:
        """The options for the `choice`-th of `n` answers: each gets a seed of its own."""
        given = {name: getattr(self, name) for name in RANGES}
        breakers = self.dry_sequence_breakers
        return SamplingOptions(
            **given,
            dry_sequence_breakers=None if breakers is None else tuple(breakers),
            seed=self._seed(choice),
            logit_bias=self._biases(),
        )

    def adapters(self) -> tuple[tuple[str | int, float], ...] | None:
        """The LoRA adapters in llama.cpp's words: those not listed are not used at all."""
        if self.lora is None:
            return None
        return tuple((adapter.key, adapter.scale) for adapter in self.lora)

    def stops(self) -> tuple[str, ...]:
        """The stop strings; an empty one would stop everything and means none."""
        return tuple(text for text in self.stop if text)

    def cache_key(self, headers: Headers) -> str | None:
        """What names the conversation: requests with the same key share a prefix."""
        if self.prompt_cache_key:
            return self.prompt_cache_key
        return next((headers[name] for name in AFFINITY_HEADERS if headers.get(name)), None)

    def _seed(self, choice: int) -> int | None:
        """-1 is llama.cpp's and LM Studio's word for "random"."""
        if self.seed is None or self.seed == -1:
            return None
        return (self.seed + choice) % 2**32

    def _biases(self) -> dict[int, float] | None:
        if self.logit_bias is None:
            return None
        return {_token(name): bias for name, bias in self.logit_bias.items()}


def _token(name: str) -> int:
    if name.isascii() and name.isdigit() and int(name) <= MAX_INT:
        return int(name)
    raise InvalidValue(
        f"Invalid value for 'logit_bias': its keys are token ids, '{name}' is none.",
        param="logit_bias",
    )


def token_limit(*limits: int | None) -> int | None:
    """The first limit given. 0 and -1 are LM Studio's words for "until the context is full"."""
    given = next((limit for limit in limits if limit is not None), None)
    return min(given, MAX_INT) if given is not None and given > 0 else None
