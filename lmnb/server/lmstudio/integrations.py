"""`integrations` of a chat: which MCP servers it may use."""

from __future__ import annotations

from starlette.types import Scope

from lmnb.errors import InvalidRequest
from lmnb.server.lmstudio.schema import ChatBody, EphemeralMcp, PluginIntegration
from lmnb.server.mcp import servers
from lmnb.server.mcp.access import ensure_allowed
from lmnb.server.mcp.filters import ALL, Filter
from lmnb.server.mcp.servers import Server
from lmnb.server.state import State


def integrations(body: ChatBody, scope: Scope, state: State) -> tuple[Server, ...]:
    """The servers that the request names. Blocks (disk).

    Raises
    ------
    Forbidden
        The settings or the token do not allow them.
    InvalidRequest, NotFound, ConfigError
        A server is named twice, cannot be one, is not in `mcp.json`, or that file is broken.
    """
    given = body.integrations or ()
    found: list[Server] = []
    known = None
    for i, entry in enumerate(given):
        where = f"integrations[{i}]"
        if isinstance(entry, EphemeralMcp):
            ensure_allowed(scope, state.settings, is_configured=False, param=where)
            place = servers.remote(entry.server_label, entry.server_url, entry.headers, param=where)
            allowed = _allowed(entry.allowed_tools)
            found.append(Server(entry.server_label, place, allowed, param=where))
            continue
        ensure_allowed(scope, state.settings, is_configured=True, param=where)
        plugin = PluginIntegration(entry) if isinstance(entry, str) else entry
        known = servers.configured(state.home) if known is None else known
        label, configured = servers.find(known, plugin.id, param=where)
        allowed = _allowed(plugin.allowed_tools)
        found.append(Server(label, configured, allowed, is_configured=True, param=where))
    labels = [(server.label, server.is_configured) for server in found]
    if len(set(labels)) < len(labels):
        raise InvalidRequest("An integration is named twice.", param="integrations")
    return tuple(found)


def _allowed(names: tuple[str, ...] | None) -> Filter:
    return ALL if names is None else Filter(frozenset(names))
