"""Running an async function of the user to its end, in a magic, which is not async."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine returns. It runs on the loop that the notebook's own `await` uses.

    What cells have opened lives on that loop, and could not be awaited on another. In a notebook the
    loop is running this very cell, and has to run within itself: this is the one place where it is
    patched for that. An interrupt cancels the coroutine.
    """
    from IPython.core.async_helpers import get_asyncio_loop

    loop: asyncio.AbstractEventLoop = get_asyncio_loop()  # type: ignore[no-untyped-call]
    if loop.is_running():
        import nest_asyncio2  # type: ignore[import-untyped]

        nest_asyncio2.apply(loop)
    task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)
    except KeyboardInterrupt:
        task.cancel()
        with suppress(asyncio.CancelledError, KeyboardInterrupt):
            loop.run_until_complete(task)
        raise
