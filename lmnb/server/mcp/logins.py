"""Logins to MCP servers, in `$LMNB_HOME/mcp-logins.json`, which only its owner may read.

What is in it is never shown or logged: whoever has it can do with a server what the user can.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec

from lmnb.config import read_json, write_whole
from lmnb.errors import ConfigError


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Who somebody is to a server. The parts are JSON of the SDK's types of these names.

    url
        The server's: a login goes nowhere else, whatever `mcp.json` says later.
    tokens
        `OAuthToken`.
    expires_at
        When the access token does, in seconds since the epoch, if that is known.
    client
        `OAuthClientInformationFull`: what lmnb is to the authorization server.
    server
        `OAuthMetadata` of the authorization server, if it tells of itself.
    resource
        `ProtectedResourceMetadata` of the MCP server, if it tells of itself.
    """

    url: str
    tokens: dict[str, Any]
    expires_at: float | None = None
    client: dict[str, Any]
    server: dict[str, Any] | None = None
    resource: dict[str, Any] | None = None


class Logins:
    """All of them. Every method blocks (disk)."""

    def __init__(self, home: Path) -> None:
        self._path = home / "mcp-logins.json"
        self._changing = threading.Lock()

    def find(self, label: str, url: str) -> Login | None:
        """The login to the server of that label, if it is at `url`."""
        login = self._read().get(label)
        return login if login is not None and login.url == url else None

    def save(self, label: str, login: Login) -> None:
        """Keep it, in place of an earlier one. It is on the disk when this returns."""
        with self._changing:
            self._write({**self._read(), label: login})

    def renew(self, label: str, login: Login) -> None:
        """Keep it in place of the earlier one, unless that was removed meanwhile."""
        with self._changing:
            known = self._read()
            if label in known:
                self._write({**known, label: login})

    def remove(self, label: str) -> bool:
        """Forget it; whether there was one."""
        with self._changing:
            known = self._read()
            if known.pop(label, None) is None:
                return False
            self._write(known)
            return True

    def _read(self) -> dict[str, Login]:
        try:
            return msgspec.convert(read_json(self._path, {}), dict[str, Login])
        except msgspec.ValidationError:
            # Not what is wrong with it: that could quote a token.
            raise ConfigError(
                f"{self._path} cannot be understood.", hint="Remove it, and log in again."
            ) from None

    def _write(self, logins: dict[str, Login]) -> None:
        write_whole(self._path, msgspec.json.encode(logins), mode=0o600)
