"""The body of the legacy Completions, and its translation (protocols, 1.5)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import Field
from starlette.datastructures import Headers

from lmnb.chat.conversation import Request
from lmnb.server.openai.body import Int
from lmnb.server.openai.chat_request import MAX_CHOICES, StreamOptions
from lmnb.server.openai.errors import InvalidType, InvalidValue, UnsupportedParameter
from lmnb.server.openai.output_format import OutputFields
from lmnb.server.openai.sampling import MAX_INT, SamplingFields, token_limit
from lmnb.server.openai.values import json_type


class CompletionsBody(SamplingFields, OutputFields):
    """POST /v1/completions.

    `max_tokens` has LM Studio's default, until the context is full; -1 says the same.
    """

    prompt: Any
    max_tokens: Int | None = None
    n: Annotated[Int, Field(ge=1, le=MAX_CHOICES)] = 1
    best_of: Int | None = None
    echo: bool = False
    logprobs: Annotated[Int, Field(ge=0, le=20)] | None = None
    suffix: str | None = None
    stream_options: StreamOptions = StreamOptions()

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """One or more prompts, each text or token ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if not isinstance(prompt, list):
            raise InvalidType(
                f"Invalid type for 'prompt': expected a string or an array, got {json_type(prompt)}.",
                param="prompt",
            )
        if not prompt:
            raise InvalidValue("'prompt' is an empty array.", param="prompt")
        if _is_tokens(prompt):
            return [tuple(prompt)]
        return [_prompt(item, f"prompt[{i}]") for i, item in enumerate(prompt)]


def translate(body: CompletionsBody, headers: Headers) -> tuple[tuple[Request, ...], ...]:
    """For each prompt a group of `n` requests."""
    prompts = body.prompts
    _refuse(body, prompts)
    return tuple(_group(body, prompt, headers) for prompt in prompts)


def _group(
    body: CompletionsBody, prompt: str | tuple[int, ...], headers: Headers
) -> tuple[Request, ...]:
    common = Request(
        model=body.model,
        prompt=prompt,
        output_format=body.output_format(),
        stop=body.stops(),
        max_tokens=token_limit(body.max_tokens),
        logprobs=body.logprobs,
        cache_key=body.cache_key(headers),
        ttl=body.ttl,
        adapters=body.adapters(),
        draft=body.draft_model or None,
    )
    return tuple(msgspec.structs.replace(common, sampling=body.sampling(i)) for i in range(body.n))


def _refuse(body: CompletionsBody, prompts: list[str | tuple[int, ...]]) -> None:
    if body.max_tokens == 0:
        raise InvalidValue(
            "'max_tokens' must be at least 1, or -1 for as many as fit the context.",
            param="max_tokens",
        )
    if body.suffix:
        raise UnsupportedParameter(
            "'suffix' is not supported: the model cannot fill in the middle.", param="suffix"
        )
    if body.best_of is not None and body.best_of != body.n:
        raise UnsupportedParameter(
            "'best_of' is not supported, except with the value of 'n'.",
            hint="Ask for 'n' completions with 'logprobs' and choose.",
            param="best_of",
        )
    if body.echo and body.logprobs is not None:
        raise UnsupportedParameter(
            "'echo' together with 'logprobs' is not supported: "
            "log probabilities of the prompt are not computed.",
            param="echo",
        )
    if body.echo and any(not isinstance(prompt, str) for prompt in prompts):
        raise UnsupportedParameter(
            "'echo' is not supported for prompts of token ids.", param="echo"
        )


def _is_tokens(value: list[Any]) -> bool:
    return all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= MAX_INT
        for item in value
    )


def _prompt(value: Any, where: str) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and _is_tokens(value):
        return tuple(value)
    raise InvalidType(
        f"Invalid type for '{where}': expected a string or token ids, got {json_type(value)}.",
        param=where,
    )
