"""What the servers of `mcp.json` offer, for people."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from lmnb.server.mcp import servers
from lmnb.server.mcp.connection import McpConnectionFailed
from lmnb.server.mcp.logins import Logins
from lmnb.server.mcp.pool import Pool
from lmnb.server.mcp.servers import Local, Place, Server


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A server: its `id` in LM Studio's API, where it is, its tools, or the `error` instead.

    `warnings` are about tools that are left out, `login` says whether somebody has logged in to it,
    or has to.
    """

    id: str
    place: str
    tools: list[dict[str, str]] = []
    error: str | None = None
    warnings: list[str] = []
    login: Literal["none", "needed", "done"] = "none"


async def listing(home: Path, pool: Pool, logins: Logins) -> list[Listed]:
    """All servers of `mcp.json`, which are started for it, side by side.

    Raises
    ------
    ConfigError
        The file cannot be understood.
    """
    known = await asyncio.to_thread(servers.configured, home)
    return await asyncio.gather(
        *(_listed(pool, logins, label, place) for label, place in known.items())
    )


async def _listed(pool: Pool, logins: Logins, label: str, place: Place) -> Listed:
    name = f"{servers.PLUGIN}{label}"
    where = _shown(place)
    try:
        async with pool.use(Server(label, place, is_configured=True)) as connection:
            tools = [
                {"name": tool.name, "description": tool.description or ""}
                for tool in connection.tools
            ]
            warnings = list(connection.left_out)
    except McpConnectionFailed as error:
        login: Literal["none", "needed"] = "needed" if error.needs_login else "none"
        return Listed(id=name, place=where, error=error.message, login=login)
    found = Listed(id=name, place=where, tools=tools, warnings=warnings)
    if isinstance(place, Local) or await asyncio.to_thread(logins.find, label, place.url) is None:
        return found
    return msgspec.structs.replace(found, login="done")


def _shown(place: Place) -> str:
    """Without what may be secret in an address."""
    if isinstance(place, Local):
        return " ".join((place.command, *place.args))
    parts = urlsplit(place.url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
