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
from starlette.datastructures import Headers

from lmnb.chat.conversation import Message, Request
from lmnb.chat.events import Event
from lmnb.errors import LmnbError, NotFound
from lmnb.server.attached import attach
from lmnb.server.conversations import ConversationStore, Item
from lmnb.server.database import Execute
from lmnb.server.openai.errors import ConversationNotFound, PreviousResponseNotFound
from lmnb.server.openai.responses_events import ResponseEvent
from lmnb.server.openai.responses_input import listed
from lmnb.server.openai.responses_items import Find, resolve
from lmnb.server.openai.responses_items import translate as translate_items
from lmnb.server.openai.responses_objects import ResponseObject, in_progress
from lmnb.server.openai.responses_request import SEALED_REASONING, ResponsesBody, translate
from lmnb.server.openai.responses_stream import ResponseStream
from lmnb.server.sse import Frames, frame
from lmnb.server.state import State
from lmnb.server.store import NewResponse, ResponseStore


class Recent:
    """Conversations of a connection's latest responses, which may not be stored anywhere else."""

    KEPT = 32

    def __init__(self) -> None:
        self._conversations: dict[str, tuple[Message, ...]] = {}

    def add(self, id_: str, messages: tuple[Message, ...]) -> None:
        """Remember the conversation that ends with the response of that id."""
        self._conversations[id_] = messages
        while len(self._conversations) > self.KEPT:
            del self._conversations[next(iter(self._conversations))]

    def find(self, id_: str) -> tuple[Message, ...] | None:
        """The conversation, if it is remembered."""
        return self._conversations.get(id_)


@dataclass(frozen=True, kw_only=True)
class Past:
    """What a response continues; `stored` is the stored response with exactly these messages."""

    messages: tuple[Message, ...] = ()
    stored: str | None = None


async def prepare(
    state: State, body: ResponsesBody, headers: Headers, recent: Recent | None = None
) -> tuple[Run, Request]:
    """The response that `body` asks for, not begun yet, and the request that makes it.

    Raises
    ------
    InvalidRequest, NotFound
        Something in the body is wrong, or what it refers to is not stored.
    """
    body = await resolved(state, body)
    past = await past_of(state, body, recent)
    wanted, conversation = translate(await with_files(state, body), headers, past.messages)
    answer = ResponseStream(
        in_progress(body),
        body.toolbox,
        sealed=SEALED_REASONING in body.include,
        prefill=not body.generate,
    )
    run = Run(
        answer=answer,
        conversation=conversation,
        input=listed(body.input),
        responses=state.responses,
        conversations=state.conversations,
        parent=past.stored,
        recent=recent,
    )
    return run, wanted


async def resolved(state: State, body: ResponsesBody) -> ResponsesBody:
    """The body with items in the places of references to them."""
    return body.model_copy(update={"input": await resolve(body.input, find_item(state))})


async def with_files(state: State, body: ResponsesBody) -> ResponsesBody:
    """The body with the content of stored files in the places of their ids."""
    return body.model_copy(update={"input": await attach(body.input, state.files)})


def find_item(state: State) -> Find:
    """Finds stored items, of responses or conversations."""

    async def find(id_: str) -> Item:
        try:
            return await state.responses.item(id_)
        except NotFound:
            return await state.conversations.item(id_)

    return find


async def past_of(state: State, body: ResponsesBody, recent: Recent | None = None) -> Past:
    """What `body` continues.

    Raises
    ------
    PreviousResponseNotFound, ConversationNotFound
        It is not stored.
    NotFound, PayloadTooLarge
        A file that the conversation refers to was deleted, or all of them are too large.
    """
    if (previous := body.previous_response_id) is not None:
        if recent is not None and (known := recent.find(previous)) is not None:
            return Past(messages=known, stored=previous)
        try:
            return Past(messages=(await state.responses.load(previous)).messages, stored=previous)
        except NotFound:
            raise PreviousResponseNotFound(
                f"Previous response with id '{previous}' not found.",
                hint="It is still being made in the background."
                if state.background.find(previous)
                else None,
                param="previous_response_id",
            ) from None
    if body.conversation is None:
        return Past()
    try:
        contents = await state.conversations.contents(body.conversation)
    except NotFound as error:
        raise ConversationNotFound(error.message, param="conversation") from None
    items = await attach(contents.items, state.files)
    return Past(messages=translate_items(items, "conversation"), stored=contents.latest)


@dataclass(kw_only=True)
class Run:
    """One response on its way.

    conversation
        What is stored with the answer: all messages but `instructions`.
    input
        The items of the request, as they are listed.
    parent
        The stored response that `conversation` probably continues.
    recent
        Where to remember the conversation besides.
    """

    answer: ResponseStream
    conversation: tuple[Message, ...]
    input: list[Item]
    responses: ResponseStore
    conversations: ConversationStore
    parent: str | None = None
    recent: Recent | None = None
    _started: bool = False

    async def events(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[ResponseEvent]:
        """The whole response. Errors are raised; `failure` tells the client of them."""
        async with aclosing(events):
            for news in self.start():
                yield news
            async for event in events:
                for news in self.answer.feed(event):
                    yield news
        await self.save()
        yield self.answer.end()

    async def whole(self, events: AsyncGenerator[Event, None]) -> ResponseObject:
        """The response when it is complete."""
        async with aclosing(self.events(events)) as news:
            async for _ in news:
                pass
        return self.answer.response

    async def frames(self, events: AsyncGenerator[Event, None]) -> Frames:
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
            self.recent.add(new.id, new.messages)
        added = response.status in _ADDED and response.output
        conversation = response.conversation if added else None
        if response.store:
            await self.responses.save(new, also=self._append if conversation else None)
        elif conversation:
            await self.conversations.keep(conversation["id"], self._turn())

    def stored(self, frames: list[bytes] | None = None) -> NewResponse:
        """The response as it is now, as it is stored."""
        said = self.answer.message()
        return NewResponse(
            id=self.answer.response.id,
            messages=(*self.conversation, said) if said.parts else self.conversation,
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
