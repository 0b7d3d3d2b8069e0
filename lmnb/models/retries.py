"""Whether a request whose worker died under it is tried again.

Only one that nothing of the answer has been told of. One that was waiting, or between two steps,
had no part in the crash and is tried again at once. One that was being computed may be what caused
it: it is tried once more, after and not beside others of that kind, so that the next crash has
one suspect only; if it comes, the request ends with its cause. So a request that kills the process
does it twice, and the second time takes nobody down with it who has been suspect before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from lmnb.errors import EngineCrashed

_log = logging.getLogger(__name__)

_MOST_TRIES = 5
"""Of a request that is never suspect: others crash what it waits for."""


class Tries:
    """The tries of one request.

    `begun`: something of the answer has been told. `instance`: the id that it was sent to last.
    """

    def __init__(self) -> None:
        self.begun = False
        self.instance: str | None = None
        self._suspects: asyncio.Lock | None = None
        self._suspect = False
        self._count = 1

    def use(self, instance: str, suspects: asyncio.Lock) -> None:
        """The request goes to this instance, whose suspects are tried under that lock."""
        self.instance, self._suspects = instance, suspects

    @contextlib.asynccontextmanager
    async def apart(self) -> AsyncGenerator[None, None]:
        """Around a try: no two suspects are tried at the same time."""
        if not self._suspect or self._suspects is None:
            yield
            return
        async with self._suspects:
            yield

    def again(self, error: EngineCrashed) -> bool:
        """Whether the request is to be tried again after this."""
        if error.suspect is None or self.begun or self._count >= _MOST_TRIES:
            return False
        if error.suspect and self._suspect:
            return False
        self._suspect = self._suspect or error.suspect
        self._count += 1
        _log.warning("A request is tried again after a crash: %s", error.message)
        return True
