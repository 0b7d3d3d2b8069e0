"""Anthropic's Messages, through the anthropic SDK."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
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
from lmnb.notebook.turns import Call, Picture, Turn

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
    try:
        with (
            connection_errors(),
            resource.stream(
                model=request.model,
                max_tokens=request.max_tokens or AS_MUCH_AS_FITS,
                messages=_messages(request.turns),
                extra_body=request.given("temperature", "top_p", "seed"),
                **_options(request),
            ) as events,
        ):
            yield from _parts(events)
    except anthropic.APIConnectionError as error:
        raise server_gone() from error
    except anthropic.APIStatusError as error:
        raise failure(error.api_message or error.message) from error


def _options(request: Request) -> dict[str, Any]:
    options: dict[str, Any] = request.given("system")
    config: dict[str, Any] = {}
    if request.tools:
        options["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.schema}
            for tool in request.tools
        ]
    if request.schema is not None:
        config["format"] = {"type": "json_schema", "schema": request.schema}
    if request.thinking is False:
        options["thinking"] = {"type": "disabled"}
    elif request.thinking is not None:
        options["thinking"] = {"type": "enabled"}
        if isinstance(request.thinking, str):
            config["effort"] = request.thinking
        elif request.thinking is not True:
            options["thinking"]["budget_tokens"] = request.thinking
    if config:
        options["output_config"] = config
    return options


def _parts(events: Any) -> Generator[Part, None, None]:
    usage: dict[str, int] = {}
    reason: str | None = None
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
                reason = event.delta.stop_reason or reason
    if reason is None:
        raise server_gone()
    yield _end(reason, _usage(usage), events.current_message_snapshot)


def _end(reason: str, usage: Usage, raw: Any) -> End:
    content = raw.content
    complete = reason not in {"max_tokens", "model_context_window_exceeded"}
    calls: list[Call] = [
        {"id": block.id, "name": block.name, "arguments": json.dumps(block.input)}
        for block in content
        if block.type == "tool_use" and reason == "tool_use"
    ]
    signatures = [block.signature for block in content if block.type == "thinking"]
    return End(reason, usage, complete, calls, signatures[-1] if signatures else "", raw)


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


def _messages(turns: Sequence[Turn]) -> list[Any]:
    """Results of tools go into one message of the user."""
    messages: list[Any] = []
    for turn in turns:
        role, content = ("user" if turn["role"] == "tool" else turn["role"]), _content(turn)
        last = messages[-1] if messages else None
        if turn["role"] == "tool" and last is not None and last["role"] == "user":
            last["content"] += content
        else:
            messages.append({"role": role, "content": content})
    return messages


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    if turn["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": turn["call_id"], "content": turn["content"]}
        return [{**result, "is_error": True} if turn.get("failed") else result]
    text = {"type": "text", "text": turn["content"]}
    if images := turn.get("images"):
        return [*map(_image, images), text]
    if calls := turn.get("calls"):
        blocks = [text] if turn["content"].strip() else []
        if thought := turn.get("thinking"):
            signature = turn.get("signature", "")
            blocks.insert(0, {"type": "thinking", "thinking": thought, "signature": signature})
        return [*blocks, *map(_tool_use, calls)]
    return turn["content"]


def _image(picture: Picture) -> dict[str, Any]:
    source = {"type": "base64", "media_type": picture.media_type, "data": picture.base64}
    return {"type": "image", "source": source}


def _tool_use(call: Call) -> dict[str, Any]:
    arguments = json.loads(call["arguments"] or "{}")
    return {"type": "tool_use", "id": call["id"], "name": call["name"], "input": arguments}
