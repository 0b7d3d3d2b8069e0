"""Answers of remote models: the same events as those of a model of this machine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import httpx2
import msgspec

from lmnb.chat.conversation import Request
from lmnb.chat.documents import showing as documents
from lmnb.chat.events import Event, Finished
from lmnb.errors import EndpointFailed, InvalidRequest, LmnbError
from lmnb.models.remote.answers import error_of, read
from lmnb.models.remote.endpoints import Target
from lmnb.models.remote.link import Link
from lmnb.server.remote import request as bodies
from lmnb.server.remote import routing
from lmnb.server.remote.chunks import Chunks
from lmnb.server.state import State

_MOST_BYTES_OF_EVENT = 32 << 20


async def generate(state: State, target: Target, request: Request) -> AsyncGenerator[Event, None]:
    """Answer `request` by an endpoint, which renders and generates. Closing it hangs up.

    Raises
    ------
    NotSupported
        Something that no endpoint, or not this one, can be asked for.
    EndpointFailed
        No endpoint answers, or one that had begun breaks off.
    LmnbError
        What the endpoint finds wrong with the request.
    """
    sees = target.model.sees is not False
    shown = await documents.shown(request, state.documents, sees=sees)
    answer = routing.events(state, target, partial(_ask, target, shown), request.cache_key)
    async with aclosing(answer) as events:
        async for event in events:
            if isinstance(event, Finished):
                state.metrics.answered(event)
            yield event


async def _ask(target: Target, request: Request, link: Link) -> AsyncGenerator[Event, None]:
    """One endpoint's answer."""
    model, flavour = target.at(link)
    tools = bodies.tools_of(request)
    if request.prompt is None:
        path, body = "/chat/completions", bodies.chat_body(request, model, flavour, tools)
    else:
        path, body = "/completions", bodies.text_body(request, model, flavour)
    reader = Chunks(link.name, f"{link.name}/{model}", request, tools)
    try:
        async with aclosing(_read(link, path, body, reader)) as events:
            async for event in events:
                yield event
    except InvalidRequest as error:
        plainer = bodies.without_switches(body, error)
        if plainer is None:
            raise
        async with aclosing(_read(link, path, plainer, reader)) as events:
            async for event in events:
                yield event


async def _read(
    link: Link, path: str, body: dict[str, Any], reader: Chunks
) -> AsyncGenerator[Event, None]:
    async with (
        link.request("POST", path, body) as response,
        aclosing(_chunks(link.name, response)) as chunks,
    ):
        async for chunk in chunks:
            for event in reader.feed(chunk):
                yield event
    for event in reader.finish():
        yield event


async def _chunks(name: str, response: httpx2.Response) -> AsyncGenerator[Any, None]:
    """The chunks of a stream; a whole answer, of a server that does not stream, is one."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        yield _checked(name, await read(response))
        return
    if kind != "text/event-stream":
        raise EndpointFailed(
            f"The endpoint {name} answered with {kind or 'nothing that is named'}."
        )
    async for data in _data(name, response):
        if data == "[DONE]":
            return
        yield _checked(name, data)


async def _data(name: str, response: httpx2.Response) -> AsyncIterator[str]:
    try:
        async for event in httpx2.EventSource(response, _MOST_BYTES_OF_EVENT):
            if event.data:
                yield event.data
    except httpx2.SSEError as error:
        raise EndpointFailed(f"The endpoint {name} sent no proper events: {error}.") from None


def _checked(name: str, data: str | bytes) -> Any:
    """A chunk; an error that stands in its place is raised.

    Some servers have found out by then what others would have answered at once: too long a prompt.
    """
    try:
        chunk = msgspec.json.decode(data)
    except msgspec.DecodeError:
        raise EndpointFailed(f"The endpoint {name} sent what is no JSON.") from None
    if not isinstance(chunk, dict) or not (chunk.get("error") or chunk.get("object") == "error"):
        return chunk
    raise _in_stream(name, chunk)


def _in_stream(name: str, chunk: dict[str, Any]) -> LmnbError:
    error = chunk["error"] if isinstance(chunk.get("error"), dict) else chunk
    codes = (error.get("code"), error.get("status"))
    status = next((code for code in codes if isinstance(code, int) and 400 <= code < 600), None)
    if status is None:
        kind = str(error.get("type", ""))
        status = 400 if kind == "invalid_request_error" else 500
    return error_of(name, chunk, status)
