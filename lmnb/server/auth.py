"""Who may talk to the TCP listener: API tokens, the Host header, the Origin header.

Nothing of this stands before the private socket: the file system guards that.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import string
import time
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from lmnb.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from lmnb.server.database import Database
from lmnb.server.errors import error_response

_ALPHABET = string.ascii_letters + string.digits
_TOKEN = re.compile(r"sk-lm-([A-Za-z0-9]{8}):[A-Za-z0-9]{20}")
_NO_HASH = bytes(32)


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An API token as it may be shown: never the secret. Times are seconds since the epoch."""

    id: str
    name: str
    created_at: float


class Tokens:
    """API tokens: named, shown once, kept as SHA-256 (they are random enough for a plain hash).

    The form `sk-lm-XXXXXXXX:` and 20 more letters or digits is LM Studio's: its SDKs check it.
    Reading is done in memory, so that a request costs no query.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        database.execute(
            "CREATE TABLE IF NOT EXISTS tokens "
            "(id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, hash BLOB NOT NULL, created_at REAL)"
        )
        rows = database.execute("SELECT id, name, hash, created_at FROM tokens ORDER BY created_at")
        self._hashes: dict[str, bytes] = {row[0]: row[2] for row in rows}
        self._tokens = {row[0]: Token(id=row[0], name=row[1], created_at=row[3]) for row in rows}

    def __len__(self) -> int:
        return len(self._tokens)

    def all(self) -> list[Token]:
        """All tokens, oldest first."""
        return list(self._tokens.values())

    def create(self, name: str) -> tuple[Token, str]:
        """A new token and its secret text, which cannot be had again. Blocks (disk).

        Raises
        ------
        InvalidRequest
            The name is empty or taken.
        """
        name = name.strip()
        if not name:
            raise InvalidRequest("A token needs a name.", param="name")
        if any(token.name == name for token in self._tokens.values()):
            raise InvalidRequest(
                f"There is a token named {name!r} already.",
                hint="Choose another name, or remove that token first.",
                param="name",
            )
        token = Token(id=_random(8), name=name, created_at=time.time())
        text = f"sk-lm-{token.id}:{_random(20)}"
        digest = hashlib.sha256(text.encode()).digest()
        self._database.execute(
            "INSERT INTO tokens VALUES (?, ?, ?, ?)", (token.id, name, digest, token.created_at)
        )
        self._hashes[token.id] = digest
        self._tokens[token.id] = token
        return token, text

    def remove(self, name: str) -> Token:
        """Remove the token of that name or id; it is refused from now on. Blocks (disk)."""
        found = [token for token in self._tokens.values() if name in {token.id, token.name}]
        if not found:
            raise NotFound(f"There is no token {name!r}.", param="name")
        self._database.execute("DELETE FROM tokens WHERE id = ?", (found[0].id,))
        del self._hashes[found[0].id]
        return self._tokens.pop(found[0].id)

    def verify(self, text: str) -> bool:
        """Whether `text` is a token. The comparison takes the same time for all wrong secrets."""
        match = _TOKEN.fullmatch(text)
        known = self._hashes.get(match[1], _NO_HASH) if match else _NO_HASH
        return hmac.compare_digest(known, hashlib.sha256(text.encode()).digest())


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
        error = self._check(scope)
        if error is None:
            await self.app(scope, receive, send)
        else:
            await error_response(scope, error)(scope, receive, send)

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
        if self.tokens is None or scope["path"] in self.OPEN or self._authorized(headers):
            return None
        return Unauthorized(
            "An API token is required to make requests to this server, but no valid one was given.",
            hint="Send it as `Authorization: Bearer TOKEN` or `x-api-key: TOKEN`; "
            "`lmnb token create NAME` makes one.",
        )

    def _authorized(self, headers: dict[bytes, Any]) -> bool:
        assert self.tokens is not None
        scheme, _, bearer = headers.get(b"authorization", "").strip().partition(" ")
        given = [headers.get(b"x-api-key", "").strip()]
        if scheme.lower() == "bearer":
            given.append(bearer.strip())
        return any(self.tokens.verify(text) for text in given)


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


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
