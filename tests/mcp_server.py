"""An MCP server by the official SDK, honest and otherwise: `python mcp_server.py [http] [mute]`.

With `http` it listens on a free port, which it prints. A `mute` one says nothing at all.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time

import uvicorn
from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

SEEN = "\u0181"
"""What the scripted model waits for: results have it."""
server = MCPServer("tests")
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d494441"
    "5478da63fccfc0500f000485018084a98c210000000049454e44ae426082"
)
_times: list[float] = []


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}. {SEEN}"


@server.tool()
def visits(city: str) -> str:
    """How often this has been called, and in which process."""
    _times.append(time.time())
    return f"{len(_times)} {os.getpid()} {SEEN}"


@server.tool()
def again(city: str) -> str:
    """Not what anybody waits for."""
    return "Ask again."


@server.tool()
def picture(city: str) -> list[str | Image]:
    """A picture."""
    return [Image(data=_PIXEL, format="png"), SEEN]


@server.tool()
def broken(city: str) -> str:
    """Fails."""
    raise ToolError(f"the well is dry {SEEN}")


@server.tool()
def flood(city: str) -> str:
    """Says too much."""
    return f"{SEEN} " + "water " * 100_000


@server.tool()
async def sleep(city: str) -> str:
    """Never answers."""
    await asyncio.sleep(3600)
    return "Good morning."


@server.tool()
def die(city: str) -> str:
    """Ends the server."""
    os._exit(3)


def main() -> None:
    if "mute" in sys.argv:
        time.sleep(3600)
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
