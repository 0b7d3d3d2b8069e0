"""Connections that outlive a request: configured servers keep their state (a browser's page, say)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2

from lmnb.server.mcp import connection
from lmnb.server.mcp.authorization import LoggedIn, Refused
from lmnb.server.mcp.connection import Connection
from lmnb.server.mcp.logins import Logins
from lmnb.server.mcp.servers import Place, Remote, Server

IDLE = 600.0
"""Seconds after its last use at which a configured server is stopped."""


@dataclass(eq=False)
class _Kept:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: Connection | None = None
    users: int = 0
    timer: asyncio.TimerHandle | None = None


class Pool:
    """Connects to servers, and keeps those that `mcp.json` names for a while.

    `logins` are for the remote ones of these.
    """

    def __init__(self, idle: float = IDLE, *, logins: Logins | None = None) -> None:
        self._idle = idle
        self._logins = logins
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._running: set[Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def use(self, server: Server) -> AsyncGenerator[Connection, None]:
        """A connection for as long as the block lasts.

        Raises
        ------
        McpConnectionFailed
            It cannot be reached or started, or does not list its tools in time.
        """
        if not server.is_configured:
            found = await self._begin(server)
            try:
                yield found
            finally:
                await found.close()
            return
        kept = self._kept.setdefault(_key(server.label, server.place), _Kept())
        kept.users += 1
        if kept.timer is not None:
            kept.timer.cancel()
        try:
            async with kept.lock:  # Who comes meanwhile waits for the same one.
                found = kept.connection = await self._kept_or_new(kept, server)
            yield found
        finally:
            kept.users -= 1
            if not kept.users:
                loop = asyncio.get_running_loop()
                kept.timer = loop.call_later(self._idle, self._retire, kept)

    async def forget(self, label: str) -> None:
        """Stop the configured server of that label: it is to be connected to anew."""
        for (known, _), kept in self._kept.items():
            if known == label:
                self._retire(kept)
        await asyncio.gather(*self._closing)

    async def close(self) -> None:
        """Stop all servers, also those that are just being started."""
        for kept in self._kept.values():
            if kept.timer is not None:
                kept.timer.cancel()
        await asyncio.gather(*(each.close() for each in self._running), *self._closing)

    async def _kept_or_new(self, kept: _Kept, server: Server) -> Connection:
        if kept.connection is not None:
            if await kept.connection.answers(busy=kept.users > 1):
                return kept.connection
            self._retire(kept)
        return await self._begin(server)

    async def _begin(self, server: Server) -> Connection:
        await connection.prepare()
        found = Connection(server.label, server.place, self._auth(server))
        self._running.add(found)
        found.when_ended(lambda: self._running.discard(found))
        await found.ready()
        return found

    def _auth(self, server: Server) -> httpx2.Auth | None:
        if not isinstance(server.place, Remote):
            return None
        if "authorization" in {name.lower() for name in server.place.headers}:
            return Refused("it refuses the header Authorization that it was given (HTTP 401).")
        if not server.is_configured or self._logins is None:
            return Refused("it needs the header Authorization (HTTP 401).")
        return LoggedIn(server.label, server.place.url, self._logins)

    def _retire(self, kept: _Kept) -> None:
        connection, kept.connection = kept.connection, None
        if connection is not None:
            task = asyncio.create_task(connection.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _key(label: str, place: Place) -> tuple[str, str]:
    """Who changes an entry of `mcp.json` gets a new server."""
    return label, repr(place)
