"""What the servers of `mcp.json` offer, for people."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from lmnb.errors import LmnbError
from lmnb.server.mcp import servers
from lmnb.server.mcp.pool import Pool
from lmnb.server.mcp.servers import Local, Place, Server


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A server: its `id` in LM Studio's API, where it is, its tools, or the `error` instead."""

    id: str
    place: str
    tools: list[dict[str, str]] = []
    error: str | None = None


async def listing(home: Path, pool: Pool) -> list[Listed]:
    """All servers of `mcp.json`, which are started for it, side by side.

    Raises
    ------
    ConfigError
        The file cannot be understood.
    """
    known = await asyncio.to_thread(servers.configured, home)
    return await asyncio.gather(*(_listed(pool, label, place) for label, place in known.items()))


async def _listed(pool: Pool, label: str, place: Place) -> Listed:
    where = " ".join((place.command, *place.args)) if isinstance(place, Local) else place.url
    name = f"{servers.PLUGIN}{label}"
    try:
        async with pool.use(Server(label, place, is_configured=True)) as connection:
            tools = [
                {"name": tool.name, "description": tool.description or ""}
                for tool in connection.tools
            ]
            return Listed(id=name, place=where, tools=tools)
    except LmnbError as error:
        return Listed(id=name, place=where, error=error.message)
