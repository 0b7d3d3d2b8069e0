"""OpenAI's Chat Completions, through the openai SDK."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState
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
from lmnb.notebook.responses import effort, error_message, tokens
from lmnb.notebook.turns import Call, Turn

if TYPE_CHECKING:
    from lmnb.client import Client


def connect(client: Client) -> Completions:
    """The SDK's resource. A request is never tried again unasked: the answer would start anew."""
    return client.openai().with_options(max_retries=0).chat.completions


def stream(resource: Completions, request: Request) -> Generator[Part, None, None]:
    """Ask with `POST /v1/chat/completions`, streaming."""
    try:
        with (
            connection_errors(),
            resource.create(
                model=request.model,
                messages=_messages(request),
                stream=True,
                stream_options={"include_usage": True},
                **_options(request),
            ) as chunks,
        ):
            yield from _parts(chunks)
    except openai.APIConnectionError as error:
        raise server_gone() from error
    except openai.APIError as error:
        raise failure(error_message(error), error.code) from error


def _options(request: Request) -> dict[str, Any]:
    options: dict[str, Any] = request.given("temperature", "top_p", "seed")
    if request.max_tokens is not None:
        options["max_completion_tokens"] = request.max_tokens
    if request.tools:
        options["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.schema,
                },
            }
            for tool in request.tools
        ]
    if request.schema is not None:
        form = {"name": "answer", "schema": request.schema}
        options["response_format"] = {"type": "json_schema", "json_schema": form}
    if request.logprobs is not None:
        options |= {"logprobs": True, "top_logprobs": request.logprobs}
    if (thinking := request.thinking) is not None:
        options["reasoning_effort"] = effort(thinking)
        if isinstance(thinking, int) and not isinstance(thinking, bool):
            options["extra_body"] = {"reasoning": {"max_tokens": thinking}}
    return options


def _messages(request: Request) -> Any:
    system = [{"role": "system", "content": request.system}] if request.system is not None else []
    return [*system, *map(_message, request.turns)]


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn["role"], "content": turn["content"]}
    if turn["role"] == "tool":
        message["tool_call_id"] = turn["call_id"]
    if images := turn.get("images"):
        parts = [{"type": "image_url", "image_url": {"url": picture.url}} for picture in images]
        message["content"] = [*parts, {"type": "text", "text": turn["content"]}]
    if calls := turn.get("calls"):
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in calls
        ]
        if thought := turn.get("thinking"):
            message["reasoning_content"] = thought
    return message


def _parts(chunks: Any) -> Generator[Part, None, None]:
    reason: str | None = None
    usage: Usage | None = None
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in chunks:
        usage = _usage(chunk.usage) or usage
        state.handle_chunk(chunk)
        for choice in chunk.choices:
            # The SDK's types do not know it; local servers send the thinking this way.
            if thinking := getattr(choice.delta, "reasoning_content", None):
                yield Thinking(thinking)
            if choice.delta.content:
                scored = choice.logprobs and choice.logprobs.content
                yield Text(choice.delta.content, tokens(scored))
            reason = choice.finish_reason or reason
    if reason is None:
        raise server_gone()
    raw = state.current_completion_snapshot
    calls = _calls(raw) if reason == "tool_calls" else []
    yield End(reason, usage, reason != "length", calls, raw=raw)


def _calls(completion: Any) -> list[Call]:
    return [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in completion.choices[0].message.tool_calls or ()
    ]


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
