"""Many requests at once, for tables: one connection, and the server sets the pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.errors import InvalidRequest
from lmnb.server import sse
from lmnb.server.batches.batch import Answer
from lmnb.server.batches.calls import insist
from lmnb.server.batches.run import SPARE
from lmnb.server.control.form import error_frame, read
from lmnb.server.state import State, state_of

PATHS = ("/v1/chat/completions", "/v1/embeddings", "/v1/rerank")

router = APIRouter()


class _Many(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    bodies: list[msgspec.Raw]
    concurrency: Annotated[int, msgspec.Meta(ge=1)] | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None


class _Answered(msgspec.Struct):
    number: int
    status: int
    body: msgspec.Raw


@router.post("/answers")
async def answers(request: Request) -> Response:
    """Send all `bodies` to `path`. Events `answer` (`{number, status, body}`), as they come, and `done`.

    They go through the public app at low priority: everybody else's requests go first. As many are
    under way as the model computes together, and a few more, so that it never waits for the next; at
    most `concurrency`. One that takes more than `timeout` seconds, from when it is under way, is
    answered with 408. Leaving the stream ends them all at once.
    """
    many = await read(request, _Many)
    if many.path not in PATHS:
        raise InvalidRequest(f"path must be one of {', '.join(PATHS)}.", param="path")
    state = state_of(request)

    async def frames() -> AsyncGenerator[bytes, None]:
        async with aclosing(_answers(state, many)) as found:
            async for answered in found:
                yield sse.frame(answered, "answer")
        yield sse.frame({}, "done")

    return sse.stream(frames(), on_error=error_frame)


async def _answers(state: State, many: _Many) -> AsyncGenerator[_Answered, None]:
    waiting = enumerate(many.bodies)
    running: dict[asyncio.Task[Answer], int] = {}
    try:
        while True:
            room = state.slots(many.path) + SPARE
            while len(running) < min(room, many.concurrency or room):
                number, body = next(waiting, (None, None))
                if number is None or body is None:
                    break
                work = _within(many.timeout, state, many.path, bytes(body))
                running[asyncio.create_task(work)] = number
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                found = task.result()
                yield _Answered(running.pop(task), found.status, msgspec.Raw(found.body))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _within(seconds: float | None, state: State, path: str, body: bytes) -> Answer:
    try:
        async with asyncio.timeout(seconds):
            return await insist(state.low, path, body)
    except TimeoutError:
        error = {"code": "timeout", "message": f"No answer within {seconds:g} seconds."}
        return Answer(408, "", msgspec.json.encode({"error": error}))
