"""The MCP servers of `mcp.json`: their tools, adding and removing them, logging in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.errors import InvalidRequest
from lmnb.server import sse
from lmnb.server.control.form import answer, error_frame, read
from lmnb.server.mcp import editing, servers
from lmnb.server.mcp.listing import listing
from lmnb.server.mcp.servers import PLUGIN, Remote
from lmnb.server.state import State, state_of

router = APIRouter(prefix="/mcp")


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str

    @property
    def label(self) -> str:
        """As it stands in the file: `mcp/files`, as requests have it, is `files`."""
        return self.name.removeprefix(PLUGIN)


class _Added(_Named, forbid_unknown_fields=True):
    entry: dict[str, Any]
    replace: bool = False


class _Redirected(_Named, forbid_unknown_fields=True):
    url: str


@router.get("")
async def listed(request: Request) -> Response:
    """The servers with their tools: `{"servers": [lmnb.server.mcp.listing.Listed]}`."""
    state = state_of(request)
    return answer({"servers": await listing(state.home, state.mcp, state.mcp_logins)})


@router.post("")
async def add(request: Request) -> Response:
    """Add `entry` to `mcp.json`, as it would stand there, under `name`."""
    body = await read(request, _Added)
    state = state_of(request)
    await asyncio.to_thread(editing.add, state.home, body.label, body.entry, replace=body.replace)
    await state.mcp.forget(body.label)
    return answer({"name": body.label})


@router.delete("")
async def remove(request: Request) -> Response:
    """Take the server `name` out of `mcp.json`, and forget a login to it."""
    body = _Named(request.query_params.get("name", ""))
    state = state_of(request)
    await asyncio.to_thread(editing.remove, state.home, body.label)
    await _forget(state, body.label)
    return answer({"name": body.label})


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Log in to the server `name`. Events `url`, which the user has to open in a browser, and `done`.

    Leaving the stream gives the login up.
    """
    body = await read(request, _Named)
    state = state_of(request)
    known = await asyncio.to_thread(servers.configured, state.home)
    label, place = servers.find(known, PLUGIN + body.label, param="name")
    if not isinstance(place, Remote):
        raise InvalidRequest(
            f"{label} is a program of this machine; there is nothing to log in to."
        )

    async def frames() -> AsyncGenerator[bytes, None]:
        async with state.mcp_desk.begin(label, place) as (url, done):
            yield sse.frame({"url": url}, "url")
            await done
        await state.mcp.forget(label)  # What is connected does not know of it.
        yield sse.frame({"name": label}, "done")

    return sse.stream(frames(), on_error=error_frame)


@router.post("/redirect")
async def redirected(request: Request) -> Response:
    """Go on with the login to `name`, for which the browser was sent to `url` and found nothing."""
    body = await read(request, _Redirected)
    state_of(request).mcp_desk.deliver(body.label, body.url)
    return answer({"name": body.label})


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """Forget the login to the server `name`; `was_logged_in` says whether there was one."""
    body = await read(request, _Named)
    return answer({"was_logged_in": await _forget(state_of(request), body.label)})


async def _forget(state: State, label: str) -> bool:
    await state.mcp.forget(label)
    return await asyncio.to_thread(state.mcp_logins.remove, label)
