"""The frames of streamed answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from typing import Protocol

import msgspec

from lmnb.chat.events import Event
from lmnb.errors import LmnbError
from lmnb.server.errors import openai_body
from lmnb.server.openai.fan_out import Merged
from lmnb.server.sse import DONE, Frames, frame


def error_frame(error: LmnbError) -> bytes:
    """An error in mid-stream: SDKs raise on the top-level key `error`."""
    return frame(openai_body(error))


class Writer(Protocol):
    """Turns merged events into the chunks of one response."""

    def start(self) -> Iterator[msgspec.Struct]:
        """Chunks that come before all events."""
        ...

    def feed(self, index: int, event: Event) -> msgspec.Struct | None:
        """The chunk that says `event` of the `index`-th choice."""
        ...

    def finish(self) -> Iterator[msgspec.Struct]:
        """Chunks that come after all events."""
        ...


async def frames(writer: Writer, events: Merged) -> Frames:
    """The stream of Chat Completions and Completions: nameless events, then `[DONE]`."""
    async with aclosing(events):
        for chunk in writer.start():
            yield frame(chunk)
        async for index, event in events:
            news = writer.feed(index, event)
            if news is not None:
                yield frame(news)
    for chunk in writer.finish():
        yield frame(chunk)
    yield DONE
