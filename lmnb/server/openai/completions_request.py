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

    `max_tokens` has LM Studio's default, until the context is full; -1 says the same. 0 generates
    nothing: with `echo` and `logprobs` it is how prompts are scored.
    """

    prompt: Any
    max_tokens: Int | None = None
    n: Annotated[Int, Field(ge=1, le=MAX_CHOICES)] = 1
    best_of: Annotated[Int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool = False
    logprobs: Annotated[Int, Field(ge=0, le=20)] | None = None
    suffix: str | None = None
    stream_options: StreamOptions = StreamOptions()

    @property
    def tries(self) -> int:
        """Completions to be generated for each prompt."""
        return self.best_of or self.n

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
    """For each prompt a group of `best_of` requests, the first of which scores it if need be."""
    prompts = body.prompts
    _refuse(body, prompts)
    return tuple(_group(body, prompt, headers) for prompt in prompts)


def _group(
    body: CompletionsBody, prompt: str | tuple[int, ...], headers: Headers
) -> tuple[Request, ...]:
    to_rank = 0 if body.tries > body.n else None
    common = Request(
        model=body.model,
        prompt=prompt,
        suffix=body.suffix or None,
        output_format=body.output_format(),
        stop=body.stops(),
        max_tokens=0 if body.max_tokens == 0 else token_limit(body.max_tokens),
        logprobs=to_rank if body.logprobs is None else body.logprobs,
        cache_key=body.cache_key(headers),
        ttl=body.ttl,
        adapters=body.adapters(),
        draft=body.draft_model or None,
    )
    # What tokens are called is known to the model only, which tells it with their scores.
    scored = body.echo and (body.logprobs is not None or not isinstance(prompt, str))
    return tuple(
        msgspec.structs.replace(common, sampling=body.sampling(i), score_prompt=scored and i == 0)
        for i in range(body.tries)
    )


def _refuse(body: CompletionsBody, prompts: list[str | tuple[int, ...]]) -> None:
    if body.suffix and not all(isinstance(prompt, str) for prompt in prompts):
        raise UnsupportedParameter(
            "'suffix' is not supported with prompts of token ids.",
            hint="Send the prompt as text.",
            param="suffix",
        )
    if body.suffix and body.echo and body.logprobs is not None:
        raise UnsupportedParameter(
            "'echo' with 'logprobs' is not supported beside 'suffix': the model reads the end of the "
            "text before what is to be scored.",
            param="echo",
        )
    if body.tries < body.n:
        raise InvalidValue("'best_of' must be at least 'n'.", param="best_of")
    if body.tries > body.n and body.stream:
        raise UnsupportedParameter(
            "'best_of' cannot be streamed: the best is not known before the end.", param="best_of"
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
