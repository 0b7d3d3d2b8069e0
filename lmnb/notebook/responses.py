"""OpenAI's Responses, through the openai SDK."""

from __future__ import annotations

from collections.abc import Generator, Iterator
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
from lmnb.notebook.tokens import Token
from lmnb.notebook.turns import Call, Turn

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
    try:
        with (
            connection_errors(),
            resource.create(
                model=request.model,
                input=[item for turn in request.turns for item in _items(turn)],
                store=False,
                stream=True,
                extra_body=request.given("seed"),
                **_options(request),
            ) as events,
        ):
            yield from _parts(events)
    except openai.APIConnectionError as error:
        raise server_gone() from error
    except openai.APIError as error:
        raise failure(error_message(error), error.code) from error


def _options(request: Request) -> dict[str, Any]:
    options: dict[str, Any] = request.given("temperature", "top_p")
    if request.system is not None:
        options["instructions"] = request.system
    if request.max_tokens is not None:
        options["max_output_tokens"] = request.max_tokens
    if request.tools:
        options["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.schema,
                "strict": False,
            }
            for tool in request.tools
        ]
    if request.schema is not None:
        form = {"type": "json_schema", "name": "answer", "schema": request.schema}
        options["text"] = {"format": form}
    if request.logprobs is not None:
        options["include"] = ["message.output_text.logprobs"]
        options["top_logprobs"] = request.logprobs
    if (thinking := request.thinking) is not None:
        options["reasoning"] = {"effort": effort(thinking)}
        if isinstance(thinking, int) and not isinstance(thinking, bool):
            options["reasoning"]["max_tokens"] = thinking
    return options


def effort(thinking: bool | int | str) -> str:
    """How hard to think, in OpenAI's words, which have no switch and no budget."""
    return thinking if isinstance(thinking, str) else "medium" if thinking else "none"


def tokens(entries: Any) -> list[Token]:
    """The SDK's log probabilities, of both of OpenAI's APIs; None is none."""
    return [
        Token(one.token, one.logprob, tuple((top.token, top.logprob) for top in one.top_logprobs))
        for one in entries or ()
    ]


def error_message(error: Any) -> str:
    """The server's own message of an `openai.APIError`, without the SDK's wrapping."""
    body = error.body
    return str(body["message"] if isinstance(body, dict) and "message" in body else error.message)


def _parts(events: Any) -> Generator[Part, None, None]:
    for event in events:
        match event.type:
            case "response.output_text.delta":
                yield Text(event.delta, tokens(event.logprobs))
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                yield Thinking(event.delta)
            case "response.completed":
                calls, usage = _calls(event.response.output), _usage(event.response.usage)
                yield End("completed", usage, calls=calls, raw=event.response)
                return
            case "response.incomplete":
                details = event.response.incomplete_details
                reason = (details and details.reason) or "incomplete"
                usage = _usage(event.response.usage)
                yield End(reason, usage, complete=False, raw=event.response)
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


def _calls(output: Any) -> list[Call]:
    return [
        {"id": item.call_id, "name": item.name, "arguments": item.arguments}
        for item in output
        if item.type == "function_call"
    ]


def _items(turn: Turn) -> Iterator[Any]:
    if turn["role"] == "tool":
        output = turn["content"]
        yield {"type": "function_call_output", "call_id": turn["call_id"], "output": output}
        return
    if images := turn.get("images"):
        parts = [{"type": "input_image", "image_url": picture.url} for picture in images]
        text = {"type": "input_text", "text": turn["content"]}
        yield {"role": turn["role"], "content": [*parts, text]}
        return
    calls = turn.get("calls", [])
    if thought := turn.get("thinking"):
        content = [{"type": "reasoning_text", "text": thought}]
        yield {"type": "reasoning", "id": "rs_0", "summary": [], "content": content}
    if turn["content"].strip() or not calls:
        yield {"role": turn["role"], "content": turn["content"]}
    for call in calls:
        fields = {"call_id": call["id"], "name": call["name"], "arguments": call["arguments"]}
        yield {"type": "function_call", **fields}
