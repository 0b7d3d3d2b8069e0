"""POST /v1/messages and /v1/messages/count_tokens.

Query strings (`?beta=true`) and the headers `anthropic-version` and `anthropic-beta` mean nothing here.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.chat.conversation import Request as Asked
from lmnb.errors import ModelNotFound
from lmnb.server.anthropic import batches
from lmnb.server.anthropic.answer import Form, message
from lmnb.server.anthropic.schema import CountBody, MessagesBody
from lmnb.server.anthropic.stream import MessageStream
from lmnb.server.anthropic.translate import translate
from lmnb.server.attached import attach
from lmnb.server.body import read
from lmnb.server.disconnect import until_disconnect
from lmnb.server.errors import request_id
from lmnb.server.generation import begin, fold, generate
from lmnb.server.reading import count_tokens
from lmnb.server.remote import routing
from lmnb.server.reply import reply
from lmnb.server.sse import stream
from lmnb.server.state import State, state_of

router = APIRouter()

B = TypeVar("B", bound=CountBody)


async def create(request: Request) -> Response:
    """Answer a conversation."""
    state = state_of(request)
    body = await _with_files(state, await read(request, MessagesBody))
    model = await resolve(state, body.model)
    wanted = translate(body, model, request.headers)
    form = Form.of(body)
    if not body.stream:
        answer = await until_disconnect(request, fold(generate(state, wanted)))
        return reply(message(answer, model or answer.finished.instance, form))
    events = await until_disconnect(request, begin(generate(state, wanted)))
    writer = MessageStream(model or body.model, request_id(request), form)
    return stream(writer.frames(events), on_error=writer.error, keep_alive=writer.keep_alive)


async def count(request: Request) -> Response:
    """Count the tokens of a prompt. Waits for no generation."""
    wanted = await _asked(request, CountBody)
    tokens = await until_disconnect(request, count_tokens(state_of(request), wanted))
    return reply({"input_tokens": tokens})


async def asked(request: Request) -> Asked:
    """What the body of `POST /v1/messages` asks for."""
    return await _asked(request, MessagesBody)


async def _asked(request: Request, kind: type[CountBody]) -> Asked:
    state = state_of(request)
    body = await _with_files(state, await read(request, kind))
    return translate(body, await resolve(state, body.model), request.headers)


async def _with_files(state: State, body: B) -> B:
    """The body with the content of stored files in the places of their ids."""
    contents = await attach([message.content for message in body.messages], state.files)
    messages = [
        msgspec.structs.replace(message, content=content)
        for message, content in zip(body.messages, contents, strict=True)
    ]
    return msgspec.structs.replace(body, messages=messages)


async def resolve(state: State, name: str) -> str:
    """The model to be used for `name`.

    Clients made for Claude ask for `claude-…` models, some for several at once. Unless there is one
    of that name, the language model that is in use, was used last or is being loaded answers, else
    (the empty name) the default one.
    """
    if not name.lower().removeprefix("anthropic/").startswith("claude"):
        return name
    if any(instance.id.lower() == name.lower() for instance in state.models.loaded()):
        return name
    if await routing.find(state, name) is not None:
        return name
    try:
        await state.catalog.resolve(name)
    except ModelNotFound:
        loaded = [one for one in state.models.loaded() if one.entry.kind == "llm"]
        if loaded:
            return max(loaded, key=lambda one: (one.active > 0, one.last_used)).id
        loading = [load for load in state.models.loading() if load.entry.kind == "llm"]
        return loading[-1].id if loading else ""
    return name


router.add_api_route("/v1/messages", create, methods=["POST"])
router.add_api_route("/v1/messages/count_tokens", count, methods=["POST"])
router.add_api_route("/v1/messages/batches", batches.create, methods=["POST"])
router.add_api_route("/v1/messages/batches", batches.index, methods=["GET"])
router.add_api_route("/v1/messages/batches/{id}", batches.retrieve, methods=["GET"])
router.add_api_route("/v1/messages/batches/{id}", batches.delete, methods=["DELETE"])
router.add_api_route("/v1/messages/batches/{id}/cancel", batches.cancel, methods=["POST"])
router.add_api_route("/v1/messages/batches/{id}/results", batches.results, methods=["GET"])
