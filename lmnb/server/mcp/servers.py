"""Which MCP servers there are: named by a request, or configured in `$LMNB_HOME/mcp.json`.

The file has the form that LM Studio, Claude Desktop and Cursor share: `{"mcpServers": {label:
{"command", "args", "env", "cwd"} | {"url", "headers"}}}`; `"disabled": true` leaves one out. A remote server may have a client for
OAuth that was registered by hand: `"auth": {"CLIENT_ID", "CLIENT_SECRET", "scopes"}`, or `"oauth":
{"clientId", "clientSecret", "callbackPort", "scopes"}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

import msgspec

from lmnb.config import read_json
from lmnb.errors import ConfigError, InvalidRequest, NotFound
from lmnb.server.mcp.filters import ALL, NEEDLESS, Approval, Filter

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""RFC 9110, 5.6.2."""
PLUGIN = "mcp/"
"""What comes before the label of a configured server in LM Studio's API."""


class OAuthClient(msgspec.Struct, frozen=True):
    """What lmnb is to an authorization server with which it was registered by hand.

    port
        Where logins have to come back to, at `http://localhost:PORT/callback`; None is lmnb's choice.
    scopes
        What to ask for; () is what the server wants.
    """

    id: str | None = None
    secret: str | None = None
    port: int | None = None
    scopes: tuple[str, ...] = ()


class Remote(msgspec.Struct, frozen=True):
    """A server that is spoken to by HTTP (the protocol's "streamable HTTP").

    `client` is for logging in; None is one that registers itself.
    """

    url: str
    headers: Mapping[str, str] = {}
    client: OAuthClient | None = None


class Local(msgspec.Struct, frozen=True):
    """A program of this machine, spoken to through its standard input and output.

    `env` comes on top of the few variables that every program needs (`PATH`, `HOME`, …).
    """

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    cwd: str | None = None


Place: TypeAlias = Remote | Local


class Server(msgspec.Struct, frozen=True):
    """One server for one request.

    label
        What it is called; part of the names of tools that two servers have.
    allowed
        The tools that the model may see.
    is_configured
        It stands in `mcp.json`, so it may be kept running from request to request.
    approval
        Which calls somebody has to agree to.
    param
        The field of the request that names it, for errors.
    """

    label: str
    place: Place
    allowed: Filter = ALL
    is_configured: bool = False
    approval: Approval = NEEDLESS
    param: str | None = None


def remote(label: str, url: str, headers: Mapping[str, str] | None, *, param: str) -> Remote:
    """A server that a request names.

    Raises
    ------
    InvalidRequest
        The label, the URL or a header cannot be one; `param` is the field that names the server.
    """
    if not label.strip():
        raise InvalidRequest("An MCP server needs a label.", param=param)
    place = Remote(url, dict(headers or {}))
    if (wrong := _wrong(place)) is not None:
        raise InvalidRequest(wrong, param=param)
    return place


def path(home: Path) -> Path:
    """The file."""
    return home / "mcp.json"


def configured(home: Path) -> dict[str, Place]:
    """The servers of `mcp.json`, by label; none without the file. Blocks (disk).

    Raises
    ------
    ConfigError
        The file cannot be understood; the message names the entry.
    """
    data = read_json(path(home), {"mcpServers": {}})
    servers = data.get("mcpServers") if isinstance(data, dict) else None
    if not isinstance(servers, dict):
        raise ConfigError(f'{path(home)} must hold {{"mcpServers": {{…}}}}.')
    return {
        label: parse(entry, f"{path(home)}, {label}")
        for label, entry in servers.items()
        if not (isinstance(entry, dict) and entry.get("disabled") is True)
    }


def find(known: Mapping[str, Place], name: str, *, param: str) -> tuple[str, Place]:
    """Label and place of the configured server `mcp/<label>`.

    Raises
    ------
    NotFound
        There is none of that label.
    """
    label = name.removeprefix(PLUGIN)
    if not name.startswith(PLUGIN) or label not in known:
        names = ", ".join(f"{PLUGIN}{each}" for each in known) or "none"
        raise NotFound(
            f"There is no integration {name!r}.", hint=f"mcp.json has {names}.", param=param
        )
    return label, known[label]


def parse(entry: Any, where: str) -> Place:
    """One entry of the file.

    Raises
    ------
    ConfigError
        It cannot be understood; the message begins with `where`.
    """
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} must be an object.")
    kinds = [name for name in ("command", "url") if name in entry]
    if len(kinds) != 1:
        raise ConfigError(f"{where} needs either a command or a url.")
    try:
        if kinds == ["command"]:
            return msgspec.convert(entry, Local)
        place = msgspec.convert({"headers": {}, **entry, "client": None}, Remote)
        place = msgspec.structs.replace(place, client=_client(entry))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}.") from None
    if (wrong := _wrong(place)) is not None:
        raise ConfigError(f"{where}: {wrong}")
    return place


def _wrong(place: Remote) -> str | None:
    """What no request could be made with. The values of headers are not repeated: they are secret."""
    try:
        parts = urlsplit(place.url)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or any(letter.isspace() for letter in place.url):
        return f"{place.url!r} is no http:// or https:// URL."
    for name, value in place.headers.items():
        if not _HEADER.fullmatch(name):
            return f"{name!r} cannot be the name of a header."
        if not (value.isascii() and value.isprintable()) or value != value.strip():
            return f"The header {name} has what no HTTP header can carry, or white space around it."
    return None


class _CursorAuth(msgspec.Struct, rename=str.upper):
    """Cursor's, and LM Studio's."""

    client_id: str
    client_secret: str | None = None
    scopes: list[str] | str = msgspec.field(default_factory=list, name="scopes")


class _ClaudeOAuth(msgspec.Struct, rename="camel"):
    """Claude Code's, which keeps the secret elsewhere."""

    client_id: str | None = None
    client_secret: str | None = None
    callback_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    scopes: list[str] | str = []


def _client(entry: dict[str, Any]) -> OAuthClient | None:
    found: _CursorAuth | _ClaudeOAuth
    port = None
    if isinstance(entry.get("auth"), dict):
        found = msgspec.convert(entry["auth"], _CursorAuth)
    elif isinstance(entry.get("oauth"), dict):
        found = msgspec.convert(entry["oauth"], _ClaudeOAuth)
        port = found.callback_port
    else:
        return None
    scopes = found.scopes.split() if isinstance(found.scopes, str) else found.scopes
    return OAuthClient(found.client_id, found.client_secret, port, tuple(scopes))
