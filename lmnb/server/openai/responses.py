"""POST /v1/responses, and what was stored by it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lmnb.chat.conversation import Message
from lmnb.chat.events import Event
from lmnb.errors import ContextOverflow, LmnbError, NotFound
from lmnb.server.disconnect import until_disconnect
from lmnb.server.generation import begin, generate
from lmnb.server.openai import body as bodies
from lmnb.server.openai.errors import (
    PreviousResponseNotFound,
    ResponseNotFound,
    UnsupportedParameter,
)
from lmnb.server.openai.replies import reply
from lmnb.server.openai.responses_events import ResponseEvent
from lmnb.server.openai.responses_items import resolve
from lmnb.server.openai.responses_objects import ResponseObject, in_progress
from lmnb.server.openai.responses_request import SEALED_REASONING, ResponsesBody, translate
from lmnb.server.openai.responses_stream import ResponseStream
from lmnb.server.sse import Frames, frame, stream
from lmnb.server.state import state_of
from lmnb.server.store import ResponseStore


async def create(request: Request) -> Response:
    """Answer, whole or streamed, and remember the answer unless told not to."""
    body = await bodies.read(request, ResponsesBody)
    state = state_of(request)
    body = body.model_copy(update={"input": await resolve(body.input, state.responses)})
    history = await _history(state.responses, body.previous_response_id)
    wanted, conversation = translate(body, request.headers, history)
    sealed = SEALED_REASONING in body.include
    answer = ResponseStream(in_progress(body), body.toolbox, sealed=sealed)
    run = Run(answer, conversation, state.responses)
    events = generate(state, wanted)
    if not body.stream:
        return reply(await until_disconnect(request, run.whole(events)))
    try:
        frames = run.frames(await until_disconnect(request, begin(events)))
    except ContextOverflow as error:
        # Codex compacts on the failed response; a status of 400 would end its turn.
        frames = run.failed(error)
    return stream(frames, on_error=run.on_error, keep_alive=run.keep_alive)


async def retrieve(request: Request) -> Response:
    """GET /v1/responses/{id}."""
    if request.query_params.get("stream") == "true":
        raise UnsupportedParameter(
            "'stream' is not supported: stored responses are not streamed again.", param="stream"
        )
    id_ = request.path_params["id"]
    try:
        stored = await state_of(request).responses.load(id_)
    except NotFound:
        raise _not_found(id_) from None
    if stored.body is None:  # a chat of another protocol
        raise _not_found(id_)
    return reply(stored.body)


async def delete(request: Request) -> Response:
    """DELETE /v1/responses/{id}."""
    id_ = request.path_params["id"]
    try:
        await state_of(request).responses.delete(id_)
    except NotFound:
        raise _not_found(id_) from None
    return reply({"id": id_, "object": "response", "deleted": True})


@dataclass
class Run:
    """One response on its way: made, stored, and only then called complete."""

    answer: ResponseStream
    conversation: tuple[Message, ...]
    store: ResponseStore
    started: bool = False

    async def whole(self, events: AsyncGenerator[Event, None]) -> ResponseObject:
        async with aclosing(events):
            async for event in events:
                for _ in self.answer.feed(event):
                    pass
        await self._save()
        return self.answer.response

    async def frames(self, events: AsyncGenerator[Event, None]) -> Frames:
        async with aclosing(events):
            self.started = True
            for news in self.answer.start():
                yield _frame(news)
            async for event in events:
                for news in self.answer.feed(event):
                    yield _frame(news)
        await self._save()
        yield _frame(self.answer.end())

    async def failed(self, error: LmnbError) -> Frames:
        yield self.on_error(error)

    def on_error(self, error: LmnbError) -> bytes:
        news = [] if self.started else list(self.answer.start())
        return b"".join(_frame(event) for event in (*news, self.answer.fail(error)))

    def keep_alive(self, _silent: float) -> bytes:
        return _frame(self.answer.heartbeat())

    async def _save(self) -> None:
        """A client may continue the response the moment it hears of its completion."""
        response = self.answer.response
        if response.store:
            messages = (*self.conversation, self.answer.message())
            body = msgspec.to_builtins(response)
            await self.store.save(response.id, messages, body, response.previous_response_id)


async def _history(store: ResponseStore, previous: str | None) -> tuple[Message, ...]:
    if previous is None:
        return ()
    try:
        return (await store.load(previous)).messages
    except NotFound:
        raise PreviousResponseNotFound(
            f"Previous response with id '{previous}' not found.", param="previous_response_id"
        ) from None


def _frame(event: ResponseEvent) -> bytes:
    return frame(event, event.type)


def _not_found(id_: str) -> ResponseNotFound:
    return ResponseNotFound(f"Response with id '{id_}' not found.", param="id")
