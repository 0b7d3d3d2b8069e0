"""Where the browser is sent when a login is done: an address of this machine (RFC 8252, 7.3)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import html
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from lmnb.errors import InvalidRequest
from lmnb.server.mcp.faults import Fault

if TYPE_CHECKING:
    from mcp.shared.auth import AuthorizationCodeResult

_PATIENCE = 10.0
"""Seconds to send a request: it is one browser on this machine."""
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>lmnb</title>
<body style="font-family: sans-serif; margin: 4em"><p>{}</p>"""


class Redirect:
    """Waits for the browser, whose address then has what the authorization server says."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.state: str | None = None
        """What the address has to have, once the browser has been sent off."""
        self.ended = asyncio.Event()
        """Set once nothing listens any more."""
        self._found: asyncio.Future[AuthorizationCodeResult] = (
            asyncio.get_running_loop().create_future()
        )

    async def result(self) -> AuthorizationCodeResult:
        """Wait for it.

        Raises
        ------
        Fault
            The user, or the authorization server, has refused.
        """
        return await asyncio.shield(self._found)

    def deliver(self, url: str) -> None:
        """Take the address that the browser was sent to.

        Raises
        ------
        InvalidRequest
            It is of another login, or none.
        """
        from mcp.shared.auth import AuthorizationCodeResult

        try:
            query = urlsplit(url.strip()).query
        except ValueError:
            query = ""
        given = {name: values[0] for name, values in parse_qs(query).items()}
        # The SDK compares it, too; but there a stranger's request would end the login.
        if self.state is None or given.get("state") != self.state:
            raise InvalidRequest("This is not the address that this login leads to.", param="url")
        if self._found.done():
            return
        if "code" in given:
            code = AuthorizationCodeResult(
                code=given["code"], state=given["state"], iss=given.get("iss")
            )
            self._found.set_result(code)
        else:
            why = given.get("error_description") or given.get("error") or "no reason was given"
            self._found.set_exception(Fault(f"the login was refused: {why}"))

    def give_up(self) -> None:
        """End the wait."""
        if not self._found.done():
            self._found.set_exception(Fault("another login has begun."))
        self._found.exception()  # Retrieved, whoever waits.

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        with contextlib.suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_PATIENCE):
                line = (await reader.readline()).decode("latin-1")
                while (await reader.readline()).strip():
                    pass  # Its headers.
                status, text = self._answer(line)
                body = _PAGE.format(html.escape(text)).encode()
                head = (
                    f"HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\n"
                    f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
        writer.close()

    def _answer(self, line: str) -> tuple[str, str]:
        method, _, rest = line.partition(" ")
        target = rest.partition(" ")[0]
        if method != "GET" or urlsplit(target).path != urlsplit(self.url).path:
            return "404 Not Found", "There is nothing here."
        try:
            self.deliver(target)
        except InvalidRequest as error:
            return "400 Bad Request", error.message
        if self._found.exception() is not None:
            return "200 OK", "You are not logged in. You can close this page."
        return "200 OK", "lmnb goes on from here. You can close this page."


@asynccontextmanager
async def listening(
    port: int, path: str, *, host: str = "127.0.0.1", is_fixed: bool
) -> AsyncGenerator[Redirect, None]:
    """Listen on this machine alone, on `port`; or another, unless it `is_fixed`, if that is taken.

    Raises
    ------
    InvalidRequest
        The port is taken.
    """
    holder: list[Redirect] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await holder[0].serve(reader, writer)

    try:
        server = await asyncio.start_server(serve, "127.0.0.1", port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or is_fixed:
            raise InvalidRequest(
                f"The login has to come back on port {port} of this machine, which is taken."
            ) from None
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
    back = Redirect(f"http://{host}:{server.sockets[0].getsockname()[1]}{path}")
    holder.append(back)
    try:
        async with server:
            yield back
    finally:
        back.give_up()
        back.ended.set()
