"""`/lmnb/events`: one stream of what changes, for widgets.

Each event is the whole of what they show, which is small: whoever comes late or has missed one is
right again with the next, and nothing in the server has to report its changes. It is looked at
twice a second for each follower, and not at all without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.server import sse
from lmnb.server.control.form import encode, error_frame, row
from lmnb.server.control.present import coming_and_going
from lmnb.server.state import State, state_of

PATH = "/lmnb/events"
_PAUSE = 0.5
_DOWNLOADS = 20
"""So many of the newest downloads are shown, and those that have not ended."""
_PASSING = frozenset({"ttl_left", "seconds_left"})
"""Fields that time alone changes: followers count on by themselves."""

router = APIRouter()


@router.get(PATH.removeprefix("/lmnb"))
async def events(request: Request) -> Response:
    """Events `state`: the first at once, later ones when something has changed.

    What `ps` has but for `endpoints`, its rows of `loaded` with `expires` (changes when a TTL starts
    anew) and `tokens_per_second` (of the last answer, or None); `listener`; `requests` of other
    programs that are being answered, `{method, path, started_at}`; the newest `downloads`
    (`lmnb.server.downloads.Job`); `tokens`; `settings`, `{host, port, require_auth, cors}`.
    """
    state = state_of(request)

    async def frames() -> AsyncGenerator[bytes, None]:
        last: Any = None
        while True:
            now = _snapshot(state)
            if (lasting := _lasting(now)) != last:
                last = lasting
                yield sse.frame(now, "state")
            await asyncio.sleep(_PAUSE)

    return sse.stream(frames(), on_error=error_frame)


def _snapshot(state: State) -> dict[str, Any]:
    settings = state.settings
    built: dict[str, Any] = msgspec.to_builtins(
        {
            "loaded": [
                row(one) | {"expires": one.expires, "tokens_per_second": one.tokens_per_second}
                for one in state.models.loaded()
            ],
            **coming_and_going(state),
            "listener": state.tcp.info,
            "requests": [
                {"method": one.method, "path": one.path, "started_at": one.started_at}
                for one in state.activity.requests
                if not one.path.startswith("/lmnb/")
            ],
            "downloads": state.downloads.latest(_DOWNLOADS),
            "tokens": state.tokens.all(),
            "settings": {
                name: getattr(settings, name) for name in ("host", "port", "require_auth", "cors")
            },
        },
        enc_hook=encode,
    )
    return built


def _lasting(value: Any) -> Any:
    """The same without what time alone changes."""
    match value:
        case dict():
            return {name: _lasting(one) for name, one in value.items() if name not in _PASSING}
        case list():
            return [_lasting(one) for one in value]
    return value
