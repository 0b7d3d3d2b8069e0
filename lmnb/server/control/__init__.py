"""`/lmnb/*`, on the private socket only: what magics, widgets and the command line use.

Answers are JSON. Errors are `{"error": LmnbError.to_dict()}`, which the client turns back into the
same exception. What takes long answers with server-sent events, the last of them `done` or `error`.
"""

from __future__ import annotations

from fastapi import APIRouter

from lmnb.server.control import (
    access,
    answers,
    chunks,
    conversions,
    documents,
    downloads,
    endpoints,
    events,
    mcp,
    models,
    rendering,
    requests,
    search,
    server,
    settings,
)

router = APIRouter(prefix="/lmnb")
_PARTS = (
    server,
    models,
    rendering,
    answers,
    chunks,
    conversions,
    documents,
    search,
    downloads,
    requests,
    access,
    settings,
    endpoints,
    mcp,
    events,
)
for _part in _PARTS:
    router.include_router(_part.router)
