"""An MCP server that wants to know who uses it, and the authorization server it trusts.

Both by the official SDK, each on a port of its own, in a thread of the test. Whoever comes is let in,
as if a user had clicked on "Allow".
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    OAuthAuthorizationServerProvider,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.routes import create_auth_routes
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class Authority(OAuthAuthorizationServerProvider[AuthorizationCode, RefreshToken, AccessToken]):
    """Knows its clients and tokens; tests look at them, and take them away."""

    def __init__(self) -> None:
        self.url = ""
        self.clients: dict[str, OAuthClientInformationFull] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.access: dict[str, AccessToken] = {}
        self.refresh: dict[str, RefreshToken] = {}
        self.renewed = 0
        self.asked: list[AuthorizationParams] = []
        self.denies = False
        self.is_broken = False
        self.secrets: set[str] = set()
        """All that nobody else should ever see."""

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        self.clients[client_info.client_id] = client_info

    async def authorize(
        self, client: OAuthClientInformationFull, params: AuthorizationParams
    ) -> str:
        self.asked.append(params)
        back = str(params.redirect_uri)
        if self.denies:
            return construct_redirect_uri(back, error="access_denied", state=params.state)
        code = AuthorizationCode(
            code=self._secret(),
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        self.codes[code.code] = code
        return construct_redirect_uri(back, code=code.code, state=params.state)

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        code = self.codes.get(authorization_code)
        return code if code and code.client_id == client.client_id else None

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        del self.codes[authorization_code.code]
        return self._tokens(client, authorization_code.scopes, authorization_code.resource)

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: str
    ) -> RefreshToken | None:
        token = self.refresh.get(refresh_token)
        return token if token and token.client_id == client.client_id else None

    async def exchange_refresh_token(
        self,
        client: OAuthClientInformationFull,
        refresh_token: RefreshToken,
        scopes: list[str],
    ) -> OAuthToken:
        """Each is good once, as OAuth 2.1 has it for public clients."""
        del self.refresh[refresh_token.token]
        self.renewed += 1
        return self._tokens(client, scopes, refresh_token.resource)

    async def load_access_token(self, token: str) -> AccessToken | None:
        return self.access.get(token)

    async def verify_token(self, token: str) -> AccessToken | None:
        """For the MCP server."""
        return self.access.get(token)

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        self.access.pop(token.token, None)

    def _secret(self) -> str:
        self.secrets.add(found := secrets.token_hex(20))
        return found

    def _tokens(
        self, client: OAuthClientInformationFull, scopes: list[str], resource: str | None
    ) -> OAuthToken:
        access, refresh = self._secret(), self._secret()
        name = client.client_id
        self.access[access] = AccessToken(
            token=access, client_id=name, scopes=scopes, resource=resource
        )
        self.refresh[refresh] = RefreshToken(
            token=refresh, client_id=name, scopes=scopes, resource=resource
        )
        return OAuthToken(
            access_token=access,
            refresh_token=refresh,
            expires_in=3600,
            scope=" ".join(scopes),
        )


@contextmanager
def running() -> Iterator[tuple[Authority, str]]:
    """The authority, and the URL of the MCP server."""
    authority = Authority()
    ours, theirs = _bound(), _bound()
    authority.url = f"http://127.0.0.1:{theirs.getsockname()[1]}"
    url = f"http://127.0.0.1:{ours.getsockname()[1]}/mcp"
    options = ClientRegistrationOptions(
        enabled=True, valid_scopes=["use", "more"], default_scopes=["use"]
    )
    routes = create_auth_routes(
        authority, AnyHttpUrl(authority.url), client_registration_options=options
    )
    server = MCPServer(
        "careful",
        token_verifier=authority,
        auth=AuthSettings(
            issuer_url=AnyHttpUrl(authority.url),
            resource_server_url=AnyHttpUrl(url),
            required_scopes=["use"],
            validate_token_resource=True,
        ),
    )

    @server.tool()
    def who() -> str:
        """Whom it takes one for."""
        return "a friend"

    with (
        _served(_Breakable(Starlette(routes=routes), authority), theirs),
        _served(server.streamable_http_app(), ours),
    ):
        yield authority, url


class _Breakable:
    """Answers nothing but 503 when it is broken."""

    def __init__(self, app: ASGIApp, authority: Authority) -> None:
        self._app = app
        self._authority = authority

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._authority.is_broken:
            await Request(scope, receive).body()
            await Response(status_code=503)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


@contextmanager
def _served(app: ASGIApp, sock: socket.socket) -> Iterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(15)
        sock.close()
