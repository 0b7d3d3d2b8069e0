"""POST /v1/chat/completions, and how long its prompt would be."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from lmnb.chat.conversation import Request as Asked
from lmnb.server.attached import attach
from lmnb.server.disconnect import until_disconnect
from lmnb.server.generation import begin, generate
from lmnb.server.openai import body as bodies
from lmnb.server.openai.chat_answer import completion
from lmnb.server.openai.chat_request import ChatBody, translate
from lmnb.server.openai.chat_stream import ChatStream
from lmnb.server.openai.fan_out import collect, fan_out, is_underway
from lmnb.server.openai.replies import error_frame, frames
from lmnb.server.reading import count_tokens
from lmnb.server.reply import reply
from lmnb.server.sse import stream
from lmnb.server.state import state_of


async def read(request: Request) -> tuple[ChatBody, tuple[Asked, ...]]:
    """The body, and what it asks for, as often as it asks."""
    body = await bodies.read(request, ChatBody)
    messages = await attach(body.messages, state_of(request).files)
    return body, translate(body.model_copy(update={"messages": messages}), request.headers)


async def input_tokens(request: Request) -> Response:
    """POST /v1/chat/completions/input_tokens, llama.cpp's: how long the prompt would be."""
    _, wanted = await read(request)
    count = await until_disconnect(request, count_tokens(state_of(request), wanted[0]))
    return reply({"object": "chat.completion.input_tokens", "input_tokens": count})


async def create(request: Request) -> Response:
    """Answer a conversation, `n` times, whole or streamed."""
    body, wanted = await read(request)
    state = state_of(request)
    events = fan_out(partial(generate, state), [wanted])
    with_logprobs = wanted[0].logprobs is not None
    toolbox = body.toolbox
    if body.stream:
        events = await until_disconnect(request, begin(events, ready=is_underway))
        writer = ChatStream(
            body.model,
            body.n,
            toolbox,
            with_logprobs=with_logprobs,
            with_usage=body.stream_options.include_usage,
            with_progress=body.return_progress,
        )
        return stream(frames(writer, events), on_error=error_frame)
    answers = await until_disconnect(request, collect(events, body.n))
    whole = completion(body.model, answers, toolbox, with_logprobs=with_logprobs)
    return reply(whole)
