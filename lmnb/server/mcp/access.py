"""Who may have the model call which MCP servers (LM Studio's developer docs, "Server Settings")."""

from __future__ import annotations

from starlette.types import Scope

from lmnb.config import Settings
from lmnb.errors import Forbidden
from lmnb.server.auth import TOKEN, is_from_network, refusal
from lmnb.server.tokens import Permission


def ensure_allowed(scope: Scope, settings: Settings, *, is_configured: bool, param: str) -> None:
    """Check a request that names a server: one of `mcp.json`, or else one of its own.

    The private socket is the user's own, who may start programs anyway; all is allowed there.

    Raises
    ------
    Forbidden
        The settings do not allow it, the token does not, or there is no token where one is needed.
    """
    if not is_from_network(scope):
        return
    setting = "allow_configured_mcp" if is_configured else "allow_request_mcp"
    if not getattr(settings, setting):
        which = "of mcp.json" if is_configured else "that requests name"
        raise Forbidden(
            f"MCP servers {which} are not allowed here.",
            hint=f"`lmnb settings {setting} on` allows them.",
            param=param,
        )
    if is_configured and TOKEN not in scope:
        raise Forbidden(
            "MCP servers of mcp.json can reach this machine's files, so they need an API token.",
            hint="Serve with --require-auth, and give a token the permission mcp.",
            param=param,
        )
    if (refused := refusal(scope, Permission.MCP)) is not None:
        refused.param = param
        raise refused
