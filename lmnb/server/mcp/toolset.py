"""The tools of a request's MCP servers, as the model sees them, and what calling them gives."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from lmnb.chat.conversation import Image, Text, Tool
from lmnb.chat.tool_names import adapt
from lmnb.engine.pictures import check_picture
from lmnb.errors import InvalidRequest
from lmnb.server.generation import Call
from lmnb.server.mcp.connection import CallFailed, Connection
from lmnb.server.mcp.pool import Pool
from lmnb.server.mcp.servers import Server
from lmnb.server.notes import note

if TYPE_CHECKING:
    from mcp.types import CallToolResult, ContentBlock

MOST_OUTPUT = 100_000
"""Characters of one result that the model and the caller are shown."""
MOST_BLOCKS = 1000
"""Content blocks of one result."""
MOST_TOOLS = 512
"""Tools that a model is told of. Each takes about 100 tokens of its context."""

Failure: TypeAlias = Literal["invalid_name", "invalid_arguments", "execution_error"]


@dataclass(frozen=True)
class Offered:
    """A tool of a server. `tool` has the name that the model knows it by."""

    server: Server
    connection: Connection
    name: str
    tool: Tool


@dataclass(frozen=True, kw_only=True)
class Called:
    """A call that has been made, or refused.

    arguments
        None if they were no JSON object.
    output
        The content that the server gave, as JSON text of MCP's content blocks.
    parts
        The same for the model.
    failure
        What kind of failure, with `reason` for people; None if the tool answered.
    """

    call: Call
    offered: Offered | None
    arguments: dict[str, Any] | None = None
    output: str = ""
    parts: tuple[Text | Image, ...] = ()
    failure: Failure | None = None
    reason: str = ""


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

    async def call(self, call: Call) -> Called:
        """Make a call. Whatever goes wrong is in the result."""
        offered = self.find(call.name)
        if offered is None:
            reason = f"Cannot find tool with name {call.name}."
            return _failed(call, None, None, "invalid_name", reason)
        arguments = arguments_of(call)
        if arguments is None:
            reason = "The arguments are no JSON object."
            return _failed(call, offered, None, "invalid_arguments", reason)
        try:
            result = await offered.connection.call(offered.name, arguments, self._patience)
            await self._renew(offered.connection)
        except CallFailed as error:
            return _failed(call, offered, arguments, "execution_error", str(error))
        output, parts = _content(result)
        if result.is_error:
            reason = "\n".join(part.text for part in parts if isinstance(part, Text))
            return _failed(
                call, offered, arguments, "execution_error", reason or "The tool failed."
            )
        return Called(call=call, offered=offered, arguments=arguments, output=output, parts=parts)

    async def _renew(self, connection: Connection) -> None:
        if not await connection.refresh():
            return
        try:
            self._offered = {each.tool.name: each for each in self._offer()}
        except InvalidRequest as error:  # Too many now: the model keeps those it knows.
            note(error.message)

    def unmade(self, call: Call) -> Called:
        """What becomes of a call that the end of the answer cut off."""
        reason = "The answer ended before the call could be made."
        return _failed(call, self.find(call.name), arguments_of(call), "invalid_arguments", reason)


@asynccontextmanager
async def opened(
    pool: Pool, servers: Sequence[Server], *, patience: float
) -> AsyncGenerator[Toolset, None]:
    """The tools of all `servers`, which are connected to for as long as the block lasts.

    `patience` is for a call, in seconds. Tools of the same name on two servers are called `label__name`.

    Raises
    ------
    McpConnectionFailed
        One of them cannot be used.
    InvalidRequest
        They have more than `MOST_TOOLS` tools.
    """
    async with AsyncExitStack() as stack:
        opening = [stack.enter_async_context(pool.use(server)) for server in servers]
        connections = await _all(opening)
        pairs = list(zip(servers, connections, strict=True))
        yield Toolset(partial(_offer, pairs), patience=patience)


async def _all(opening: Sequence[Awaitable[Connection]]) -> list[Connection]:
    """All at once; if one fails, the first failure, when the others are settled."""
    found: list[Connection] = []
    for result in await asyncio.gather(*opening, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found


def _offer(pairs: Sequence[tuple[Server, Connection]]) -> list[Offered]:
    seen = [
        (server, connection, tool)
        for server, connection in pairs
        for tool in connection.tools
        if server.allowed is None or tool.name in server.allowed
    ]
    if len(seen) > MOST_TOOLS:
        raise InvalidRequest(
            f"The MCP servers offer {len(seen)} tools; a model can be told of {MOST_TOOLS}.",
            hint="Name those that it may call in allowed_tools.",
        )
    for _, connection in pairs:
        for text in connection.left_out:
            note(text)
    count = Counter(tool.name for _, _, tool in seen)
    found: dict[str, Offered] = {}
    for server, connection, tool in seen:
        name = tool.name if count[tool.name] == 1 else f"{server.label}__{tool.name}"
        while name in found:
            name += "_"
        shown = Tool(name=name, description=tool.description or "", parameters=tool.input_schema)
        if _usable(shown, server):
            found[name] = Offered(server, connection, tool.name, shown)
    return list(found.values())


def _usable(tool: Tool, server: Server) -> bool:
    """Whether a model can be told of it; who asked for the server cannot help it if not."""
    try:
        adapt((tool,))
    except InvalidRequest as error:
        note(f"A tool of the MCP server {server.label} is left out. {error.message}")
        return False
    return True


def _failed(
    call: Call,
    offered: Offered | None,
    arguments: dict[str, Any] | None,
    failure: Failure,
    reason: str,
) -> Called:
    return Called(
        call=call,
        offered=offered,
        arguments=arguments,
        parts=(Text(f"Error: {reason}"),),
        failure=failure,
        reason=reason,
    )


def arguments_of(call: Call) -> dict[str, Any] | None:
    """What a call's arguments say; None if that is no JSON object."""
    try:  # Stricter than `json`: no halves of surrogate pairs, no NaN, which could not be sent on.
        found = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _content(result: CallToolResult) -> tuple[str, tuple[Text | Image, ...]]:
    """The result as JSON text, and as parts for the model; both cut to `MOST_OUTPUT`."""
    blocks = [_dumped(block) for block in result.content[:MOST_BLOCKS]]
    if result.structured_content is not None and "text" not in {block["type"] for block in blocks}:
        # Servers repeat it as text for whoever does not know it; not all do.
        blocks.append({"type": "text", "text": json.dumps(result.structured_content)})
    shown: list[dict[str, Any]] = []
    parts: list[Text | Image] = []
    left = MOST_OUTPUT
    if (more := len(result.content) - MOST_BLOCKS) > 0:
        blocks.append({"type": "text", "text": f"[{more} more were left out]"})
    for block in blocks:
        part = _part(block)
        if isinstance(part, Text) and len(part.text) > left:
            note = f"\n[{len(part.text) - left} more characters were left out]"
            part = Text(part.text[:left] + note)
            shown.append({"type": "text", "text": part.text})
        else:
            shown.append(block)
        parts.append(part)
        left -= len(part.text) if isinstance(part, Text) else 0
        if left <= 0:
            break
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":")), tuple(parts)


def _dumped(block: ContentBlock) -> dict[str, Any]:
    return block.model_dump(mode="json", by_alias=True, exclude_none=True)


def _part(block: dict[str, Any]) -> Text | Image:
    """A content block for the model: text and images as they are, the rest in words."""
    kind = block.get("type")
    if kind == "text":
        return Text(block["text"])
    if kind == "image":
        return _image(block["data"], block["mimeType"])
    if kind == "resource":
        resource = block["resource"]
        if "text" in resource:
            return Text(resource["text"])
        media_type = resource.get("mimeType", "")
        if media_type.startswith("image/"):
            return _image(resource["blob"], media_type)
        return Text(f"[{resource['uri']}: {media_type or 'data'}, which cannot be shown]")
    if kind == "resource_link":
        return Text(f"[{block.get('name', 'Resource')}: {block['uri']}]")
    return Text(f"[{kind}: cannot be shown]")


def _image(data: str, media_type: str) -> Text | Image:
    """An image, or why there is none: the engine would refuse the whole request for it."""
    try:
        image = Image(base64.b64decode(data, validate=True), media_type)
        check_picture(image.data)
    except (binascii.Error, ValueError):
        return Text("[An image that cannot be read]")
    except InvalidRequest as error:
        return Text(f"[An image that cannot be shown: {error.message}]")
    return image
