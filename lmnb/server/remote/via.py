"""Which servers a request has passed, so that none is sent round in a circle.

Each lmnb has an id for as long as it runs. It puts that into the header `x-lmnb-via` of what it sends
to endpoints, behind the ids that the request at hand came with, and refuses what carries its own.
"""

from __future__ import annotations

import secrets
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmnb.errors import EndpointLoop
from lmnb.server.errors import error_response

SENT = "x-lmnb-via"
OWN = "x-lmnb-server"
"""Header of answers to other servers: the id of this one."""

_passed: ContextVar[str] = ContextVar("passed", default="")


class Via:
    """ASGI: refuses requests that this server has sent itself. `id`: that of this server."""

    def __init__(self, app: ASGIApp, id: str) -> None:  # noqa: A002
        self._app = app
        self._id = id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(SENT)
        if given is None:
            _passed.set("")
            await self._app(scope, receive, send)
            return

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message["headers"])[OWN] = self._id
            await send(message)

        if self._id in given.split(","):
            error = EndpointLoop("This request has been here before.", param="model")
            await error_response(scope, error)(scope, receive, send_with_id)
            return
        _passed.set(given)
        await self._app(scope, receive, send_with_id)


def new_id() -> str:
    """The id of a server."""
    return secrets.token_hex(8)


def passed(own: str) -> str:
    """What goes with a request to an endpoint: the ids of the servers passed, `own` the last."""
    before = _passed.get()
    return f"{before},{own}" if before else own


def servers() -> frozenset[str]:
    """The ids of the servers that have passed the request at hand on; none if it is a client's own."""
    return frozenset(filter(None, _passed.get().split(",")))
