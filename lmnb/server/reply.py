"""Plain answers, of all protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.responses import Response


def reply(value: Any, *, encode: Callable[[Any], Any] | None = None) -> Response:
    """`value` as JSON; `encode` turns what msgspec does not know into what it does."""
    content = msgspec.json.encode(value, enc_hook=encode)
    return Response(content, media_type="application/json")
