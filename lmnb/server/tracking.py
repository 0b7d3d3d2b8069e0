"""ASGI: count the requests in flight, log each, end them when their listener stops.

An open WebSocket is one request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmnb.errors import ServerError
from lmnb.server.errors import REQUEST_ID, error_response, new_request_id, stream_error

_access = logging.getLogger("lmnb.access")


@dataclass
class Activity:
    """What the idle exit looks at: requests in flight, and when the last one ended."""

    active: int = 0
    last: float = field(default_factory=time.monotonic)
    requests: list[Exchange] = field(default_factory=list)

    def idle_seconds(self) -> float:
        """Seconds since anything ran; 0 while something runs."""
        return 0.0 if self.active else time.monotonic() - self.last


class Tracked:
    """Wraps the app of one listener.

    Requests under `quiet` ask about the server itself: they put off the idle exit, but are neither
    counted as running nor logged nor ended. Those under `watching` last as long as somebody looks
    on, and put off nothing.
    """

    def __init__(
        self, app: ASGIApp, activity: Activity, *, quiet: frozenset[str], watching: frozenset[str]
    ) -> None:
        self.app = app
        self.activity = activity
        self.quiet = quiet
        self.watching = watching
        self._running: set[asyncio.Task[None]] = set()
        self._ending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self.quiet:
            self.activity.last = time.monotonic()
            await self.app(scope, receive, send)
            return
        scope.setdefault(REQUEST_ID, new_request_id())
        exchange = Exchange(scope, send)
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        counted = scope["path"] not in self.watching
        self.activity.active += counted
        self.activity.requests.append(exchange)
        try:
            await self._run(exchange, task, receive)
        finally:
            self._running.discard(task)
            self.activity.active -= counted
            self.activity.requests.remove(exchange)
            if counted:
                self.activity.last = time.monotonic()
            exchange.log()

    def end_all(self) -> None:
        """Cancel what runs; each client gets an error in its own protocol."""
        self._ending = True
        for task in self._running:
            task.cancel()

    async def _run(self, exchange: Exchange, task: asyncio.Task[None], receive: Receive) -> None:
        try:
            await self.app(exchange.scope, receive, exchange.send)
        except asyncio.CancelledError:
            if not self._ending:
                raise
            task.uncancel()
            await exchange.end(receive)


class Exchange:
    """One request and what has been answered to it so far. `started_at` is seconds since the epoch.

    `path` is as it was sent: no query, nothing of the body, never a prompt.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.method: str = scope.get("method", "WS")
        self.path: str = scope.get("raw_path", b"").decode("ascii", "replace")
        self.started_at = time.time()
        self.started = time.monotonic()
        self.status = 0
        self.streaming = False
        self.complete = False
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self.status = 101
        elif message["type"] == "websocket.close":
            self.complete = True
        elif message["type"].endswith("http.response.start"):
            self.status = message["status"]
            kinds = [value for name, value in message["headers"] if name == b"content-type"]
            self.streaming = bool(kinds) and kinds[0].startswith(b"text/event-stream")
        elif message["type"].endswith("http.response.body") and not message.get("more_body"):
            self.complete = True
        await self._send(message)

    async def end(self, receive: Receive) -> None:
        error = ServerError("The server stopped listening while it answered this request.")
        if not self.status:
            await error_response(self.scope, error)(self.scope, receive, self.send)
        elif self.scope["type"] == "websocket":
            if not self.complete:
                # 1001: going away (RFC 6455, 7.4.1).
                close = {"type": "websocket.close", "code": 1001, "reason": error.message}
                await self.send(close)
        elif not self.complete:
            body = stream_error(self.scope, error) if self.streaming else b""
            await self.send({"type": "http.response.body", "body": body, "more_body": False})

    def log(self) -> None:
        """One line of the log."""
        milliseconds = (time.monotonic() - self.started) * 1000
        _access.info(
            "%s %s %s %.0f ms %s",
            self.method,
            self.path,
            self.status or "-",
            milliseconds,
            self.scope[REQUEST_ID],
        )
