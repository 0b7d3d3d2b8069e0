"""A connection to one MCP server, by the official SDK.

The SDK's client has to be entered and left by one task; so each connection has a task of its own,
and whoever uses it may come and go. Calls are made in the caller's task.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx2

from lmnb.errors import LmnbError
from lmnb.server.mcp.servers import Local, Place, Remote

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

_log = logging.getLogger(__name__)

CONNECT_PATIENCE = 30.0
"""Seconds to start, shake hands and list the tools. `npx` downloads a server the first time."""
_MOST_BYTES = 64 << 20
"""Of one HTTP response, so that no server fills the memory."""
_MOST_PAGES = 50
_ANSWER_PATIENCE = 5.0
"""Seconds a server that has been idle may take to list its tools once more."""
_END_PATIENCE = 10.0
"""Seconds a program may take to end; the SDK kills it before."""


class McpConnectionFailed(LmnbError):
    """An MCP server cannot be reached, or does not speak the protocol."""

    code = "mcp_connection_error"
    status = 424  # Failed dependency: not the caller's mistake, and trying again need not help.


class CallFailed(Exception):
    """A call came to nothing: the server died, took too long, or answered nonsense."""


class Connection:
    """An MCP server that is connected to; `tools` are there when it is `ready`.

    Made in a running loop, after `prepare`. Who makes it closes it, ready or not.
    """

    def __init__(self, label: str, place: Place) -> None:
        self.label = label
        self.tools: list[Tool] = []
        self._place = place
        self._client: Client | None = None
        self._done = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live())

    def when_ended(self, tell: Callable[[], object]) -> None:
        """Call `tell` once nothing of it is left."""
        self._task.add_done_callback(lambda _: tell())

    async def ready(self) -> None:
        """Wait until it can be used. It is ended if it cannot, or nobody waits any more.

        Raises
        ------
        McpConnectionFailed
            It cannot be reached or started, or does not list its tools in time.
        """
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), CONNECT_PATIENCE)
        except TimeoutError:
            raise _unreachable(
                self.label, f"it did not answer within {CONNECT_PATIENCE:.0f} seconds"
            ) from None
        finally:
            if not self._ready.done():
                self._end()

    async def answers(self, *, busy: bool) -> bool:
        """Whether it is still there; its list of tools is read anew, as it may have changed.

        While it is `busy` with somebody's call, silence proves nothing.
        """
        if self._client is None or self._done.is_set() or self._task.done():
            return False
        try:
            self.tools = await asyncio.wait_for(_tools(self._client), _ANSWER_PATIENCE)
        except TimeoutError:
            return busy
        except Exception as error:  # noqa: BLE001 - whatever it is, a new connection is the cure
            _log.info("The MCP server %s is connected to anew: %s", self.label, _reason(error))
            return False
        return True

    async def call(self, name: str, arguments: dict[str, Any], patience: float) -> CallToolResult:
        """Call a tool, and wait `patience` seconds for its answer.

        Raises
        ------
        CallFailed
            The server gave no usable answer; the message is for the model and the user. The
            connection stays: others may use it, and most servers have only refused the arguments.
        """
        assert self._client is not None
        calling = asyncio.ensure_future(
            self._client.call_tool(name, arguments, read_timeout_seconds=2 * patience)
        )
        try:
            await asyncio.wait(
                {calling, self._task}, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            return self._result(calling, patience)
        finally:
            calling.cancel()

    def _result(self, calling: asyncio.Future[CallToolResult], patience: float) -> CallToolResult:
        if not calling.done() or calling.cancelled():
            ended = self._task.done() or calling.cancelled()
            how = "has ended" if ended else f"took over {patience:g} seconds"
            raise CallFailed(f"The MCP server {self.label} {how}.")
        if (error := calling.exception()) is not None:
            raise CallFailed(f"The MCP server {self.label} failed: {_reason(error)}")
        return calling.result()

    async def close(self) -> None:
        """End it; its program, if it has one, is stopped."""
        self._end()
        # Not `wait_for`: a cancellation in the middle of stopping a program leaves it running.
        _, late = await asyncio.wait({self._task}, timeout=_END_PATIENCE)
        if late:
            _log.warning("The MCP server %s did not end in time", self.label)
            self._task.cancel()

    def _end(self) -> None:
        if not (self._done.is_set() or self._ready.done()):
            self._task.cancel()  # It still connects. Only once: see `close`.
        self._done.set()

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                self._client = await stack.enter_async_context(_client(self._place, stack))
                self.tools = await _tools(self._client)
                self._ready.set_result(None)
                await self._done.wait()
        except Exception as error:  # noqa: BLE001 - see `call`
            if not self._ready.done():
                self._ready.set_exception(_unreachable(self.label, _reason(error)))
                return
            _log.warning("The MCP server %s is gone: %s", self.label, _reason(error))
        finally:
            if not self._ready.done():
                self._ready.set_exception(_unreachable(self.label, "it was stopped"))
            self._ready.exception()  # Retrieved, whoever waits.


async def prepare() -> None:
    """Import the SDK, which takes most of a second."""
    await asyncio.to_thread(importlib.import_module, "mcp")


def _client(place: Place, stack: AsyncExitStack) -> Client:
    from mcp import Client, StdioServerParameters
    from mcp.client.streamable_http import streamable_http_client

    if isinstance(place, Local):
        return Client(
            StdioServerParameters(
                command=place.command,
                args=list(place.args),
                env=dict(place.env),
                cwd=place.cwd,
                encoding_error_handler="replace",
            )
        )
    return Client(streamable_http_client(place.url, http_client=_http(place, stack)))


def _http(place: Remote, stack: AsyncExitStack) -> httpx2.AsyncClient:
    client = httpx2.AsyncClient(
        headers={"accept-encoding": "identity", **place.headers},
        timeout=httpx2.Timeout(CONNECT_PATIENCE, read=None),
        transport=_Bounded(httpx2.AsyncHTTPTransport()),
        follow_redirects=False,
    )
    stack.push_async_callback(client.aclose)
    return client


async def _tools(client: Client) -> list[Tool]:
    found: list[Tool] = []
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await client.list_tools(cursor=cursor, cache_mode="refresh")
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise ValueError(f"its list of tools has more than {_MOST_PAGES} pages")


class _Bounded(httpx2.AsyncBaseTransport):
    """Responses of at most `_MOST_BYTES`, uncompressed: a few bytes could become very many."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.stream.aclose()
            raise httpx2.ReadError("it compresses what it says, unasked")
        response.stream = _BoundedStream(response.stream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in self._inner:
            size += len(chunk)
            if size > _MOST_BYTES:
                raise httpx2.ReadError(f"it sent more than {_MOST_BYTES >> 20} MiB at once")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


def _unreachable(label: str, why: str) -> McpConnectionFailed:
    return McpConnectionFailed(
        f"The MCP server {label} cannot be used: {why}", param="integrations"
    )


def _reason(error: BaseException) -> str:
    """The words of the innermost error: task groups wrap them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError):
        return "there is no such command, or its folder does not exist."
    return " ".join(str(error).split())[:500] or type(error).__name__
