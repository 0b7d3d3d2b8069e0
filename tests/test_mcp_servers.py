"""What MCP servers may do, and what they should not: real ones, without a model."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mcp_odd
import mcp_rich
import psutil
import pytest
from mcp_caller import opened
from server_home import ServerHome, wait_for

from lmnb.chat.conversation import Image, Text, ToolCall
from lmnb.errors import InvalidRequest
from lmnb.server import notes
from lmnb.server.mcp import stdio
from lmnb.server.mcp.filters import ALL, Filter
from lmnb.server.mcp.pool import Pool
from lmnb.server.mcp.servers import Local, Place, Remote, Server
from lmnb.server.mcp.steps import Called
from lmnb.server.mcp.toolset import Toolset


def odd(how: str, *tools: str) -> Server:
    place = Local(sys.executable, (str(mcp_odd.__file__), how))
    return Server("odd", place, Filter(frozenset(tools)) if tools else ALL, is_configured=True)


@pytest.fixture(scope="module")
def rich_url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(mcp_rich.__file__), "http"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module", params=["stdio", "http"])
def rich(request: pytest.FixtureRequest) -> dict[str, Called]:
    """What each tool of the SDK's server gave, in one connection; `secret` comes with `unlock`."""
    place: Place = Local(sys.executable, (str(mcp_rich.__file__),))
    if request.param == "http":
        place = Remote(request.getfixturevalue("rich_url"))
    server = Server("rich", place, is_configured=True)

    async def play() -> dict[str, Called]:
        pool = Pool()
        found = {}
        async with opened(pool, [server], patience=20) as toolset:
            names = {tool.name for tool in toolset.tools}
            assert "secret" not in names
            for name in names - {"slow"}:
                found[name] = await call(toolset, name)
            while toolset.find("secret") is None:
                # Over HTTP the news comes on a stream of its own, perhaps after the answer.
                await call(toolset, "bare")
            found["secret"] = await call(toolset, "secret")
        async with opened(pool, [server], patience=0.6) as toolset:
            found["slow"] = await call(toolset, "slow")
        await pool.close()
        return found

    return asyncio.run(asyncio.wait_for(play(), 60))


async def call(toolset: Toolset, name: str) -> Called:
    return await toolset.call(ToolCall("1", name, "{}"))


def called(server: Server, name: str) -> Called:
    async def play() -> Called:
        pool = Pool()
        try:
            async with opened(pool, [server], patience=9) as toolset:
                return await call(toolset, name)
        finally:
            await pool.close()

    return asyncio.run(play())


# --- what the protocol has -------------------------------------------------------------


def test_every_kind_of_content(rich: dict[str, Called]) -> None:
    found = rich["everything"]
    picture = Image(mcp_rich.png(2), "image/png")
    assert found.parts[:2] == (Text("words"), picture)
    rest = [part.text if isinstance(part, Text) else part for part in found.parts[2:]]
    assert rest[0].startswith("[An image that cannot be shown:")  # type: ignore[union-attr]
    assert rest[1:] == [
        "[audio: cannot be shown]",
        "a file",
        picture,
        "[file:///a.zip: application/zip, which cannot be shown]",
        "[elsewhere: file:///b.txt]",
    ]
    kinds = [block["type"] for block in json.loads(found.output)]
    assert kinds == ["text", "image", "image", "audio", *["resource"] * 3, "resource_link"]


def test_a_large_picture(rich: dict[str, Called]) -> None:
    (picture,) = rich["large"].parts
    assert isinstance(picture, Image)
    assert picture.data == mcp_rich.png(1200)
    assert len(picture.data) > 1 << 20


def test_a_structured_result_without_words(rich: dict[str, Called]) -> None:
    (part,) = rich["bare"].parts
    assert part == Text('{"degrees": 21.5}')


def test_progress_keeps_a_call_alive(rich: dict[str, Called]) -> None:
    """It takes two seconds, and is given 0.6 after each sign of life."""
    assert rich["slow"].parts == (Text("done"),)


def test_tools_that_come_while_a_model_answers(rich: dict[str, Called]) -> None:
    assert rich["secret"].parts == (Text("a secret"),)


def test_the_user_cannot_be_asked(rich: dict[str, Called]) -> None:
    found = rich["curious"]
    assert found.failure == "execution_error"
    assert "licitation" in found.reason


def test_what_servers_ask_for_is_refused() -> None:
    (told,) = called(odd("asking"), "go").parts
    assert isinstance(told, Text)
    assert [error["message"] for error in json.loads(told.text)] == [
        "Sampling not supported",
        "Elicitation not supported",
        "List roots not supported",
    ]


# --- what servers should not do --------------------------------------------------------


def test_many_tools_are_refused_at_once() -> None:
    async def play() -> None:
        pool = Pool()
        with pytest.raises(InvalidRequest, match="offer 10000 tools") as caught:
            async with opened(pool, [odd("many")], patience=9):
                pass
        assert "allowed_tools" in str(caught.value)
        async with opened(pool, [odd("many", "tool_5", "tool_9999")], patience=9) as toolset:
            assert [tool.name for tool in toolset.tools] == ["tool_5", "tool_9999"]
        await pool.close()

    asyncio.run(play())


def test_tools_that_the_protocol_does_not_know_are_left_out() -> None:
    async def play() -> list[str]:
        told = notes.collect()
        pool = Pool()
        async with opened(pool, [odd("wrong")], patience=9) as toolset:
            assert [(tool.name, tool.description) for tool in toolset.tools] == [
                ("good", "As it should be."),
                ("twice", "first"),
            ]
            assert (await call(toolset, "good")).failure is None
        await pool.close()
        return list(told)

    told = asyncio.run(play())
    for name in ("'listed'", "'stringy'", "'#4'", "'#5'", "'described'"):
        assert any(f"The tool {name} of the MCP server odd is left out. " in one for one in told)
    assert "The MCP server odd has 2 tools named 'twice'; the first is used." in told
    assert len(told) == 6


def test_a_line_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "MOST_BYTES", 3 << 20)

    async def play() -> None:
        pool = Pool()
        async with opened(pool, [odd("endless")], patience=60) as toolset:
            found = await call(toolset, "go")
        assert found.reason == ("The MCP server odd failed: it sent a line of more than 3 MiB.")
        async with opened(pool, [odd("endless")], patience=60) as toolset:
            assert [tool.name for tool in toolset.tools] == ["go"], "it was started anew"
        await pool.close()

    asyncio.run(play())


def test_what_is_no_message_is_not_listened_to() -> None:
    assert called(odd("chatty"), "go").failure is None


def test_a_program_that_ends_at_once_says_so() -> None:
    async def play() -> None:
        server = Server("brief", Local(sys.executable, ("-c", "raise SystemExit(3)")))
        async with opened(Pool(), [server], patience=9):
            raise AssertionError

    with pytest.raises(Exception, match="its program has ended with exit status 3"):
        asyncio.run(play())


def programs() -> list[psutil.Process]:
    """What mcp_odd's programs and what they started are, everywhere."""
    found = []
    for one in psutil.process_iter():
        try:
            if str(mcp_odd.__file__) in one.cmdline() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except psutil.Error:
            pass
    return found


def test_a_stubborn_program_ends_when_it_is_not_needed() -> None:
    async def play() -> None:
        pool = Pool()
        async with opened(pool, [odd("stubborn")], patience=9):
            assert len(programs()) == 3, "its keeper, the program and what it has started"
        began = time.monotonic()
        await pool.close()
        assert not programs()
        assert time.monotonic() - began < 9

    asyncio.run(play())


def test_a_stubborn_program_does_not_outlive_a_killed_server(fresh_home: ServerHome) -> None:
    place: dict[str, Any] = {
        "command": sys.executable,
        "args": [str(Path(mcp_odd.__file__)), "stubborn"],
    }
    (fresh_home.path / "mcp.json").write_text(json.dumps({"mcpServers": {"odd": place}}))
    (row,) = fresh_home.attach().mcp()
    assert [tool["name"] for tool in row["tools"]] == ["go"]
    assert len(programs()) == 3
    fresh_home.kill()
    wait_for(lambda: not programs(), "the MCP server to end")
