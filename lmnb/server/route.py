"""What requests are counted and listed by: the path of their route."""

from __future__ import annotations

from starlette.types import Scope


def route_of(scope: Scope) -> str | None:
    """The path with names for what differs from request to request; there are only so many.

    Known once the request has been routed; None if there is no such route.
    """
    if "endpoint" not in scope:
        return None
    rest, tail = f"{scope['path']}/", ""
    for name, value in reversed(scope.get("path_params", {}).items()):
        # Whole segments, from the right: one value may be part of another, or of a route's name.
        before, found, after = rest.rpartition(f"/{value}/")
        if not found:
            return None
        rest, tail = f"{before}/", f"{{{name}}}/{after}{tail}"
    return f"{rest}{tail}".rstrip("/") or "/"
