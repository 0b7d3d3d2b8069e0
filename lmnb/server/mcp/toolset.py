"""The tools of a request's MCP servers, as the model sees them, and what calling them gives."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from lmnb.chat.conversation import Text, Tool, ToolCall
from lmnb.chat.tool_names import adapt
from lmnb.errors import InvalidRequest
from lmnb.server.mcp.connection import CallFailed, Connection, McpConnectionFailed
from lmnb.server.mcp.content import content
from lmnb.server.mcp.pool import Pool
from lmnb.server.mcp.servers import Server
from lmnb.server.mcp.steps import Called, Failure, Offered
from lmnb.server.notes import note

if TYPE_CHECKING:
    from mcp.types import Tool as McpTool

MOST_TOOLS = 512
"""Tools that a model is told of. Each takes about 100 tokens of its context."""
_INVALID_PARAMS = -32602
"""JSON-RPC's code, which MCP has for unknown tools, too."""


class Toolset:
    """The tools of several servers, by the names that the model knows them by.

    `offer` makes them; it is asked once more when a server has changed its tools.
    """

    def __init__(
        self, offer: Callable[[], Iterable[Offered]] = tuple, *, patience: float = 120.0
    ) -> None:
        self._offer = offer
        self._offered = {each.tool.name: each for each in offer()}
        self._patience = patience

    @property
    def tools(self) -> tuple[Tool, ...]:
        """All of them."""
        return tuple(each.tool for each in self._offered.values())

    def find(self, name: str) -> Offered | None:
        """The tool that the model calls so."""
        return self._offered.get(name)

    def of(self, label: str, name: str | None = None) -> tuple[Offered, ...]:
        """The tools of the server of that label, or the one that the server calls `name`."""
        return tuple(
            each
            for each in self._offered.values()
            if each.server.label == label and name in (None, each.name)
        )

    async def call(self, call: ToolCall) -> Called:
        """Make a call. Whatever goes wrong is in the result."""
        offered = self.find(call.name)
        if offered is None:
            return _failed(call, None, "invalid_name", f"Cannot find tool with name {call.name}.")
        arguments = arguments_of(call)
        if arguments is None:
            reason = "The arguments are no JSON object."
            return _failed(call, offered, "invalid_arguments", reason)
        try:
            result = await offered.connection.call(offered.name, arguments, self._patience)
            await self._renew(offered.connection)
        except CallFailed as error:
            return _failed(call, offered, "execution_error", str(error), error_code=error.code)
        output, parts = content(result)
        if result.is_error:
            reason = "\n".join(part.text for part in parts if isinstance(part, Text))
            reason = reason or "The tool failed."
            return _failed(call, offered, "execution_error", reason, output=output)
        return Called(call=call, offered=offered, arguments=arguments, output=output, parts=parts)

    async def _renew(self, connection: Connection) -> None:
        if not await connection.refresh():
            return
        try:
            self._offered = {each.tool.name: each for each in self._offer()}
        except InvalidRequest as error:  # Too many now: the model keeps those it knows.
            note(error.message)

    def refused(self, call: ToolCall, reason: str, *, is_made: bool = True) -> Called:
        """What becomes of a call that is not passed on; `is_made` off if the answer ended first."""
        failure: Failure = "execution_error" if is_made else "invalid_arguments"
        return _failed(call, self.find(call.name), failure, reason, is_made=is_made)


@asynccontextmanager
async def opening(
    pool: Pool, servers: Sequence[Server]
) -> AsyncGenerator[list[asyncio.Task[Connection]], None]:
    """Begin to connect to all `servers`, at once; they are left when the block ends.

    The tasks raise `McpConnectionFailed`.
    """
    async with AsyncExitStack() as stack:
        tasks = [asyncio.ensure_future(_open(stack, pool, server)) for server in servers]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _open(stack: AsyncExitStack, pool: Pool, server: Server) -> Connection:
    try:
        return await stack.enter_async_context(pool.use(server))
    except McpConnectionFailed as error:
        error.param = server.param
        raise


def allowed(server: Server, connection: Connection) -> tuple[McpTool, ...]:
    """The tools of a server that a model may see, and can be told of."""
    return tuple(
        tool
        for tool in connection.tools
        if server.allowed.matches(tool) and _usable(_shown(tool, tool.name), server)
    )


def offer(pairs: Sequence[tuple[Server, Connection]], taken: Iterable[str] = ()) -> list[Offered]:
    """The tools of connected servers for a model.

    One that is called like another server's, or is in `taken`, becomes `label__name`.

    Raises
    ------
    InvalidRequest
        There are more than `MOST_TOOLS`.
    """
    seen = [(server, one, tool) for server, one in pairs for tool in allowed(server, one)]
    if len(seen) > MOST_TOOLS:
        raise InvalidRequest(
            f"The MCP servers offer {len(seen)} tools; a model can be told of {MOST_TOOLS}.",
            hint="Name those that it may call in allowed_tools.",
        )
    for _, connection in pairs:
        for text in connection.left_out:
            note(text)
    count = Counter((*(tool.name for _, _, tool in seen), *taken))
    names = set(taken)
    found: list[Offered] = []
    for server, connection, tool in seen:
        name = tool.name if count[tool.name] == 1 else f"{server.label}__{tool.name}"
        while name in names:
            name += "_"
        shown = _shown(tool, name)
        if _usable(shown, server):
            names.add(name)
            asks = server.approval.is_needed(tool)
            found.append(Offered(server, connection, tool.name, shown, asks))
    return found


def _shown(tool: McpTool, name: str) -> Tool:
    return Tool(name=name, description=tool.description or "", parameters=tool.input_schema)


def _usable(tool: Tool, server: Server) -> bool:
    """Whether a model can be told of it; who asked for the server cannot help it if not."""
    try:
        adapt((tool,))
    except InvalidRequest as error:
        note(f"A tool of the MCP server {server.label} is left out. {error.message}")
        return False
    return True


def _failed(
    call: ToolCall,
    offered: Offered | None,
    failure: Failure,
    reason: str,
    *,
    output: str = "",
    error_code: int = _INVALID_PARAMS,
    is_made: bool = True,
) -> Called:
    return Called(
        call=call,
        offered=offered,
        arguments=None if offered is None else arguments_of(call),
        output=output,
        parts=(Text(f"Error: {reason}"),),
        failure=failure,
        reason=reason,
        error_code=error_code,
        is_made=is_made,
    )


def arguments_of(call: ToolCall) -> dict[str, Any] | None:
    """What a call's arguments say; None if that is no JSON object."""
    try:  # Stricter than `json`: no halves of surrogate pairs, no NaN, which could not be sent on.
        found = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
