"""POST /api/v1/chat: chats that the server remembers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from lmnb.chat import conversation
from lmnb.chat.conversation import Image, Message, Reasoning, SamplingOptions, Text
from lmnb.chat.events import Finished
from lmnb.chat.joining import join
from lmnb.engine.sampling_options import RANGES
from lmnb.errors import InvalidRequest, NotFound
from lmnb.models.entry import ModelEntry
from lmnb.server.disconnect import until_disconnect
from lmnb.server.generation import begin
from lmnb.server.lmstudio.capabilities import check_reasoning, meaning
from lmnb.server.lmstudio.integrations import integrations
from lmnb.server.lmstudio.keeping import Keeper
from lmnb.server.lmstudio.reading import read
from lmnb.server.lmstudio.result import Outputs, chat_result
from lmnb.server.lmstudio.schema import ChatBody, ImageInput, Output
from lmnb.server.lmstudio.stream import ChatStream
from lmnb.server.mcp.loop import ToolLoop
from lmnb.server.mcp.steps import Listed, Listing, Step
from lmnb.server.media import from_data_url
from lmnb.server.remote import routing
from lmnb.server.reply import reply
from lmnb.server.sse import stream
from lmnb.server.state import State, state_of

_SAMPLING = (*RANGES, "dry_sequence_breakers", "seed")


async def create(request: Request) -> Response:
    """Answer a message, and remember both unless told not to."""
    body = await read(request, ChatBody)
    state = state_of(request)
    target = await routing.find(state, body.model)
    instance, entry = (target.key, None) if target else await find(state, body.model)
    servers = await asyncio.to_thread(integrations, body, request.scope, state)
    wanted = await translate(state, body, entry)
    loop = ToolLoop(state, wanted, servers)
    keeper = Keeper(
        state.responses,
        wanted.messages,
        previous=body.previous_response_id,
        active=body.store is not False,
    )
    if not body.stream:
        finished, output = await until_disconnect(request, _whole(loop))
        identifier = await keeper.keep(loop.messages)
        return reply(chat_result(finished, output, identifier, last_input=loop.last_input))
    started = await until_disconnect(request, begin(loop.events(), ready=_is_told))
    writer = ChatStream(instance, keeper, loop)
    return stream(writer.frames(started), on_error=writer.error)


def _is_told(step: Step) -> bool:
    """Whether it begins a stream: loading does, but servers that cannot be used are a status."""
    return not isinstance(step, Listing | Listed)


async def _whole(loop: ToolLoop) -> tuple[Finished, tuple[Output, ...]]:
    outputs = Outputs()
    async with aclosing(loop.events()) as events:
        async for event in events:
            if isinstance(event, Finished):
                return event, outputs.items
            outputs.feed(event)
    raise AssertionError("A generation ends with Finished or an error.")


async def find(state: State, name: str) -> tuple[str, ModelEntry]:
    """The id of the instance that will answer, as far as can be foretold, and its model.

    Raises
    ------
    ModelNotFound
        There is no such model.
    """
    loaded = state.models.loaded()
    for instance in loaded:
        if instance.id.casefold() == name.strip().casefold():
            return instance.id, instance.entry
    entry = await state.catalog.resolve(name)
    same = [instance for instance in loaded if instance.entry.path == entry.path]
    return (min(same, key=lambda one: one.active).id if same else entry.key), entry


async def translate(state: State, body: ChatBody, entry: ModelEntry | None) -> conversation.Request:
    """The request, with what was said before. `entry` is None for a remote model.

    Raises
    ------
    NotSupported
        Images that are no data URLs.
    InvalidRequest
        The model does not offer the `reasoning` setting, or a value makes no sense.
    NotFound
        No chat is stored under `previous_response_id`.
    """
    for name in ("max_output_tokens", "context_length"):
        value = getattr(body, name)
        if value is not None and value < 1:
            raise InvalidRequest(f"'{name}' must be at least 1.", param=name)
    said = Message("user", said_parts(body))
    reasoning = Reasoning()
    if body.reasoning is not None and entry is None:
        reasoning = meaning(body.reasoning)
    elif body.reasoning is not None and entry is not None:
        reasoning = await asyncio.to_thread(check_reasoning, body.reasoning, entry)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return conversation.Request(
        model=body.model,
        messages=(*await earlier(state, body), said),
        reasoning=reasoning,
        sampling=SamplingOptions(**{name: getattr(body, name) for name in _SAMPLING}),
        stop=tuple(text for text in stop if text),
        max_tokens=body.max_output_tokens,
        ttl=body.ttl,
        load={} if body.context_length is None else {"context_length": body.context_length},
    )


def said_parts(body: ChatBody) -> tuple[Text | Image, ...]:
    """The user's words and images. Neighbouring texts are one."""
    if isinstance(body.input, str):
        return (Text(body.input),)
    parts: list[Text | Image] = []
    for i, item in enumerate(body.input):
        if isinstance(item, ImageInput):
            parts.append(Image(*from_data_url(item.data_url, f"input[{i}].data_url")))
        elif parts and isinstance(last := parts[-1], Text):
            parts[-1] = Text(join((last.text, item.content)))
        else:
            parts.append(Text(item.content))
    if not parts:
        raise InvalidRequest("'input' is empty.", param="input")
    return tuple(parts)


async def earlier(state: State, body: ChatBody) -> tuple[Message, ...]:
    """The system prompt and the chat so far. A new system prompt takes the old one's place."""
    system = (Message("system", (Text(body.system_prompt),)),) if body.system_prompt else ()
    previous = body.previous_response_id
    if previous is None:
        return system
    if not previous.startswith("resp_"):
        raise InvalidRequest(
            "'previous_response_id' must start with 'resp_'.", param="previous_response_id"
        )
    try:
        messages = (await state.responses.load(previous)).messages
    except NotFound as error:
        raise NotFound(
            error.message,
            hint='It may have been answered with "store": false, or by another server.',
            param="previous_response_id",
        ) from None
    if system and messages and messages[0].role == "system":
        messages = messages[1:]
    return (*system, *messages)
