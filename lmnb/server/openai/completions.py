"""POST /v1/completions: raw prompts, no template."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from lmnb.server.disconnect import until_disconnect
from lmnb.server.generation import begin, generate
from lmnb.server.openai import body as bodies
from lmnb.server.openai.completions_answer import CompletionWriter
from lmnb.server.openai.completions_request import CompletionsBody, translate
from lmnb.server.openai.fan_out import collect, fan_out, is_underway
from lmnb.server.openai.replies import error_frame, frames
from lmnb.server.reply import reply
from lmnb.server.sse import stream
from lmnb.server.state import state_of


async def create(request: Request) -> Response:
    """Continue each prompt, `n` times, whole or streamed."""
    body = await bodies.read(request, CompletionsBody)
    groups = translate(body, request.headers)
    writer = CompletionWriter(
        body.model,
        body.prompts,
        body.n,
        echo=body.echo,
        with_logprobs=body.logprobs is not None,
        with_usage=body.stream_options.include_usage,
    )
    events = fan_out(partial(generate, state_of(request)), groups)
    if body.stream:
        events = await until_disconnect(request, begin(events, ready=is_underway))
        return stream(frames(writer, events), on_error=error_frame)
    answers = await until_disconnect(request, collect(events, len(groups) * body.tries))
    return reply(writer.whole(answers, body.tries))
