"""Server-sent events: frames, and a response that sends them.

The response sends its headers at once, ends the generation when the client leaves or the
server stops, keeps silent connections alive, and turns an error in mid-stream into the
protocol's error frame. A generator of frames therefore holds nothing but its protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lmnb.errors import LmnbError
from lmnb.server.disconnect import departure
from lmnb.server.errors import STREAM_ERROR, stream_error

logger = logging.getLogger(__name__)

Frames: TypeAlias = AsyncGenerator[bytes, None]
KEEP_ALIVE_SECONDS = 15.0
COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

encoder = msgspec.json.Encoder()
_LINE_BREAKS = tuple((char.encode(), b"\\u%04x" % ord(char)) for char in "\u0085\u2028\u2029")


def frame(data: Any, event: str | None = None) -> bytes:
    """One event. `data` is JSON already (bytes), or anything msgspec can encode.

    JSON has no raw line breaks, so one `data:` line holds it.
    """
    body = one_line(data if isinstance(data, bytes) else encoder.encode(data))
    if event is None:
        return b"data: %b\n\n" % body
    return b"event: %b\ndata: %b\n\n" % (event.encode(), body)


def one_line(body: bytes) -> bytes:
    """JSON with what only Unicode takes for a line break escaped.

    Clients that split with `str.splitlines` (httpx's `iter_lines`) would cut there.
    """
    for raw, escaped in _LINE_BREAKS:
        if raw in body:
            body = body.replace(raw, escaped)
    return body


def comment(_silent: float) -> bytes:
    """The keep-alive that no SDK tries to parse."""
    return COMMENT


class EventStream(Response):
    """A response of server-sent events.

    Parameters
    ----------
    frames
        Encoded frames, in order. Closed when the client leaves.
    on_error
        The frame (or frames) to tell the client of an error that ended `frames`; asked for after
        any frame. The server uses it too when it closes a listener in mid-stream.
    keep_alive
        Called with the seconds since the last frame, every 15 s of silence; returns what to send.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: Frames,
        *,
        on_error: Callable[[LmnbError], bytes],
        keep_alive: Callable[[float], bytes] = comment,
    ) -> None:
        self.frames = frames
        self.on_error = on_error
        self.keep_alive = keep_alive
        self.status_code = 200
        self.background = None
        # nginx and its kin hold back streams unless they are told not to.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or less if nobody listens any more."""
        scope[STREAM_ERROR] = self.on_error
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        sender = _Sender(send)
        pump = asyncio.ensure_future(self._pump(scope, sender))
        gone = asyncio.ensure_future(departure(receive))
        silence = asyncio.ensure_future(sender.keep_alive(self.keep_alive))
        tasks = (pump, gone, silence)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended, *_ = await asyncio.gather(*tasks, return_exceptions=True)
        if ended is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, scope: Scope, sender: _Sender) -> None:
        async with aclosing(self.frames) as frames:
            try:
                async for data in frames:
                    await sender.send(data)
            except LmnbError as error:
                await sender.send(stream_error(scope, error))
            except OSError:  # the client has left
                pass
            except Exception:
                logger.exception("A stream ended with a fault of the server")
                failed = LmnbError("The server failed in mid-answer.")
                await sender.send(stream_error(scope, failed))


class _Sender:
    """Sends frames and knows when it last did."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()
        self._last_frame = self._last
        self._count = 0

    async def send(self, data: bytes) -> None:
        self._last = self._last_frame = self._clock()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._count += 1
        if self._count % 64 == 0:  # frames that never wait would never notice a cancellation
            await asyncio.sleep(0)

    async def keep_alive(self, make: Callable[[float], bytes]) -> None:
        while True:
            wait = self._last + KEEP_ALIVE_SECONDS - self._clock()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            self._last = self._clock()
            data = make(self._last - self._last_frame)
            await self._send({"type": "http.response.body", "body": data, "more_body": True})


def stream(
    frames: Frames,
    *,
    on_error: Callable[[LmnbError], bytes],
    keep_alive: Callable[[float], bytes] = comment,
) -> EventStream:
    """`EventStream` under the name that reads well in a route."""
    return EventStream(frames, on_error=on_error, keep_alive=keep_alive)
