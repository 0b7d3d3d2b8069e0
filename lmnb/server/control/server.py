"""The server itself: who it is, how it is, its log and its end."""

from __future__ import annotations

import asyncio
import os
import time

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb import logs
from lmnb.runtime import log_path
from lmnb.server.control.form import answer, number, read, rows
from lmnb.server.state import state_of

QUIET = frozenset({"/lmnb/handshake", "/lmnb/shutdown"})
"""Paths that ask about the server itself; see `lmnb.server.tracking`."""

router = APIRouter()


class _Shutdown(msgspec.Struct, forbid_unknown_fields=True):
    if_idle: bool = False


@router.get("/handshake")
async def handshake(request: Request) -> Response:
    """Which server this is, and whether it could be replaced without anybody noticing."""
    state = state_of(request)
    return answer(
        {
            **state.identity,
            "pid": os.getpid(),
            "busy": state.busy,
            "loaded": [instance.id for instance in state.models.loaded()],
            "listening": state.tcp.info.url if state.tcp.info else None,
        }
    )


@router.post("/shutdown")
async def shutdown(request: Request) -> Response:
    """End the server; with `if_idle` only if nothing is loaded, running or listening."""
    body = await read(request, _Shutdown)
    state = state_of(request)
    stopping = not (body.if_idle and state.busy)
    if stopping:
        state.stopping.set()
    return answer({"stopping": stopping})


@router.get("/status")
async def status(request: Request) -> Response:
    """Everything at a glance: server, devices, listener, loaded models."""
    state = state_of(request)
    return answer(
        {
            "server": {
                **state.identity,
                "pid": os.getpid(),
                "home": str(state.home),
                "uptime": time.time() - state.started_at,
                "log": str(log_path(state.home)),
            },
            "device": await state.devices.get(),
            "listener": state.tcp.info,
            "loaded": await rows(state.models.loaded()),
        }
    )


@router.get("/log")
async def log(request: Request) -> Response:
    """The last `lines` (100) lines of the server's log."""
    count = number(request, "lines", 100)
    path = log_path(state_of(request).home)
    return answer({"lines": await asyncio.to_thread(logs.tail, path, count)})
