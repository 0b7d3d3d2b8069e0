"""OpenAI's Responses, through the openai SDK."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import openai
from openai.resources.responses import Responses

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

if TYPE_CHECKING:
    from lmnb.client import Client


def connect(client: Client) -> Responses:
    """The SDK's resource. A request is never tried again unasked: the answer would start anew."""
    return client.openai().with_options(max_retries=0).responses


def stream(resource: Responses, request: Request) -> Generator[Part, None, None]:
    """Ask with `POST /v1/responses`, streaming.

    The whole conversation is sent each time and nothing is stored in the server: the notebook
    holds the conversation, including answers that were interrupted. The API has no seed; it
    travels in `extra_body`.
    """
    options: dict[str, Any] = request.given("temperature", "top_p")
    if request.system is not None:
        options["instructions"] = request.system
    if request.max_tokens is not None:
        options["max_output_tokens"] = request.max_tokens
    try:
        with (
            connection_errors(),
            resource.create(
                model=request.model,
                input=[_item(turn) for turn in request.turns],
                store=False,
                stream=True,
                extra_body=request.given("seed"),
                **options,
            ) as events,
        ):
            yield from _parts(events)
    except openai.APIConnectionError as error:
        raise server_gone() from error
    except openai.APIError as error:
        raise failure(error_message(error), error.code) from error


def error_message(error: Any) -> str:
    """The server's own message of an `openai.APIError`, without the SDK's wrapping."""
    body = error.body
    return str(body["message"] if isinstance(body, dict) and "message" in body else error.message)


def _parts(events: Any) -> Generator[Part, None, None]:
    for event in events:
        match event.type:
            case "response.output_text.delta":
                yield Text(event.delta)
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                yield Thinking(event.delta)
            case "response.completed":
                yield End("completed", _usage(event.response.usage))
                return
            case "response.incomplete":
                details = event.response.incomplete_details
                reason = (details and details.reason) or "incomplete"
                yield End(reason, _usage(event.response.usage))
                return
            case "response.failed":
                error = event.response.error
                raise failure(error.message, error.code)
            case "error":
                raise failure(event.message, event.code)
    raise server_gone()


def _usage(usage: Any) -> Usage | None:
    if usage is None:
        return None
    return Usage(
        input=usage.input_tokens,
        output=usage.output_tokens,
        cached=usage.input_tokens_details.cached_tokens,
        reasoning=usage.output_tokens_details.reasoning_tokens,
    )


def _item(turn: dict[str, str]) -> Any:
    return {"role": turn["role"], "content": turn["content"]}
