"""A connection to one MCP server, by the official SDK.

The SDK's client has to be entered and left by one task; so each connection has a task of its own,
and whoever uses it may come and go. Calls are made in the caller's task.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx2

from lmnb import __version__
from lmnb.errors import LmnbError
from lmnb.server.mcp.faults import Fault, LoginNeeded, reason
from lmnb.server.mcp.http import http
from lmnb.server.mcp.servers import Local, Place
from lmnb.server.mcp.stdio import stdio
from lmnb.server.mcp.watching import ToolWatch

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

_log = logging.getLogger(__name__)

CONNECT_PATIENCE = 30.0
"""Seconds to start, shake hands and list the tools. `npx` downloads a server the first time."""
_MOST_PAGES = 50
_MOST_LISTED = 20_000
_ANSWER_PATIENCE = 5.0
"""Seconds a server that has been idle may take to list its tools once more."""
_END_PATIENCE = 10.0
"""Seconds a program may take to end; it is killed before."""
_MOST_PATIENCE = 30
"""How many times the patience for a call a server that reports progress may take."""
_ENDED, _LATE, _INTERNAL = -32000, -32001, -32603
"""Codes of JSON-RPC, as MCP's SDKs use them: connection closed, request timed out, any other fault."""


class McpConnectionFailed(LmnbError):
    """An MCP server cannot be reached, or does not speak the protocol."""

    code = "mcp_connection_error"
    status = 424  # Failed dependency: not the caller's mistake, and trying again need not help.

    needs_login: bool = False
    """Somebody has to log in to it first."""


class CallFailed(Exception):
    """A call came to nothing: the server died, took too long, or answered nonsense.

    `code` is JSON-RPC's, the server's own if it gave one.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Connection:
    """An MCP server that is connected to; `tools` are there when it is `ready`.

    Made in a running loop, after `prepare`. Who makes it closes it, ready or not. `auth` says to a
    remote server who uses it.

    tools
        Those that can be used, each name once.
    left_out
        Sentences about those that cannot.
    """

    def __init__(self, label: str, place: Place, auth: httpx2.Auth | None = None) -> None:
        self.label = label
        self.tools: Sequence[Tool] = ()
        self.left_out: Sequence[str] = ()
        self._place = place
        self._auth = auth
        self._watch = ToolWatch()
        self._fault: Fault | None = None
        self._client: Client | None = None
        self._done = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live())

    def when_ended(self, tell: Callable[[], object]) -> None:
        """Call `tell` once nothing of it is left."""
        self._task.add_done_callback(lambda _: tell())

    async def ready(self, patience: float | None = None) -> None:
        """Wait until it can be used. It is ended if it cannot, or nobody waits any more.

        `patience` in seconds, None for `CONNECT_PATIENCE`.

        Raises
        ------
        McpConnectionFailed
            It cannot be reached or started, or does not list its tools in time.
        """
        patience = CONNECT_PATIENCE if patience is None else patience
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), patience)
        except TimeoutError:
            raise self._unusable(
                Fault(f"it did not answer within {patience:.0f} seconds.")
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
            await asyncio.wait_for(self._list(self._client), _ANSWER_PATIENCE)
        except TimeoutError:
            return busy
        except Exception as error:  # noqa: BLE001 - whatever it is, a new connection is the cure
            _log.info("The MCP server %s is connected to anew: %s", self.label, reason(error))
            return False
        return True

    async def refresh(self) -> bool:
        """List the tools anew if the server has said that they have changed; whether it has."""
        return self._watch.has_changed and await self.answers(busy=True)

    async def call(self, name: str, arguments: dict[str, Any], patience: float) -> CallToolResult:
        """Call a tool, and wait `patience` seconds for its answer, or for a sign of progress.

        Raises
        ------
        CallFailed
            The server gave no usable answer; the message is for the model and the user. The
            connection stays: others may use it, and most servers have only refused the arguments.
        """
        assert self._client is not None
        clock = asyncio.get_running_loop().time
        end = clock() + _MOST_PATIENCE * patience
        heard = clock()

        async def on_progress(
            progress: float,  # noqa: ARG001 - the SDK's names
            total: float | None,  # noqa: ARG001
            message: str | None,  # noqa: ARG001
        ) -> None:
            nonlocal heard
            heard = clock()

        calling = asyncio.ensure_future(
            self._client.call_tool(
                name,
                arguments,
                read_timeout_seconds=2 * _MOST_PATIENCE * patience,
                progress_callback=on_progress,
            )
        )
        both = {calling, self._task}
        try:
            while (left := min(heard + patience, end) - clock()) > 0 and not any(
                each.done() for each in both
            ):
                await asyncio.wait(both, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            return self._result(calling, patience if clock() < end else _MOST_PATIENCE * patience)
        finally:
            calling.cancel()

    def _result(self, calling: asyncio.Future[CallToolResult], patience: float) -> CallToolResult:
        if not calling.done() or calling.cancelled():
            how, code = f"took over {patience:g} seconds.", _LATE
            if self._task.done() or calling.cancelled():
                code = _ENDED
                how = "has ended." if self._fault is None else f"failed: {self._fault}"
            raise CallFailed(f"The MCP server {self.label} {how}", code)
        if (error := calling.exception()) is not None:
            code = getattr(getattr(error, "error", None), "code", _INTERNAL)
            raise CallFailed(
                f"The MCP server {self.label} failed: {reason(self._fault or error)}", code
            ) from error
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
                self._client = await stack.enter_async_context(self._new_client())
                await self._list(self._client)
                await self._listen(self._client, stack)
                self._ready.set_result(None)
                await self._done.wait()
        except Exception as error:  # noqa: BLE001 - see `call`
            if not self._ready.done():
                self._ready.set_exception(self._unusable(self._fault or error))
                return
            _log.warning("The MCP server %s is gone: %s", self.label, reason(error))
        finally:
            if not self._ready.done():
                self._ready.set_exception(self._unusable(Fault("it was stopped.")))
            self._ready.exception()  # Retrieved, whoever waits.

    def _new_client(self) -> Client:
        from mcp import Client
        from mcp.types import Implementation

        if isinstance(self._place, Local):
            transport = stdio(self._place, self._report)
        else:
            transport = http(self._place, self._report, self._auth)

        client = Client(
            self._watch.over(transport, lambda: client.session.protocol_version or ""),
            client_info=Implementation(name="lmnb", version=__version__),
        )
        return client

    async def _list(self, client: Client) -> None:
        self._watch.has_changed = False
        self._watch.left_out.clear()
        listed = await _tools(client)
        tools: dict[str, Tool] = {}
        for tool in listed:
            tools.setdefault(tool.name, tool)
        left_out = [
            f"The tool '{name}' of the MCP server {self.label} is left out. {why}"
            for name, why in self._watch.left_out.items()
        ]
        if len(tools) < len(listed):
            counts = Counter(tool.name for tool in listed)
            left_out += [
                f"The MCP server {self.label} has {count} tools named '{name}'; the first is used."
                for name, count in counts.items()
                if count > 1
            ]
        self.tools = tuple(tools.values())
        self.left_out = tuple(left_out)

    async def _listen(self, client: Client, stack: AsyncExitStack) -> None:
        """Ask to be told of changes, where that has to be asked for (since protocol 2026-07-28)."""
        from mcp import MCPError
        from mcp.client.subscriptions import SubscriptionLost
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS

        tools = client.server_capabilities.tools
        if client.protocol_version in MODERN_PROTOCOL_VERSIONS and tools and tools.list_changed:
            try:
                async with asyncio.timeout(_ANSWER_PATIENCE):
                    await stack.enter_async_context(client.listen(tools_list_changed=True))
            except (MCPError, SubscriptionLost, TimeoutError) as error:
                _log.info("The MCP server %s tells of no changes: %s", self.label, reason(error))

    def _report(self, fault: Fault) -> None:
        """Take the first fault; after it there is nothing more to be had."""
        if self._fault is None and not self._done.is_set():
            self._fault = fault
            _log.warning("The MCP server %s cannot be used: %s", self.label, fault)
        if self._ready.done():
            self._done.set()

    def _unusable(self, why: BaseException) -> McpConnectionFailed:
        error = McpConnectionFailed(f"The MCP server {self.label} cannot be used: {reason(why)}")
        error.needs_login = isinstance(why, LoginNeeded)
        return error


async def prepare() -> None:
    """Import the SDK, which takes most of a second."""
    await asyncio.to_thread(importlib.import_module, "mcp")


async def _tools(client: Client) -> list[Tool]:
    found: list[Tool] = []
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await client.list_tools(cursor=cursor, cache_mode="refresh")
        found += page.tools
        if len(found) > _MOST_LISTED:
            raise ValueError(f"it lists more than {_MOST_LISTED} tools.")
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise ValueError(f"its list of tools has more than {_MOST_PAGES} pages")
