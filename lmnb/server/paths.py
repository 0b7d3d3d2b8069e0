"""Base URLs given a little wrong: `/v1` doubled or left out, a slash at the end.

Some clients add `/v1` to what they are given, others do not, and people cannot know which.
llama.cpp's server has both, too (protocols, 1.0). Query strings are no part of the path.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_DOUBLED = re.compile(r"^/v1(?:/v1)+(?=/)")
_BARE = re.compile(
    r"^/(?:chat/completions|completions|embeddings|rerank|models|responses|conversations"
    r"|messages|files|batches)(?:/|$)"
)


def corrected(path: str) -> str:
    """The path that is meant."""
    path = path.rstrip("/") or "/"
    path = _DOUBLED.sub("/v1", path)
    return f"/v1{path}" if _BARE.match(path) else path


class TolerantPaths:
    """ASGI: routes see the path that is meant; the log has the one that was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "path" in scope:
            scope["path"] = corrected(scope["path"])  # in place: who ends streams looks there, too
        await self._app(scope, receive, send)
