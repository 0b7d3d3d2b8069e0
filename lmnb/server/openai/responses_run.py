"""One response on its way: prepared, made, stored, and only then called complete.

The same for a plain answer, a stream, a WebSocket and the background, which differ in who hears of
the events.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from lmnb.chat.conversation import Message
from lmnb.errors import LmnbError
from lmnb.server.conversations import ConversationStore, Item
from lmnb.server.database import Execute
from lmnb.server.mcp.steps import Step
from lmnb.server.openai.responses_events import ResponseEvent
from lmnb.server.openai.responses_mcp_past import NOTHING, McpPast, mcp_items
from lmnb.server.openai.responses_objects import ResponseObject
from lmnb.server.openai.responses_past import Past, Recent
from lmnb.server.openai.responses_stream import ResponseStream
from lmnb.server.sse import Frames, frame
from lmnb.server.store import NewResponse, ResponseStore


@dataclass(kw_only=True)
class Run:
    """One response on its way.

    conversation
        What is stored with the answer: all messages but `instructions`.
    input
        The items of the request, as they are listed.
    parent
        The stored response that `conversation` probably continues.
    mcp
        What of MCP stands in what it continues.
    recent
        Where to remember the conversation besides.
    """

    answer: ResponseStream
    conversation: tuple[Message, ...]
    input: list[Item]
    responses: ResponseStore
    conversations: ConversationStore
    parent: str | None = None
    mcp: McpPast = NOTHING
    recent: Recent | None = None
    _started: bool = False

    async def events(self, events: AsyncGenerator[Step, None]) -> AsyncGenerator[ResponseEvent]:
        """The whole response. Errors are raised; `failure` tells the client of them."""
        async with aclosing(events):
            for news in self.start():
                yield news
            async for event in events:
                for news in self.answer.feed(event):
                    yield news
        await self.save()
        yield self.answer.end()

    async def whole(self, events: AsyncGenerator[Step, None]) -> ResponseObject:
        """The response when it is complete."""
        async with aclosing(self.events(events)) as news:
            async for _ in news:
                pass
        return self.answer.response

    async def frames(self, events: AsyncGenerator[Step, None]) -> Frames:
        """The response as server-sent events."""
        async with aclosing(self.events(events)) as news:
            async for event in news:
                yield as_frame(event)

    async def failed(self, error: LmnbError) -> Frames:
        """A response that fails before it begins."""
        yield self.on_error(error)

    def start(self) -> Iterator[ResponseEvent]:
        """The events that come before all others."""
        self._started = True
        return self.answer.start()

    def failure(self, error: LmnbError) -> Iterable[ResponseEvent]:
        """The events that end the response because of `error`."""
        begun = [] if self._started else list(self.start())
        self.answer.fail(error)
        return [*begun, self.answer.end()]

    def on_error(self, error: LmnbError) -> bytes:
        """`failure` as server-sent events."""
        return b"".join(as_frame(event) for event in self.failure(error))

    def keep_alive(self, _silent: float) -> bytes:
        """A frame for clients that count events, not comments."""
        return as_frame(self.answer.heartbeat())

    async def save(self, frames: list[bytes] | None = None) -> None:
        """Store the response and append it to its conversation, in one go, as far as is wanted.

        A client may continue the response the moment it hears of its completion.
        """
        response = self.answer.response
        new = self.stored(frames)
        if self.recent is not None:
            items = mcp_items([*self.mcp.items, *self._turn()])
            past = Past(messages=new.messages, stored=new.id, mcp=McpPast(items))
            self.recent.add(new.id, past)
        added = response.status in _ADDED and response.output
        conversation = response.conversation if added else None
        if response.store:
            await self.responses.save(new, also=self._append if conversation else None)
        elif conversation:
            await self.conversations.keep(conversation["id"], self._turn())

    def stored(self, frames: list[bytes] | None = None) -> NewResponse:
        """The response as it is now, as it is stored."""
        return NewResponse(
            id=self.answer.response.id,
            messages=(*self.conversation, *self.answer.messages),
            body=msgspec.to_builtins(self.answer.response),
            previous=self.parent,
            input=self.input,
            frames=frames,
        )

    def _append(self, execute: Execute) -> None:
        response = self.answer.response
        assert response.conversation is not None
        conversation = response.conversation["id"]
        self.conversations.append(execute, conversation, self._turn(), response.id)

    def _turn(self) -> list[Item]:
        output: list[dict[str, Any]] = msgspec.to_builtins(self.answer.response.output)
        return [*self.input, *output]


_ADDED = ("completed", "incomplete")
"""What has ended otherwise, or has only been read, does not become part of its conversation."""


def as_frame(event: ResponseEvent) -> bytes:
    """A server-sent event."""
    return frame(event, event.type)
