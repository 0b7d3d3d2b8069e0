"""The log of requests: the last ones, and those to come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb import journal
from lmnb.journal import Filter
from lmnb.server import sse
from lmnb.server.control.form import answer, error_frame, number
from lmnb.server.state import state_of

WATCHING = frozenset({"/lmnb/requests/follow"})
"""Paths of requests that only look on; see `lmnb.server.tracking`."""

router = APIRouter()


@router.get("/requests")
async def requests(request: Request) -> Response:
    """The last `last` (50) requests, as `lmnb.journal.Record`; `model`, `status`, `route` filter."""
    home, count = state_of(request).home, number(request, "last", 50)
    found = await asyncio.to_thread(journal.last, home, count, _filter(request))
    return answer({"requests": found})


@router.get("/requests/follow")
async def follow(request: Request) -> Response:
    """Requests as they end (`request`, a `Record`), until the client leaves.

    With `words=1` also `input` and `output`, what models are given and say word for word, as it
    happens: `{id, model, route, text, complete}`. Nothing of that is written down for it. `missed`
    has the `count` of what was left out, since it was not read in time. The first event, `ready`,
    says that nothing from now on is missed.
    """
    state, wanted = state_of(request), _filter(request)
    words = request.query_params.get("words") == "1"

    async def frames() -> AsyncGenerator[bytes, None]:
        async with aclosing(state.journal.follow(wanted, words=words)) as events:
            async for event in events:
                yield sse.frame(event, str(event["type"]))

    return sse.stream(frames(), on_error=error_frame)


def _filter(request: Request) -> Filter:
    given = request.query_params
    wanted = Filter(model=given.get("model"), status=given.get("status"), route=given.get("route"))
    wanted.check()
    return wanted
