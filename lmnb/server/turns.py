"""So many at a time, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Turns:
    """Like a semaphore whose bound, `most()`, may change while it is in use."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def all_taken(self) -> bool:
        """Whether the next one has to wait."""
        return self._taken >= self._most() or bool(self._waiting)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for one's turn; it lasts until the end of the block."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        self._give()
        try:
            await mine
            yield
        finally:
            # Cancelled while it waited: a turn that was given all the same goes to the next one.
            if mine.cancelled():
                if mine in self._waiting:
                    self._waiting.remove(mine)
            else:
                self._taken -= 1
            self._give()

    def _give(self) -> None:
        while self._waiting and self._taken < self._most():
            mine = self._waiting.popleft()
            if not mine.done():
                self._taken += 1
                mine.set_result(None)
