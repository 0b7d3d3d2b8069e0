"""The requests of one batch that are under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from starlette.types import ASGIApp

from lmnb.server.batches.batch import Answer, Batch, Line
from lmnb.server.batches.calls import insist
from lmnb.server.batches.store import BatchStore

_PAGE = 64
"""Lines that are read at once."""
SPARE = 2
"""Requests under way beyond those that can be computed together."""


class Run:
    """A batch that is being run.

    Parameters
    ----------
    batch
        Kept up to date in the attribute of that name.
    slots
        How many requests to a path can be computed together now.
    """

    def __init__(
        self, batch: Batch, store: BatchStore, app: ASGIApp, slots: Callable[[str], int]
    ) -> None:
        self.batch = batch
        self._store = store
        self._app = app
        self._slots = slots
        self._next: deque[tuple[Line, bytes]] = deque()
        self._last = -1
        self._running: dict[asyncio.Task[Answer], Line] = {}
        self._cancelled = False
        self._gives_way = False

    @property
    def gave_way(self) -> bool:
        """Whether `all` has returned early for another batch, rather than at the batch's end."""
        return self._gives_way and not self._cancelled

    def give_way(self) -> None:
        """Start no more requests; those under way are answered."""
        self._gives_way = True

    def cancel(self) -> None:
        """Stop all requests at once; no other is started."""
        self._cancelled = True
        for task in self._running:
            task.cancel()

    async def all(self) -> None:
        """Run all lines without an answer, unless the batch is cancelled or gives way."""
        self._next.clear()
        self._last = -1
        try:
            while await self._fill():
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                await self._keep(done)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._running.clear()

    async def _fill(self) -> bool:
        """Start as many lines as there is room for; whether any are under way."""
        while len(self._running) < self._slots(self.batch.endpoint) + SPARE:
            if not self._next and not self._gives_way:
                page = await asyncio.to_thread(
                    self._store.unanswered, self.batch.id, self._last, _PAGE
                )
                self._next.extend(page)
            if not self._next or self._cancelled or self._gives_way:
                break
            line, body = self._next.popleft()
            self._last = line.number
            answer = insist(self._app, self.batch.endpoint, body)
            self._running[asyncio.ensure_future(answer)] = line
        return bool(self._running)

    async def _keep(self, done: set[asyncio.Task[Answer]]) -> None:
        """Store the answers that have come; those who were cancelled have none."""
        answers = [(self._running[task], task.result()) for task in done if not task.cancelled()]
        if answers:
            self.batch = await asyncio.to_thread(self._store.answer, self.batch.id, answers)
        for task in done:
            del self._running[task]
