"""Anthropic's Messages, through the anthropic SDK."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import anthropic
from anthropic.resources.messages import Messages

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

AS_MUCH_AS_FITS = 1_000_000
"""`max_tokens` is required by this API; the server clamps it to what the context leaves."""


def connect(client: Client) -> Messages:
    """The SDK's resource. A request is never tried again unasked: the answer would start anew."""
    return client.anthropic().with_options(max_retries=0).messages


def stream(resource: Messages, request: Request) -> Generator[Part, None, None]:
    """Ask with `POST /v1/messages`, streaming.

    The SDK has had no sampling arguments since its version 2; they travel in `extra_body`.
    """
    options: dict[str, Any] = request.given("system")
    try:
        with (
            connection_errors(),
            resource.create(
                model=request.model,
                max_tokens=request.max_tokens or AS_MUCH_AS_FITS,
                messages=[_message(turn) for turn in request.turns],
                stream=True,
                extra_body=request.given("temperature", "top_p", "seed"),
                **options,
            ) as events,
        ):
            yield from _parts(events)
    except anthropic.APIConnectionError as error:
        raise server_gone() from error
    except anthropic.APIStatusError as error:
        raise failure(error.api_message or error.message) from error


def _parts(events: Any) -> Generator[Part, None, None]:
    usage: dict[str, int] = {}
    for event in events:
        match event.type:
            case "message_start":
                _count(usage, event.message.usage)
            case "content_block_delta" if event.delta.type == "text_delta":
                yield Text(event.delta.text)
            case "content_block_delta" if event.delta.type == "thinking_delta":
                yield Thinking(event.delta.thinking)
            case "message_delta":
                _count(usage, event.usage)
                if event.delta.stop_reason:
                    yield End(event.delta.stop_reason, _usage(usage))
                    return
    raise server_gone()


def _count(usage: dict[str, int], reported: Any) -> None:
    """Later counts replace earlier ones; a field that is not repeated keeps its value."""
    for name in (
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    ):
        if (value := getattr(reported, name, None)) is not None:
            usage[name] = value


def _usage(counts: dict[str, int]) -> Usage:
    """`input_tokens` of this API leaves out what was cached; ours includes it."""
    cached = counts.get("cache_read_input_tokens", 0)
    written = counts.get("cache_creation_input_tokens", 0)
    return Usage(
        input=counts.get("input_tokens", 0) + cached + written,
        output=counts.get("output_tokens", 0),
        cached=cached,
    )


def _message(turn: dict[str, str]) -> Any:
    return {"role": turn["role"], "content": turn["content"]}
