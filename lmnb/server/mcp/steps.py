"""What happens in an answer besides what the model says: tools are listed, called, asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lmnb.chat.conversation import Image, Text, Tool, ToolCall
from lmnb.chat.events import Event
from lmnb.errors import LmnbError
from lmnb.server.mcp.connection import Connection
from lmnb.server.mcp.servers import Server

if TYPE_CHECKING:
    from mcp.types import Tool as McpTool

Failure: TypeAlias = Literal["invalid_name", "invalid_arguments", "execution_error"]


@dataclass(frozen=True)
class Offered:
    """A tool of a server. `tool` has the name that the model knows it by.

    `needs_approval`: somebody has to agree before it is called.
    """

    server: Server
    connection: Connection
    name: str
    tool: Tool
    needs_approval: bool = False


@dataclass(frozen=True)
class Listing:
    """A server is being asked for its tools."""

    server: Server


@dataclass(frozen=True)
class Listed:
    """What it answered: its tools, as far as they are allowed, or why there are none."""

    server: Server
    tools: tuple[McpTool, ...] = ()
    error: LmnbError | None = None


@dataclass(frozen=True, kw_only=True)
class Approved:
    """A call somebody has agreed to, which is made now; the model asked for it in an earlier answer.

    `request` is what that answer called its request for approval.
    """

    request: str
    call: ToolCall
    offered: Offered | None


@dataclass(frozen=True)
class Asked:
    """A call that is not made before somebody agrees."""

    call: ToolCall
    offered: Offered


@dataclass(frozen=True, kw_only=True)
class Called:
    """A call that has been made, or refused.

    arguments
        None if they were no JSON object.
    output
        The content that the server gave, as JSON text of MCP's content blocks; "" if it gave none.
    parts
        The same for the model, or what it is told instead.
    failure
        What kind of failure, with `reason` for people; None if the tool answered.
    error_code
        JSON-RPC's, where no tool said what failed.
    is_made
        Off if the answer ended first: then the model is told nothing.
    """

    call: ToolCall
    offered: Offered | None
    arguments: dict[str, Any] | None = None
    output: str = ""
    parts: tuple[Text | Image, ...] = ()
    failure: Failure | None = None
    reason: str = ""
    error_code: int = 0
    is_made: bool = True


Step: TypeAlias = Event | Listing | Listed | Approved | Asked | Called
