"""Who may talk to the TCP listener: API tokens, the Host header, the Origin header.

Nothing of this stands before the private socket: the file system guards that.
"""

from __future__ import annotations

import ipaddress
import socket

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmnb.errors import Forbidden, Unauthorized
from lmnb.server.errors import error_response
from lmnb.server.tokens import Permission, Token, Tokens

_LISTS = ("/api/v1/models", "/api/v0/models", "/v1/models", "/models")
"""Any token may read these: clients ask for a list before they do anything else."""

_DOWNLOADS = "/api/v1/models/download"

_NEEDED = (
    (_DOWNLOADS, Permission.DOWNLOADS),
    ("/api/v1/models", Permission.MODELS),
    ("/metrics", Permission.ADMINISTRATION),
)
"""What a token must permit to use what lies below a path, if not inference."""

TOKEN = "lmnb.token"  # noqa: S105 - the name of a key
"""Key in the ASGI scope of the token a request came with, where tokens are asked for."""


NETWORK = "lmnb.network"
"""Key in the ASGI scope of requests that came by TCP."""


def is_from_network(scope: Scope) -> bool:
    """Whether a request came by TCP, rather than through the user's private socket."""
    return NETWORK in scope


def permits(scope: Scope, permission: Permission) -> bool:
    """Whether the sender of a request may do that; without a gate that asks for tokens, it may."""
    token: Token | None = scope.get(TOKEN)
    return token is None or permission in token.permissions


class Gate:
    """ASGI: what a request over TCP must pass before the public app sees it.

    Parameters
    ----------
    tokens
        None lets everybody in.
    hosts
        Names to be accepted in the Host header beyond this machine's own; None accepts all.
    any_origin
        Web pages of any origin may send requests (the CORS setting).
    """

    OPEN = frozenset({"/", "/health", "/lmstudio-greeting"})
    """Paths that say nothing but that the server is there; probes reach them without a token."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens | None,
        hosts: tuple[str, ...] | None,
        any_origin: bool,
    ) -> None:
        self.app = app
        self.tokens = tokens
        self.hosts = None if hosts is None else {host.lower() for host in (*hosts, *_own_names())}
        self.any_origin = any_origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[NETWORK] = True
        error = self._check(scope)
        if error is None:
            if scope["type"] == "websocket":
                receive = self._while_permitted(scope, receive, send)
            await self.app(scope, receive, send)
        else:
            await error_response(scope, error)(scope, receive, send)

    def _while_permitted(self, scope: Scope, receive: Receive, send: Send) -> Receive:
        """A token that is taken away, or a permission of it, is gone for open connections, too."""

        async def checked() -> Message:
            message = await receive()
            if message["type"] != "websocket.receive" or (error := self._check(scope)) is None:
                return message
            # 1008: policy violation (RFC 6455, 7.4.1). A reason has 123 bytes at most.
            reason = error.message.encode()[:123].decode(errors="ignore")
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
            return {"type": "websocket.disconnect", "code": 1008}

        return checked

    def _check(self, scope: Scope) -> Forbidden | Unauthorized | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.hosts is not None and host and not host_allowed(host, self.hosts):
            return Forbidden(
                f"Requests addressed to {host} are refused, as a web page could cause them.",
                hint="Use 127.0.0.1 or localhost, or add the name to LMNB_ALLOWED_HOSTS.",
            )
        origin = headers.get(b"origin")
        if origin is not None and not self.any_origin and not origin_allowed(origin, host):
            return Forbidden(
                f"Requests of web pages from {origin} are refused.",
                hint="Start the server with LMNB_CORS=1 to allow them.",
            )
        if self.tokens is None or scope["path"] in self.OPEN:
            return None
        return _authorize(scope, headers, self.tokens)


def _authorize(
    scope: Scope, headers: dict[bytes, str], tokens: Tokens
) -> Forbidden | Unauthorized | None:
    """Find the request's token and put it into its scope, or say why it is not let in."""
    scheme, _, bearer = headers.get(b"authorization", "").strip().partition(" ")
    given = [headers.get(b"x-api-key", "").strip()]
    if scheme.lower() == "bearer":
        given.append(bearer.strip())
    # All are looked at: how long this takes tells nothing.
    found = [token for text in given if (token := tokens.verify(text)) is not None]
    if not found:
        return Unauthorized(
            "An API token is required to make requests to this server, but no valid one was given.",
            hint="Send it as `Authorization: Bearer TOKEN` or `x-api-key: TOKEN`; "
            "`lmnb token create NAME` makes one.",
        )
    scope[TOKEN] = found[0]
    return refusal(scope, _permission_for(scope.get("method", "GET"), scope["path"]))


def refusal(scope: Scope, permission: Permission | None) -> Forbidden | None:
    """What to answer a request that needs `permission` and came with a token that lacks it."""
    if permission is None or permits(scope, permission):
        return None
    name = scope[TOKEN].name
    return Forbidden(
        f"The API token {name!r} does not permit this: it lacks the permission {permission.value!r}.",
        hint=f"`lmnb token edit {name} --permissions …` changes what it permits.",
    )


def _permission_for(method: str, path: str) -> Permission | None:
    is_list = any(_below(path, listing) for listing in _LISTS) and not _below(path, _DOWNLOADS)
    if method in {"GET", "HEAD"} and is_list:
        return None
    known = (permission for prefix, permission in _NEEDED if _below(path, prefix))
    return next(known, Permission.INFERENCE)


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")


def host_allowed(host: str, names: set[str]) -> bool:
    """Whether a Host header can only come from somebody who means this machine.

    A page that rebinds its own DNS name to this machine sends that name; an address, `localhost`
    and names that public DNS does not serve cannot be rebound.
    """
    name = _without_port(host).lower().rstrip(".")
    if name in names or name == "localhost":
        return True
    if name.endswith((".localhost", ".local", ".internal")):
        return True
    return _is_address(name)


def origin_allowed(origin: str, host: str) -> bool:
    """Whether a request with this Origin comes from an app on this machine, or from the host itself.

    The list is the one local servers agree on (Ollama's): pages served from this machine, and
    desktop apps built on web views.
    """
    scheme, _, rest = origin.partition("://")
    if scheme in {"app", "file", "tauri", "vscode-webview", "vscode-file"}:
        return True
    name = _without_port(rest).lower()
    if scheme not in {"http", "https"}:
        return False
    return name in {"localhost", "127.0.0.1", "0.0.0.0", "::1"} or rest.lower() == host.lower()  # noqa: S104


def is_loopback(host: str) -> bool:
    """Whether listening on `host` reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_names() -> tuple[str, ...]:
    name = socket.gethostname()
    return name, name.split(".")[0]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") <= 1 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
