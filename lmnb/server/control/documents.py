"""The text of files, for tables of documents: PDFs, which are read in a process that may die of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.errors import InvalidRequest
from lmnb.server.control.form import answer, read
from lmnb.server.disconnect import until_disconnect
from lmnb.server.state import state_of

router = APIRouter()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    path: str


@router.post("/pdf")
async def pdf(request: Request) -> Response:
    """The text of the PDF at `path`: `{"pages": [text]}`, "" for a page without any."""
    body = await read(request, _File)
    try:
        data = await asyncio.to_thread(Path(body.path).read_bytes)
    except OSError as error:
        raise InvalidRequest(f"{body.path} cannot be read: {error.strerror}.") from None
    pages = await until_disconnect(request, state_of(request).documents.whole(data))
    return answer({"pages": pages})
