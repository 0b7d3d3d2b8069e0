"""A client that goes away takes its work with it.

Streams end by themselves (`lmnb.server.sse`); a handler that computes a plain answer is not
cancelled by anyone when its client leaves, so it races its work with the connection here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from lmnb.errors import Cancelled

T = TypeVar("T")


async def until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client leaves, or if this task is cancelled.

    The body of `request` must have been read.

    Raises
    ------
    Cancelled
        The client has gone; there is nobody to read the answer.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(departure(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("The client closed the connection.")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def departure(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
