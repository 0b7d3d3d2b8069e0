"""Tools of the type `mcp`: which servers, which of their tools, and who has to agree to calls.

A server is a remote one with a `server_url`, or, without, the one of `mcp.json` that has the label.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.types import Scope

from lmnb.server.mcp import servers
from lmnb.server.mcp.access import ensure_allowed
from lmnb.server.mcp.filters import ALL, NEEDLESS, Approval, Filter
from lmnb.server.mcp.servers import Remote, Server
from lmnb.server.openai.errors import (
    InvalidType,
    InvalidValue,
    MissingParameter,
    UnsupportedParameter,
)
from lmnb.server.openai.values import array, json_type, mapping, string
from lmnb.server.state import State

_ASKS = Approval(free=None)
"""OpenAI's default: somebody has to agree to every call."""
_SECRETS = ("authorization", "headers")


class McpTool(msgspec.Struct, frozen=True):
    """A server as a request names it. `place` is None if it stands in `mcp.json`."""

    label: str
    place: Remote | None
    allowed: Filter
    approval: Approval
    where: str


def mcp_tool(data: dict[str, Any], where: str) -> McpTool:
    """A tool of the type `mcp`.

    Raises
    ------
    UnsupportedParameter
        It is one of OpenAI's connectors, or behind a tunnel of theirs.
    InvalidRequest
        Something else is wrong; `param` names the place.
    """
    for field in ("connector_id", "tunnel_id"):
        if data.get(field) is not None:
            raise UnsupportedParameter(
                f"'{where}.{field}' is not supported: such servers are reached through OpenAI only.",
                hint="Send a 'server_url'.",
                param=f"{where}.{field}",
            )
    label = string(data, "server_label", where)
    if not label.strip():
        raise InvalidValue(
            f"'{where}.server_label' must not be empty.", param=f"{where}.server_label"
        )
    headers = _headers(data, where)
    place = None
    if data.get("server_url") is not None or headers:
        url = string(data, "server_url", where)
        place = servers.remote(label, url, headers, param=f"{where}.server_url")
    allowed = _filter(data.get("allowed_tools"), f"{where}.allowed_tools")
    approval = _approval(data.get("require_approval"), f"{where}.require_approval")
    return McpTool(label, place, allowed or ALL, approval, where)


def resolve(tools: Iterable[McpTool], scope: Scope, state: State) -> tuple[Server, ...]:
    """The servers. Blocks (disk) if one stands in `mcp.json`.

    Raises
    ------
    Forbidden
        The settings or the token do not allow them.
    MissingParameter, ConfigError
        One has no URL, and there is none of its label in `mcp.json`; or that file is broken.
    """
    return tuple(_resolved(tool, scope, state) for tool in tools)


def without_secrets(tool: Any) -> Any:
    """A tool as the response repeats it: what is stored has no passwords."""
    if not isinstance(tool, dict) or tool.get("type") != "mcp":
        return tool
    return {key: value for key, value in tool.items() if key not in _SECRETS}


def _resolved(tool: McpTool, scope: Scope, state: State) -> Server:
    is_configured = tool.place is None
    ensure_allowed(scope, state.settings, is_configured=is_configured, param=tool.where)
    place: servers.Place | None = tool.place
    if place is None:
        known = servers.configured(state.home)
        place = known.get(tool.label)
        if place is None:
            param = f"{tool.where}.server_url"
            raise MissingParameter(
                f"Missing required parameter: '{param}'.",
                hint=f"Without it, 'server_label' is that of a server of mcp.json, which has "
                f"{', '.join(known) or 'none'}.",
                param=param,
            )
    return Server(
        tool.label,
        place,
        tool.allowed,
        is_configured=is_configured,
        approval=tool.approval,
        param=tool.where,
    )


def _headers(data: dict[str, Any], where: str) -> dict[str, str]:
    at = f"{where}.headers"
    found = {} if data.get("headers") is None else mapping(data["headers"], at)
    headers = {name: string(found, name, at) for name in found}
    if data.get("authorization") is None:
        return headers
    if any(name.lower() == "authorization" for name in headers):
        raise InvalidValue(
            f"'{where}' has an 'authorization' besides the header of that name.",
            hint="Send one of them.",
            param=f"{where}.authorization",
        )
    return {**headers, "Authorization": f"Bearer {string(data, 'authorization', where)}"}


def _filter(value: Any, where: str) -> Filter | None:
    """Names of tools, or an object with conditions; None if there are none."""
    if value is None:
        return None
    if isinstance(value, list):
        return Filter(_names(value, where))
    found = mapping(value, where)
    read_only = found.get("read_only")
    if read_only is not None and not isinstance(read_only, bool):
        raise InvalidType(
            f"Invalid type for '{where}.read_only': expected a boolean, "
            f"got {json_type(read_only)}.",
            param=f"{where}.read_only",
        )
    given = found.get("tool_names")
    names = None if given is None else _names(array(given, f"{where}.tool_names"), where)
    return None if names is None and read_only is None else Filter(names, read_only)


def _names(values: list[Any], where: str) -> frozenset[str]:
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise InvalidType(
                f"Invalid type for '{where}[{i}]': expected a string, got {json_type(value)}.",
                param=f"{where}[{i}]",
            )
    return frozenset(values)


def _approval(value: Any, where: str) -> Approval:
    if value is None:
        return _ASKS
    if isinstance(value, str):
        if value not in ("always", "never"):
            raise InvalidValue(
                f"Invalid value for '{where}': expected 'always', 'never' or an object, "
                f"got '{value}'.",
                param=where,
            )
        return _ASKS if value == "always" else NEEDLESS
    found = mapping(value, where)
    free, guarded = (_filter(found.get(key), f"{where}.{key}") for key in ("never", "always"))
    return Approval(free, guarded)
