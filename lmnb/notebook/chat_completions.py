"""OpenAI's Chat Completions, through the openai SDK."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import openai
from openai.resources.chat.completions import Completions

from lmnb.notebook.api import (
    End,
    Part,
    Request,
    Text,
    Thinking,
    connection_errors,
    failure,
    server_gone,
)
from lmnb.notebook.reply import Usage
from lmnb.notebook.responses import error_message

if TYPE_CHECKING:
    from lmnb.client import Client


def connect(client: Client) -> Completions:
    """The SDK's resource. A request is never tried again unasked: the answer would start anew."""
    return client.openai().with_options(max_retries=0).chat.completions


def stream(resource: Completions, request: Request) -> Generator[Part, None, None]:
    """Ask with `POST /v1/chat/completions`, streaming."""
    options: dict[str, Any] = request.given("temperature", "top_p", "seed")
    if request.max_tokens is not None:
        options["max_completion_tokens"] = request.max_tokens
    try:
        with (
            connection_errors(),
            resource.create(
                model=request.model,
                messages=_messages(request),
                stream=True,
                stream_options={"include_usage": True},
                **options,
            ) as chunks,
        ):
            yield from _parts(chunks)
    except openai.APIConnectionError as error:
        raise server_gone() from error
    except openai.APIError as error:
        raise failure(error_message(error), error.code) from error


def _messages(request: Request) -> Any:
    system = [{"role": "system", "content": request.system}] if request.system is not None else []
    return [*system, *request.turns]


def _parts(chunks: Any) -> Generator[Part, None, None]:
    reason: str | None = None
    usage: Usage | None = None
    for chunk in chunks:
        usage = _usage(chunk.usage) or usage
        for choice in chunk.choices:
            # The SDK's types do not know it; local servers send the thinking this way.
            if thinking := getattr(choice.delta, "reasoning_content", None):
                yield Thinking(thinking)
            if choice.delta.content:
                yield Text(choice.delta.content)
            reason = choice.finish_reason or reason
    if reason is None:
        raise server_gone()
    yield End(reason, usage)


def _usage(usage: Any) -> Usage | None:
    if usage is None:
        return None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        input=usage.prompt_tokens,
        output=usage.completion_tokens,
        cached=(prompt and prompt.cached_tokens) or 0,
        reasoning=(completion and completion.reasoning_tokens) or 0,
    )
