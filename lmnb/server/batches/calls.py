"""Requests that the server sends to itself: the same road as over HTTP, without a connection."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Scope

from lmnb.server.batches.batch import Answer
from lmnb.server.errors import REQUEST_ID

_UNLOADED = 409
_TRIES = 3
"""Of a request whose model was unloaded under it: that is not the request's fault."""


async def insist(app: ASGIApp, path: str, body: bytes) -> Answer:
    """`call`, again if the model was unloaded meanwhile."""
    for _ in range(_TRIES - 1):
        answer = await call(app, path, body)
        if answer.status != _UNLOADED:
            return answer
    return await call(app, path, body)


async def call(app: ASGIApp, path: str, body: bytes) -> Answer:
    """POST JSON to `app`. Cancelling this ends the request at once, as a client that leaves does."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"local"), (b"content-type", b"application/json")],
        "client": None,
        "server": None,
    }
    unread = [body]
    status = 500
    parts: list[bytes] = []

    async def receive() -> Message:
        if not unread:
            await asyncio.Event().wait()  # this client never leaves
        return {"type": "http.request", "body": unread.pop(), "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return Answer(status, scope[REQUEST_ID], b"".join(parts))
