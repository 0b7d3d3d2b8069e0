"""Endpoints: other servers whose models are used like those of this machine."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.server.control.form import answer, read
from lmnb.server.remote.showing import endpoint_row
from lmnb.server.state import state_of

router = APIRouter()


class _Connect(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    name: str | None = None
    key_env: str | None = None
    key: str | None = None
    save_key: bool = False


@router.get("/endpoints")
async def endpoints(request: Request) -> Response:
    """All endpoints, as far as is known; nothing is waited for long."""
    known = state_of(request).endpoints
    await known.ensure_read()
    links = await known.listed()
    return answer({"endpoints": [endpoint_row(link) for link in links]})


@router.post("/endpoints")
async def connect(request: Request) -> Response:
    """Add an endpoint, or change the one of that name. It has to answer."""
    body = await read(request, _Connect)
    link = await state_of(request).endpoints.connect(
        body.url, body.name, body.key_env, key=body.key, save_key=body.save_key
    )
    return answer(endpoint_row(link))


@router.delete("/endpoints")
async def disconnect(request: Request) -> Response:
    """Forget the endpoint that `?name=` names. What it is answering goes on."""
    name = request.query_params.get("name", "")
    return answer(endpoint_row(await state_of(request).endpoints.disconnect(name)))
