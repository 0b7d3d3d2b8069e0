"""The official SDK fed with what our writers make of synthetic events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import anthropic
import httpx2
import msgspec

from lmnb.chat.events import Event, Finished, FinishReason, Timings, Usage
from lmnb.server.anthropic.answer import Form, message
from lmnb.server.anthropic.stream import MessageStream
from lmnb.server.generation import fold


def finished(reason: FinishReason = "stop", stop: str | None = None) -> Finished:
    return Finished(
        reason=reason,
        usage=Usage(input=10, cached=4, output=3, reasoning=1),
        timings=Timings(queue=0.0, prompt=0.1, first_token=0.2, generation=0.5),
        stop=stop,
    )


def sdk(body: bytes, content_type: str = "text/event-stream") -> anthropic.Anthropic:
    """A strict client whose server answers everything with `body`."""

    def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=body, headers={"content-type": content_type})

    return anthropic.Anthropic(
        api_key="lm-studio",
        base_url="http://synthetic",
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
        _strict_response_validation=True,
    )


async def each(events: Iterable[Event]) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event


def frames(events: Iterable[Event], *, hide_thinking: bool = False) -> bytes:
    async def run() -> bytes:
        writer = MessageStream("m", "req_1", Form(hides_thinking=hide_thinking))
        return b"".join([data async for data in writer.frames(each(events))])

    return asyncio.run(run())


def whole(events: Iterable[Event], *, hide_thinking: bool = False) -> bytes:
    async def run() -> bytes:
        answer = await fold(each(events))
        return msgspec.json.encode(message(answer, "m", Form(hides_thinking=hide_thinking)))

    return asyncio.run(run())


def parse(stream: bytes) -> list[tuple[str, Any]]:
    """The events of a stream: names and data."""
    found = []
    for block in stream.decode().split("\n\n"):
        lines = block.splitlines()
        if lines and not lines[0].startswith(":"):
            assert [line.partition(": ")[0] for line in lines] == ["event", "data"]
            found.append((lines[0][7:], msgspec.json.decode(lines[1][6:])))
    return found
