"""Logging in to MCP servers by OAuth, which somebody has asked for and who watches it.

The SDK's OAuth client does the protocol: it finds the authorization server, registers lmnb there
(unless `mcp.json` has a client that was registered by hand), and trades the code for tokens (PKCE).
A login is good once the server has listed its tools with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from lmnb.errors import InvalidRequest
from lmnb.server.mcp import connection, redirect
from lmnb.server.mcp.connection import Connection
from lmnb.server.mcp.faults import Fault
from lmnb.server.mcp.logins import Login, Logins
from lmnb.server.mcp.redirect import Redirect
from lmnb.server.mcp.servers import OAuthClient, Remote

if TYPE_CHECKING:
    from mcp.client.auth import OAuthClientProvider, TokenStorage
    from pydantic import BaseModel

PORT, _PATH = 33389, "/mcp-oauth-callback"
"""LM Studio's: a client that was registered for it by hand works here."""
PATIENCE = 900.0
"""Seconds for the user to log in."""


class Desk:
    """Where logins are made: one a server at a time."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins
        self._waiting: dict[str, Redirect] = {}

    @asynccontextmanager
    async def begin(
        self, label: str, place: Remote
    ) -> AsyncGenerator[tuple[str, asyncio.Task[None]], None]:
        """Begin a login: the address that the user has to open, and what ends once it is done.

        Leaving the block gives the login up. So does beginning another.

        Raises
        ------
        InvalidRequest
            The port that it has to come back to is taken, or the server asks for no login.
        McpConnectionFailed
            It failed; the task raises it, too.
        """
        while (earlier := self._waiting.get(label)) is not None:
            earlier.give_up()
            await earlier.ended.wait()
        await connection.prepare()
        client = place.client or OAuthClient()
        host, path = ("localhost", "/callback") if client.port else ("127.0.0.1", _PATH)
        async with redirect.listening(
            client.port or PORT, path, host=host, is_fixed=client.id is not None
        ) as back:
            self._waiting[label] = back
            sent_off: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._log_in(label, place, client, back, sent_off))
            try:
                either: set[asyncio.Future[Any]] = {task, sent_off}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not sent_off.done():
                    await task
                yield sent_off.result(), task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if self._waiting.get(label) is back:
                    del self._waiting[label]

    def deliver(self, label: str, url: str) -> None:
        """Take the address of the page that a browser of another machine could not open.

        Raises
        ------
        InvalidRequest
            Nobody is logging in, or it is none.
        """
        if label not in self._waiting:
            raise InvalidRequest(f"Nobody is logging in to {label}.")
        self._waiting[label].deliver(url)

    async def _log_in(
        self,
        label: str,
        place: Remote,
        client: OAuthClient,
        back: Redirect,
        sent_off: asyncio.Future[str],
    ) -> None:
        provider = _provider(place, client, back, sent_off)
        found = Connection(label, place, provider)
        try:
            await found.ready(PATIENCE)
        finally:
            await found.close()
        login = _login(place, provider)
        if login is None:
            raise InvalidRequest(f"The MCP server {label} asks for no login.")
        await asyncio.to_thread(self._logins.save, label, login)


def _provider(
    place: Remote, client: OAuthClient, back: Redirect, sent_off: asyncio.Future[str]
) -> OAuthClientProvider:
    from mcp.client.auth import OAuthClientProvider
    from mcp.shared.auth import OAuthClientMetadata
    from pydantic import AnyUrl

    async def send_off(url: str) -> None:
        if sent_off.done():
            raise Fault("it asks for a second login.")
        if not url.startswith(("https://", "http://")):
            # The server says where to log in; what else a browser opens may run programs.
            raise Fault("its login page has no web address.")
        _choose_method(provider)
        if client.scopes:
            url = _with_scopes(url, client.scopes)
            provider.context.client_metadata.scope = " ".join(client.scopes)
        back.state = parse_qs(urlsplit(url).query)["state"][0]
        sent_off.set_result(url)

    metadata = OAuthClientMetadata(
        client_name="lmnb",
        redirect_uris=[AnyUrl(back.url)],
        token_endpoint_auth_method="none",  # noqa: S106 - it has no secret
    )
    provider = OAuthClientProvider(
        place.url,
        metadata,
        _storage(client, back),
        redirect_handler=send_off,
        callback_handler=back.result,
    )
    return provider


def _storage(client: OAuthClient, back: Redirect) -> TokenStorage:
    from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
    from pydantic import AnyUrl

    class Fresh:
        """Nothing is known but what `mcp.json` says; what comes of it is kept by `_login`."""

        async def get_tokens(self) -> OAuthToken | None:
            return None

        async def set_tokens(self, tokens: OAuthToken) -> None: ...

        async def get_client_info(self) -> OAuthClientInformationFull | None:
            if client.id is None:
                return None
            return OAuthClientInformationFull(
                client_id=client.id,
                client_secret=client.secret,
                redirect_uris=[AnyUrl(back.url)],
            )

        async def set_client_info(self, client_info: OAuthClientInformationFull) -> None: ...

    return Fresh()


def _choose_method(provider: OAuthClientProvider) -> None:
    """How a client that was registered by hand shows its secret: as the server says (RFC 8414, 2)."""
    info, server = provider.context.client_info, provider.context.oauth_metadata
    if info is None or info.client_secret is None or info.token_endpoint_auth_method is not None:
        return
    basic, post = "client_secret_basic", "client_secret_post"
    known = (server and server.token_endpoint_auth_methods_supported) or [basic]
    info.token_endpoint_auth_method = post if post in known else basic


def _with_scopes(url: str, scopes: tuple[str, ...]) -> str:
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return parts._replace(query=urlencode({**query, "scope": " ".join(scopes)})).geturl()


def _login(place: Remote, provider: OAuthClientProvider) -> Login | None:
    context = provider.context
    if context.current_tokens is None or context.client_info is None:
        return None
    return Login(
        url=place.url,
        tokens=_dumped(context.current_tokens) or {},
        expires_at=context.token_expiry_time,
        client=_dumped(context.client_info) or {},
        server=_dumped(context.oauth_metadata),
        resource=_dumped(context.protected_resource_metadata),
    )


def _dumped(part: BaseModel | None) -> dict[str, Any] | None:
    return None if part is None else part.model_dump(mode="json", exclude_none=True)
