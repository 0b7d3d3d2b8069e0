"""The official SDK fed with what our writers make of synthetic events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

import httpx2
import msgspec
import openai

from lmnb.chat.events import Event, Finished, FinishReason, Timings, Usage
from lmnb.engine.options import TokenLogprob
from lmnb.server.openai.chat_answer import completion
from lmnb.server.openai.chat_stream import ChatStream
from lmnb.server.openai.fan_out import collect
from lmnb.server.openai.replies import frames
from lmnb.server.openai.responses_objects import in_progress
from lmnb.server.openai.responses_request import ReasoningFields, ResponsesBody
from lmnb.server.openai.responses_stream import ResponseStream
from lmnb.server.openai.toolbox import NO_TOOLS, Toolbox
from lmnb.server.sse import frame

Indexed = tuple[int, Event]


def finished(reason: FinishReason = "stop", *, output: int = 3, reasoning: int = 0) -> Finished:
    return Finished(
        reason=reason,
        usage=Usage(input=10, cached=4, output=output, reasoning=reasoning),
        timings=Timings(queue=0.0, prompt=0.1, first_token=0.2, generation=0.5),
    )


def logprob(text: str) -> TokenLogprob:
    raw = text.encode()
    return TokenLogprob(text, raw, -0.5, ((text, raw, -0.5), ("other", b"other", float("-inf"))))


def sdk(body: bytes, content_type: str = "text/event-stream") -> openai.OpenAI:
    """A strict client whose server answers everything with `body`."""

    def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=body, headers={"content-type": content_type})

    return openai.OpenAI(
        api_key="lm-studio",
        base_url="http://synthetic/v1",
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
        _strict_response_validation=True,
    )


async def _each(events: Iterable[Indexed]) -> AsyncGenerator[Indexed, None]:
    for event in events:
        yield event


def chat_frames(
    events: Iterable[Indexed],
    *,
    choices: int = 1,
    toolbox: Toolbox = NO_TOOLS,
    logprobs: bool = False,
    usage: bool = True,
    progress: bool = False,
) -> bytes:
    async def run() -> bytes:
        writer = ChatStream(
            "m",
            choices,
            toolbox,
            with_logprobs=logprobs,
            with_usage=usage,
            with_progress=progress,
        )
        return b"".join([data async for data in frames(writer, _each(events))])

    return asyncio.run(run())


def whole_chat(events: Iterable[Event], toolbox: Toolbox = NO_TOOLS) -> bytes:
    async def run() -> bytes:
        answers = await collect(_each((0, event) for event in events), 1)
        return msgspec.json.encode(completion("m", answers, toolbox, with_logprobs=False))

    return asyncio.run(run())


def response_frames(
    events: Iterable[Event],
    *,
    toolbox: Toolbox = NO_TOOLS,
    sealed: bool = False,
    summary: str | None = None,
    heartbeat_after: int = -1,
) -> bytes:
    body = ResponsesBody(model="m", input="hi", reasoning=ReasoningFields(summary=summary))
    answer = ResponseStream(in_progress(body), toolbox, sealed=sealed)
    sent = list(answer.start())
    for i, event in enumerate(events):
        sent += answer.feed(event)
        if i == heartbeat_after:
            sent.append(answer.heartbeat())
    sent.append(answer.end())
    return b"".join(frame(event, event.type) for event in sent)
