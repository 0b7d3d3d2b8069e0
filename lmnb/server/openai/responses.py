"""POST /v1/responses, and what is done with responses by their ids."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lmnb.errors import ContextOverflow, NotFound
from lmnb.server.conversations import Item
from lmnb.server.disconnect import until_disconnect
from lmnb.server.generation import begin
from lmnb.server.openai import body as bodies
from lmnb.server.openai import responses_background as background
from lmnb.server.openai.errors import InvalidValue, ResponseNotFound, UnsupportedParameter
from lmnb.server.openai.paging import items_page
from lmnb.server.openai.responses_objects import with_sealed_reasoning
from lmnb.server.openai.responses_prepare import Source, prepare
from lmnb.server.openai.responses_request import SEALED_REASONING, ResponsesBody
from lmnb.server.reply import reply
from lmnb.server.sse import stream
from lmnb.server.state import State, state_of


async def create(request: Request) -> Response:
    """Answer, whole or streamed or in the background; remember the answer unless told not to."""
    body = await bodies.read(request, ResponsesBody)
    state = state_of(request)
    run, source = await prepare(state, body, request)
    if body.background:
        job = await background.begin(state, run, source)
        if not body.stream:
            return reply(run.answer.response)
        frames = background.follow(job, -1)
        return stream(frames, on_error=background.on_error)
    events = source.events()
    if not body.stream:
        return reply(await until_disconnect(request, run.whole(events)))
    try:
        frames = run.frames(await until_disconnect(request, begin(events)))
    except ContextOverflow as error:
        # Codex compacts on the failed response; a status of 400 would end its turn.
        frames = run.failed(error)
    return stream(frames, on_error=run.on_error, keep_alive=run.keep_alive)


async def retrieve(request: Request) -> Response:
    """GET /v1/responses/{id}: the response as it is now, or its events from some place on."""
    state, id_ = state_of(request), request.path_params["id"]
    if request.query_params.get("stream") == "true":
        return await _stream_again(request, state, id_)
    if (job := background.find(state, id_)) is not None:
        body = msgspec.to_builtins(await job.snapshot())
    else:
        body = await _load(state, id_)
    wanted = request.query_params
    if SEALED_REASONING in (*wanted.getlist("include"), *wanted.getlist("include[]")):
        body = with_sealed_reasoning(body)
    return reply(body)


async def delete(request: Request) -> Response:
    """DELETE /v1/responses/{id}. One that is being made is stopped first."""
    state, id_ = state_of(request), request.path_params["id"]
    if (job := background.find(state, id_)) is not None:
        await job.cancel()
    try:
        await state.responses.delete(id_)
    except NotFound:
        raise _not_found(id_) from None
    return reply({"id": id_, "object": "response", "deleted": True})


async def cancel(request: Request) -> Response:
    """POST /v1/responses/{id}/cancel: one in the background; one that has ended stays as it is."""
    state, id_ = state_of(request), request.path_params["id"]
    if (job := background.find(state, id_)) is not None:
        return reply(await job.cancel())
    body = await _load(state, id_)
    if not body["background"]:
        raise InvalidValue("Only responses in the background can be cancelled.", param="id")
    return reply(body)


async def input_items(request: Request) -> Response:
    """GET /v1/responses/{id}/input_items: what it was made from, with what it continues."""
    state, id_ = state_of(request), request.path_params["id"]
    if (job := background.find(state, id_)) is not None:
        items = [*await _before(state, job.run.parent), *job.run.input]
        return reply(items_page(items, request.query_params))
    await _load(state, id_)
    return reply(items_page(await state.responses.input(id_), request.query_params))


async def source_of(request: Request) -> Source:
    """What would make the response that the body asks for."""
    body = await bodies.read(request, ResponsesBody)
    return (await prepare(state_of(request), body, request))[1]


async def input_tokens(request: Request) -> Response:
    """POST /v1/responses/input_tokens: how long the prompt of such a request would be."""
    count = await until_disconnect(request, (await source_of(request)).count_tokens())
    return reply({"object": "response.input_tokens", "input_tokens": count})


async def compact(_request: Request) -> Response:
    """POST /v1/responses/compact."""
    raise NotFound(
        "Conversations are not compacted here.",
        hint="Ask the model for a summary, and go on with that.",
    )


async def _stream_again(request: Request, state: State, id_: str) -> Response:
    after = _starting_after(request.query_params.get("starting_after"))
    if (job := background.find(state, id_)) is not None:
        frames = background.follow(job, after)
    else:
        await _load(state, id_)
        stored = await state.responses.frames(id_)
        if stored is None:
            raise UnsupportedParameter(
                "Only responses in the background can be streamed again.", param="stream"
            )
        frames = background.replay(stored, after)
    return stream(frames, on_error=background.on_error)


async def _before(state: State, parent: str | None) -> list[Item]:
    """The items up to and including the answer that is continued."""
    try:
        stored = await state.responses.load(parent or "")
    except NotFound:
        return []
    return [*await state.responses.input(stored.id), *(stored.body or {}).get("output", ())]


def _starting_after(given: str | None) -> int:
    if given is None:
        return -1
    if given.isascii() and given.isdigit():
        return int(given[:18])
    raise InvalidValue(
        f"Invalid value for 'starting_after': expected a sequence number, got '{given}'.",
        param="starting_after",
    )


async def _load(state: State, id_: str) -> dict[str, object]:
    """The body of a stored response."""
    try:
        body = (await state.responses.load(id_)).body
    except NotFound:
        raise _not_found(id_) from None
    if body is None:  # a chat of another protocol
        raise _not_found(id_)
    return body


def _not_found(id_: str) -> ResponseNotFound:
    return ResponseNotFound(f"Response with id '{id_}' not found.", param="id")
