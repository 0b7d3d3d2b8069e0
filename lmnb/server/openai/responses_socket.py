"""GET /v1/responses as a WebSocket: one response after another over one connection.

The client sends `response.create` with the body of a POST; what comes back are the events of a
stream, a text frame each (protocols, 1.3). What goes wrong before a response has begun is an
`error` frame, after which the connection goes on. Responses that are not stored can be continued
over the same connection.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from lmnb.errors import ContextOverflow, LmnbError
from lmnb.server import sse
from lmnb.server.errors import openai_body
from lmnb.server.generation import begin
from lmnb.server.openai import body as bodies
from lmnb.server.openai.errors import InvalidValue, UnsupportedParameter
from lmnb.server.openai.responses_events import ResponseEvent
from lmnb.server.openai.responses_past import Recent
from lmnb.server.openai.responses_prepare import Source, prepare
from lmnb.server.openai.responses_request import ResponsesBody
from lmnb.server.openai.responses_run import Run
from lmnb.server.state import state_of

WAITING = 8
"""Requests that may wait for the one that is being answered."""

logger = logging.getLogger(__name__)


class TooManyWaiting(LmnbError):
    """A connection answers one request at a time, and enough are waiting."""

    code = "too_many_requests"
    status = 429


class Asked(msgspec.Struct, frozen=True):
    """A `response.create`. `lane` is a `stream_id`, which all that is said of it repeats."""

    body: dict[str, Any]
    lane: str | None


async def serve(socket: WebSocket) -> None:
    """Talk with a client until it leaves, which ends what is being made for it."""
    await socket.accept()
    await _Connection(socket).run()


class _Connection:
    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._state = state_of(socket)
        self._recent = Recent()
        self._waiting: asyncio.Queue[Asked] = asyncio.Queue(WAITING)

    async def run(self) -> None:
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._answer_all())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for fault in ended:
            if isinstance(fault, Exception) and not isinstance(fault, WebSocketDisconnect):
                raise fault

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes") or (message.get("text") or "").encode()
            lane = None
            try:
                frame = bodies.decode(data)
                lane = _lane(frame)
                self._waiting.put_nowait(_asked(frame, lane))
            except asyncio.QueueFull:
                error = TooManyWaiting(
                    f"{WAITING} requests wait already: a connection answers one at a time.",
                    hint="Wait for a response to end, or open another connection.",
                )
                await self._refuse(error, lane)
            except LmnbError as error:
                await self._refuse(error, lane)

    async def _answer_all(self) -> None:
        while True:
            asked = await self._waiting.get()
            try:
                run, source = await self._prepare(asked)
                await self._answer(run, source, asked.lane)
            except LmnbError as error:
                await self._refuse(error, asked.lane)

    async def _prepare(self, asked: Asked) -> tuple[Run, Source]:
        body = bodies.check(asked.body, ResponsesBody)
        if body.background:
            raise UnsupportedParameter(
                "'background' is not supported over a WebSocket.",
                hint="Send a POST.",
                param="background",
            )
        return await prepare(self._state, body, self._socket, self._recent)

    async def _answer(self, run: Run, source: Source, lane: str | None) -> None:
        """All events of a response. Raises only what goes wrong before the first."""
        try:
            events = await begin(source.events())
        except ContextOverflow as error:  # as in a stream over HTTP
            await self._fail(run, error, lane)
            return
        try:
            async with aclosing(run.events(events)) as news:
                while (event := await self._next(run, anext(news, None), lane)) is not None:
                    await self._send(event, lane)
        except LmnbError as error:
            await self._fail(run, error, lane)
        except (OSError, WebSocketDisconnect):
            raise
        except Exception:
            logger.exception("A response ended with a fault of the server")
            await self._fail(run, LmnbError("The server failed in mid-answer."), lane)

    async def _next(self, run: Run, coming: Any, lane: str | None) -> ResponseEvent | None:
        """The next event; while it does not come, the client is told that all is well."""
        waiting = asyncio.ensure_future(coming)
        try:
            while not (await asyncio.wait({waiting}, timeout=sse.KEEP_ALIVE_SECONDS))[0]:
                await self._send(run.answer.heartbeat(), lane)
            event: ResponseEvent | None = waiting.result()
            return event
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _fail(self, run: Run, error: LmnbError, lane: str | None) -> None:
        for event in run.failure(error):
            await self._send(event, lane)

    async def _refuse(self, error: LmnbError, lane: str | None) -> None:
        await self._send({"type": "error", "status": error.status, **openai_body(error)}, lane)

    async def _send(self, value: Any, lane: str | None) -> None:
        if lane is not None:
            value = {**msgspec.to_builtins(value), "stream_id": lane}
        await self._socket.send_text(msgspec.json.encode(value).decode())


def _lane(frame: dict[str, Any]) -> str | None:
    lane = frame.get("stream_id")
    return lane if isinstance(lane, str) else None


def _asked(frame: dict[str, Any], lane: str | None) -> Asked:
    if (kind := frame.get("type")) != "response.create":
        raise InvalidValue(
            f"Invalid value for 'type': expected 'response.create', got {kind!r}.", param="type"
        )
    return Asked(frame, lane)
