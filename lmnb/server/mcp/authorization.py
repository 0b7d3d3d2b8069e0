"""How requests to an MCP server say who sends them, with nobody there to be asked.

The SDK's OAuth client makes expired tokens new. It would also begin to log in by itself where that
does not help, and holds a lock for as long as a server takes to answer; so it is only asked for
tokens here, and requests are sent without it. Logging in is `login`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import httpx2

from lmnb.server.mcp.faults import Fault, LoginNeeded
from lmnb.server.mcp.http import Bounded
from lmnb.server.mcp.logins import Login, Logins

if TYPE_CHECKING:
    from mcp.client.auth import OAuthClientProvider, TokenStorage

_UNAUTHORIZED = 401
_TOO_MANY, _BROKEN = 429, 500
_VERSION = "mcp-protocol-version"
_PATIENCE = 30.0
_LONG_AGO = 1.0
"""A time at which no token is good any more. (0 would mean that it is not known.)"""


class Refused(httpx2.Auth):
    """Nothing is added to requests. Who is not let in so is told `what`."""

    def __init__(self, what: str) -> None:
        self._what = what

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        response = yield request
        if response.status_code == _UNAUTHORIZED:
            raise Fault(self._what)


class LoggedIn(httpx2.Auth):
    """Requests have the token of the login to a configured server, if there is one."""

    def __init__(self, label: str, url: str, logins: Logins) -> None:
        self._label = label
        self._url = url
        self._logins = logins
        self._provider: OAuthClientProvider | None = None
        self._is_known = False

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        used = await self._header(request)
        if used is not None:
            request.headers["Authorization"] = used
        response = yield request
        if response.status_code == _UNAUTHORIZED and used is not None:
            # It has expired sooner than was said, or never said when.
            used = await self._header(request, refused=used)
            if used is not None:
                request.headers["Authorization"] = used
                response = yield request
        if response.status_code == _UNAUTHORIZED:
            raise LoginNeeded(f"it needs a login: `lmnb mcp login {self._label}`")

    async def _header(self, request: httpx2.Request, refused: str | None = None) -> str | None:
        """A value for `Authorization` other than `refused`, if there is one."""
        if not self._is_known:
            self._provider = await self._provide()
            self._is_known = True
        if self._provider is None:
            return None
        # Whoever leaves meanwhile must not take the new token away: the old one is no longer good.
        return await asyncio.shield(self._ask(self._provider, request, refused))

    async def _ask(
        self, provider: OAuthClientProvider, asked: httpx2.Request, refused: str | None
    ) -> str | None:
        tokens = provider.context.current_tokens
        if refused is not None and tokens and refused == f"Bearer {tokens.access_token}":
            if not provider.context.can_refresh_token():
                return None
            provider.context.token_expiry_time = _LONG_AGO
        version = asked.headers.get(_VERSION)
        headers = {} if version is None else {_VERSION: version}
        request = httpx2.Request(asked.method, self._url, headers=headers)  # It is never sent.
        transport = Bounded(httpx2.AsyncHTTPTransport(), lambda _: None)
        async with (
            httpx2.AsyncClient(timeout=_PATIENCE, transport=transport) as client,
            aclosing(provider.async_auth_flow(request)) as flow,
        ):
            outgoing = await anext(flow)
            while outgoing is not request:
                outgoing = await flow.asend(await _sent(client, outgoing))
        found = request.headers.get("Authorization")
        return None if found == refused else found

    async def _provide(self) -> OAuthClientProvider | None:
        """The SDK's client with what is known from the login; None without one."""
        from mcp.client.auth import OAuthClientProvider
        from mcp.shared.auth import OAuthClientMetadata, OAuthMetadata, ProtectedResourceMetadata

        login = await asyncio.to_thread(self._logins.find, self._label, self._url)
        if login is None:
            return None
        provider = OAuthClientProvider(
            self._url,
            OAuthClientMetadata(redirect_uris=None),
            _stored(self._logins, self._label, login),
        )
        # It keeps tokens only; where to make them new, and when, it would have to find out again.
        context = provider.context
        context.token_expiry_time = login.expires_at
        if login.server is not None:
            context.oauth_metadata = OAuthMetadata.model_validate(login.server)
        if login.resource is not None:
            context.protected_resource_metadata = ProtectedResourceMetadata.model_validate(
                login.resource
            )
        return provider


async def _sent(client: httpx2.AsyncClient, request: httpx2.Request) -> httpx2.Response:
    try:
        response = await client.send(request)
    except httpx2.TransportError as error:
        host = request.url.host
        raise Fault(f"its authorization server, {host}, cannot be reached: {error}") from None
    if response.status_code == _TOO_MANY or response.status_code >= _BROKEN:
        # The SDK would take it for a login that is no longer good.
        raise Fault(f"its authorization server answered with status {response.status_code}.")
    return response


def _stored(logins: Logins, label: str, login: Login) -> TokenStorage:
    import msgspec
    from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
    from mcp.shared.auth_utils import calculate_token_expiry

    class Stored:
        """What the SDK reads once, and writes when a token was made new."""

        async def get_tokens(self) -> OAuthToken:
            return OAuthToken.model_validate(login.tokens)

        async def set_tokens(self, tokens: OAuthToken) -> None:
            changed = msgspec.structs.replace(
                login,
                tokens=tokens.model_dump(mode="json", exclude_none=True),
                expires_at=calculate_token_expiry(tokens.expires_in),
            )
            await asyncio.to_thread(logins.renew, label, changed)

        async def get_client_info(self) -> OAuthClientInformationFull:
            return OAuthClientInformationFull.model_validate(login.client)

        async def set_client_info(self, _: OAuthClientInformationFull) -> None:
            raise AssertionError("Only logging in registers a client.")

    return Stored()
