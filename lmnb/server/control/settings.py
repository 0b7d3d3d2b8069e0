"""What the server goes by: its settings."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.config import WHEN_LISTENING, change_setting, describe
from lmnb.server.control.form import answer, read
from lmnb.server.state import state_of

router = APIRouter()


class _ChangedSetting(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    value: Any


@router.get("/settings")
async def settings(request: Request) -> Response:
    """All settings: `{"settings": [lmnb.config.Setting]}`."""
    return answer({"settings": await asyncio.to_thread(describe, state_of(request).settings)})


@router.patch("/settings")
async def edit_setting(request: Request) -> Response:
    """Set `name` to `value` (null: the default). `warnings` says if a port is open that keeps it."""
    body = await read(request, _ChangedSetting)
    state = state_of(request)
    await asyncio.to_thread(change_setting, state.settings, body.name, body.value)
    warnings = []
    if state.tcp.info and body.name in WHEN_LISTENING:
        warnings.append(f"{state.tcp.info.url} stays as it is until it is closed.")
    rows = await asyncio.to_thread(describe, state.settings)
    changed = next(row for row in rows if row.name == body.name)
    return answer({**msgspec.to_builtins(changed), "warnings": warnings})
