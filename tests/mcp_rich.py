"""An MCP server by the official SDK that uses what the protocol has: `python mcp_rich.py [http]`.

With `http` it listens on a free port, which it prints.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import sys
import zlib
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel

server = MCPServer("rich")


def png(side: int) -> bytes:
    """A picture of noise, so that it stays large."""
    rows = b"".join(
        b"\0" + bytes((i * j * 7919 + i) >> 3 & 255 for i in range(side)) for j in range(side)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        )

    size = side.to_bytes(4, "big")
    head = size + size + bytes((8, 0, 0, 0, 0))
    data = zlib.compress(rows, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@server.tool()
def everything() -> CallToolResult:
    """One of each kind of content."""
    small = encoded(png(2))
    return CallToolResult(
        content=[
            TextContent(text="words"),
            ImageContent(data=small, mime_type="image/png"),
            ImageContent(data=encoded(b"no picture"), mime_type="image/png"),
            AudioContent(data=small, mime_type="audio/wav"),
            EmbeddedResource(resource=TextResourceContents(uri="file:///a.txt", text="a file")),
            EmbeddedResource(
                resource=BlobResourceContents(
                    uri="file:///a.png", blob=small, mime_type="image/png"
                )
            ),
            EmbeddedResource(
                resource=BlobResourceContents(
                    uri="file:///a.zip", blob="AAAA", mime_type="application/zip"
                )
            ),
            ResourceLink(name="elsewhere", uri="file:///b.txt"),
        ]
    )


@server.tool()
def large() -> CallToolResult:
    """A picture of more than a megabyte."""
    return CallToolResult(content=[ImageContent(data=encoded(png(1200)), mime_type="image/png")])


@server.tool()
def bare() -> CallToolResult:
    """A structured result, which nothing repeats in words."""
    return CallToolResult(content=[], structured_content={"degrees": 21.5})


@server.tool()
async def slow(ctx: Context[Any, Any]) -> str:
    """Takes two seconds, and tells how far it is."""
    for i in range(10):
        await ctx.report_progress(i, 10)
        await asyncio.sleep(0.2)
    return "done"


@server.tool()
async def unlock(ctx: Context[Any, Any]) -> str:
    """Has one more tool from then on."""
    server.add_tool(lambda: "a secret", name="secret", description="What was locked away.")
    await ctx.notify_tools_changed()
    if ctx.protocol_version is not None and ctx.protocol_version < "2026":
        await ctx.session.send_tool_list_changed()
    return "unlocked"


class Answer(BaseModel):
    name: str


@server.tool()
async def curious(ctx: Context[Any, Any]) -> str:
    """Asks the user."""
    asked = await ctx.elicit("Who are you?", Answer)
    return f"asked: {asked.action}"


def main() -> None:
    if "http" not in sys.argv:
        server.run()
        return
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sys.stdout.write(f"{sock.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
