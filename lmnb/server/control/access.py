"""Who may come in: the TCP listener and the API tokens."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.server.control.form import answer, read
from lmnb.server.state import state_of
from lmnb.server.tokens import USUAL

router = APIRouter()


class _Listen(msgspec.Struct, forbid_unknown_fields=True):
    host: str | None = None
    port: int | None = None
    require_auth: bool | None = None
    allow_open: bool = False


class _NewToken(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    permissions: list[str] | None = None


class _EditedToken(msgspec.Struct, forbid_unknown_fields=True):
    new_name: str | None = None
    permissions: list[str] | None = None


@router.post("/listener")
async def listen(request: Request) -> Response:
    """Open the TCP listener. `opened` is false if it was open already."""
    body = await read(request, _Listen)
    state = state_of(request)
    info, opened = await state.tcp.open(
        body.host, body.port, require_auth=body.require_auth, allow_open=body.allow_open
    )
    warnings = []
    if info.require_auth and not len(state.tokens):
        warnings.append("There is no API token yet; `lmnb token create NAME` makes one.")
    return answer({**msgspec.to_builtins(info), "opened": opened, "warnings": warnings})


@router.delete("/listener")
async def stop_listening(request: Request) -> Response:
    """Close the TCP listener and end its streams. Models stay loaded."""
    return answer({"closed": await state_of(request).tcp.close()})


@router.get("/tokens")
async def tokens(request: Request) -> Response:
    """The API tokens, without their secrets."""
    return answer({"tokens": state_of(request).tokens.all()})


@router.post("/tokens")
async def create_token(request: Request) -> Response:
    """A new API token. `token` is its secret text, said this once."""
    body = await read(request, _NewToken)
    tokens = state_of(request).tokens
    permissions = USUAL if body.permissions is None else body.permissions
    token, text = await asyncio.to_thread(tokens.create, body.name, permissions)
    return answer({**msgspec.to_builtins(token), "token": text})


@router.patch("/tokens")
async def edit_token(request: Request) -> Response:
    """Change name or permissions of the token that `?name=` names, by name or id."""
    body = await read(request, _EditedToken)
    name = request.query_params.get("name", "")
    edit = partial(state_of(request).tokens.edit, new_name=body.new_name)
    return answer(await asyncio.to_thread(edit, name, permissions=body.permissions))


@router.delete("/tokens")
async def remove_token(request: Request) -> Response:
    """Remove the token that `?name=` names, by name or id."""
    name = request.query_params.get("name", "")
    return answer(await asyncio.to_thread(state_of(request).tokens.remove, name))
