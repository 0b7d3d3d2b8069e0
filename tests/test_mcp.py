"""Tools of MCP servers: real ones of the official SDK, called by a scripted model."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import mcp_raw
import psutil
import pytest
from anthropic_synthetic import parse
from mcp_caller import ANSWER, SCRIPT, SEEN, STDIO, WORDS, loaded_caller, opened, over_http
from server_home import CHAT, ServerHome, wait_for

from lmnb.chat.conversation import Text, ToolCall
from lmnb.client import Client
from lmnb.errors import ConfigError, InvalidRequest, NotFound
from lmnb.notebook import status
from lmnb.server.mcp import connection, servers
from lmnb.server.mcp.connection import McpConnectionFailed
from lmnb.server.mcp.filters import Filter
from lmnb.server.mcp.pool import Pool
from lmnb.server.mcp.servers import Local, Remote, Server
from lmnb.server.mcp.steps import Called
from lmnb.server.mcp.toolset import Toolset, arguments_of

MODEL = "mcp-caller"
RAW = Server("raw", Local(sys.executable, (str(mcp_raw.__file__),)), is_configured=True)


@pytest.fixture(scope="module")
def loaded(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = server.attach()
    with loaded_caller(client, tmp_path_factory.mktemp("mcp"), MODEL):
        yield client


@pytest.fixture(autouse=True)
def configured(server: ServerHome) -> Iterator[None]:
    path = server.path / "mcp.json"
    known = {"files": STDIO, f"odd{SEEN}": STDIO}
    path.write_text(json.dumps({"mcpServers": known}))
    yield
    path.unlink()


@pytest.fixture(scope="module")
def remote() -> Iterator[str]:
    with over_http() as url:
        yield url


def ask(http: httpx2.Client, *integrations: Any, words: str = "Well?", **more: Any) -> Any:
    body = {"model": MODEL, "input": words, "integrations": list(integrations), **more}
    return http.post("/api/v1/chat", json={"temperature": 0, **body}, timeout=60)


def plugin(tool: str, label: str = "files") -> dict[str, Any]:
    return {"type": "plugin", "id": f"mcp/{label}", "allowed_tools": [tool]}


def ephemeral(url: str, tool: str, label: str = "far", **more: Any) -> dict[str, Any]:
    return {
        "type": "ephemeral_mcp",
        "server_label": label,
        "server_url": url,
        "allowed_tools": [tool],
        **more,
    }


def test_a_tool_of_a_configured_server(loaded: Client) -> None:
    answer = ask(loaded.http, plugin("weather")).json()
    words, call, message = answer["output"]
    assert words == {"type": "message", "content": WORDS}
    assert call == {
        "type": "tool_call",
        "tool": "weather",
        "arguments": {"city": "Ulm"},
        "output": json.dumps(
            [{"type": "text", "text": f"It rains in Ulm. {SEEN}"}],
            ensure_ascii=False,
            separators=(",", ":"),
        ),
        "provider_info": {"type": "plugin", "plugin_id": "mcp/files"},
    }
    assert message == {"type": "message", "content": ANSWER}
    assert answer["stats"]["total_output_tokens"] > 5


def test_a_tool_of_a_remote_server_in_a_stream(loaded: Client, remote: str) -> None:
    answer = ask(loaded.http, ephemeral(remote, "visits"), stream=True)
    events = parse(answer.content)
    info = {"type": "ephemeral_mcp", "server_label": "far"}
    names = [name for name, _ in events if not name.startswith("prompt_processing.progress")]
    assert names == [
        "chat.start",
        "prompt_processing.start",
        "prompt_processing.end",
        *(
            "message.start",
            *["message.delta"] * names[: names.index("message.end")].count("message.delta"),
            "message.end",
        ),
        "tool_call.start",
        "tool_call.arguments",
        "tool_call.success",
        "prompt_processing.start",
        "prompt_processing.end",
        "message.start",
        *["message.delta"] * names[names.index("tool_call.success") :].count("message.delta"),
        "message.end",
        "chat.end",
    ]
    told = dict(events)
    assert told["tool_call.start"] == {
        "type": "tool_call.start",
        "tool": "visits",
        "provider_info": info,
    }
    assert told["tool_call.arguments"]["arguments"] == {"city": "Ulm"}
    success = told["tool_call.success"]
    assert success["provider_info"] == info
    assert json.loads(success["output"])[0]["text"].startswith("1 ")
    output = told["chat.end"]["result"]["output"]
    assert [item["type"] for item in output] == ["message", "tool_call", "message"]
    assert output[1]["output"] == success["output"]


def test_a_configured_server_is_kept_and_a_chat_remembers(loaded: Client) -> None:
    """Its process and state outlive a request; what it said is part of the chat."""
    first = ask(loaded.http, plugin("visits")).json()
    second = ask(loaded.http, plugin("visits"), previous_response_id=first["response_id"]).json()
    assert [item["type"] for item in second["output"]] == ["message"], "the result is still there"
    third = ask(loaded.http, plugin("visits")).json()
    before, after = (
        json.loads(each["output"][1]["output"])[0]["text"].split() for each in (first, third)
    )
    assert int(after[0]) == int(before[0]) + 1
    assert after[1] == before[1]
    assert second["stats"]["input_tokens"] > first["stats"]["input_tokens"]


@pytest.mark.parametrize(
    ("tool", "label", "kind", "reason"),
    [
        ("broken", "files", "execution_error", "the well is dry"),
        ("die", f"odd{SEEN}", "execution_error", "has ended|closed"),
        ("sleep", f"odd{SEEN}", "execution_error", "took over 2 seconds"),
    ],
)
def test_a_tool_that_fails_is_told_to_the_model_and_the_caller(
    loaded: Client, tool: str, label: str, kind: str, reason: str
) -> None:
    loaded.change_setting("mcp_timeout", 2)
    try:
        events = parse(ask(loaded.http, plugin(tool, label), stream=True).content)
    finally:
        loaded.change_setting("mcp_timeout", None)
    failure = dict(events)["tool_call.failure"]
    assert failure["metadata"] == {
        "type": kind,
        "tool_name": tool,
        "arguments": {"city": "Ulm"},
        "provider_info": {"type": "plugin", "plugin_id": f"mcp/{label}"},
    }
    assert re.search(reason, failure["reason"])
    output = events[-1][1]["result"]["output"]
    assert output[1] == {
        "type": "invalid_tool_call",
        "reason": failure["reason"],
        "metadata": failure["metadata"],
    }
    assert output[-1] == {"type": "message", "content": ANSWER}


def test_a_server_that_died_is_started_again(loaded: Client) -> None:
    label = f"odd{SEEN}"
    ask(loaded.http, plugin("die", label))
    answer = ask(loaded.http, plugin("visits", label)).json()
    assert json.loads(answer["output"][1]["output"])[0]["text"].startswith("1 ")


def test_too_much_is_cut() -> None:
    async def flood() -> str:
        server = Server("a", Local(sys.executable, (str(SCRIPT),)))
        async with opened(Pool(), [server], patience=9) as toolset:
            called = await toolset.call(ToolCall("1", "flood", '{"city": "Ulm"}'))
            (block,) = json.loads(called.output)
            assert [part.text for part in called.parts if isinstance(part, Text)] == [block["text"]]
            return str(block["text"])

    text = asyncio.run(flood())
    assert 100_000 < len(text) < 100_100
    assert text.endswith("more characters were left out]")


def test_pictures_that_the_model_cannot_see(loaded: Client) -> None:
    answer = ask(loaded.http, plugin("picture")).json()
    kinds = [block["type"] for block in json.loads(answer["output"][1]["output"])]
    assert kinds == ["image", "text"]
    assert answer["output"][-1]["content"] == ANSWER


def test_steps_have_an_end(loaded: Client) -> None:
    answer = ask(loaded.http, plugin("again")).json()
    assert [item["type"] for item in answer["output"]].count("tool_call") == 25


def test_a_limit_of_tokens_is_for_all_steps(loaded: Client) -> None:
    whole = ask(loaded.http, plugin("weather")).json()["stats"]["total_output_tokens"]
    cut = ask(loaded.http, plugin("weather"), max_output_tokens=whole - 1).json()
    assert cut["stats"]["total_output_tokens"] == whole - 1
    assert [item["type"] for item in cut["output"]] == ["message", "tool_call", "message"]
    assert ANSWER.startswith(cut["output"][-1]["content"])


def test_a_call_that_a_limit_cuts_is_told_as_not_made(loaded: Client) -> None:
    events = parse(ask(loaded.http, plugin("weather"), max_output_tokens=4, stream=True).content)
    told = dict(events)
    assert told["tool_call.start"]["tool"] == "weather"
    assert "tool_call.success" not in told
    assert told["tool_call.failure"]["metadata"]["type"] == "invalid_arguments"
    assert "before the call could be made" in told["tool_call.failure"]["reason"]
    result = told["chat.end"]["result"]
    assert [item["type"] for item in result["output"]] == ["message", "invalid_tool_call"]
    # The chat goes on without it, and without tools.
    after = ask(loaded.http, words=f"Well? {SEEN}", previous_response_id=result["response_id"])
    assert after.json()["output"][-1] == {"type": "message", "content": ANSWER}


async def raw(toolset: Toolset, name: str) -> Called:
    return await toolset.call(ToolCall("1", name, '{"city": "Ulm"}'))


async def visited(pool: Pool) -> str:
    """How many calls there have been, and in which process."""
    async with opened(pool, [RAW], patience=9) as toolset:
        return str(json.loads((await raw(toolset, "count")).output)[0]["text"])


def test_a_refused_call_leaves_the_server_as_it_is() -> None:
    """Servers in TypeScript answer wrong arguments with an error of JSON-RPC."""

    async def play() -> None:
        pool = Pool()
        before = await visited(pool)
        async with opened(pool, [RAW], patience=9) as toolset:
            for name, reason in (
                ("refuse", "no such city"),
                ("untyped", "Invalid structured content"),
                ("nonsense", "content"),
            ):
                called = await raw(toolset, name)
                assert called.failure == "execution_error"
                assert reason in called.reason
        assert (await visited(pool)).split() == ["5", before.split()[1]]
        await pool.close()

    asyncio.run(play())


def test_a_call_that_takes_too_long_does_not_disturb_others() -> None:
    async def play() -> None:
        pool = Pool()

        async def slow(patience: float) -> Called:
            async with opened(pool, [RAW], patience=patience) as toolset:
                return await raw(toolset, "slow")

        impatient, patient = await asyncio.gather(slow(0.5), slow(9))
        assert "took over 0.5 seconds" in impatient.reason
        assert patient.failure is None, patient.reason
        await pool.close()

    asyncio.run(play())


def test_a_server_that_died_while_nobody_used_it() -> None:
    async def play() -> None:
        pool = Pool()
        _, process = (await visited(pool)).split()
        program = psutil.Process(int(process))
        program.kill()
        program.wait(9)
        assert (await visited(pool)).startswith("1 ")
        await pool.close()

    asyncio.run(play())


def test_nothing_is_left_of_a_server_that_was_still_starting() -> None:
    """Its client leaves, and then the server ends."""
    deaf = Server("deaf", Local(sys.executable, (str(mcp_raw.__file__), "deaf")))

    async def use(pool: Pool) -> None:
        async with opened(pool, [deaf, RAW], patience=9):
            raise AssertionError

    async def play() -> None:
        pool = Pool()
        using = asyncio.create_task(use(pool))
        while len(programs()) < 2:
            await asyncio.sleep(0.05)
        using.cancel()
        await asyncio.gather(using, return_exceptions=True)
        await pool.close()
        assert not programs()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def programs() -> list[psutil.Process]:
        return [
            one
            for one in psutil.Process().children()
            if one.status() != psutil.STATUS_ZOMBIE and str(mcp_raw.__file__) in one.cmdline()
        ]

    asyncio.run(play())


def test_tools_that_no_model_can_be_told_of_are_left_out() -> None:
    async def play() -> None:
        pool = Pool()
        # The same label twice: a server of mcp.json, and one that the request names.
        other = Server("raw", RAW.place, Filter(frozenset({"slow", "raw__slow"})))
        async with opened(pool, [RAW, other], patience=9) as toolset:
            assert [tool.name for tool in toolset.tools] == [
                "count",
                "refuse",
                "untyped",
                "nonsense",
                "raw__slow",
                "crowd",
                "raw__slow_",
            ]
            crowd = await raw(toolset, "crowd")
            assert len(crowd.parts) == 1001
            assert crowd.parts[-1] == Text("[500 more were left out]")
        await pool.close()

    asyncio.run(play())


@pytest.mark.parametrize(
    "text", ["[1]", '{"city": "\\ud800"}', '{"n": NaN}', '{"n": ' + "[" * 100_000, '{"city": "Ul']
)
def test_arguments_that_could_not_be_sent_on(text: str) -> None:
    assert arguments_of(ToolCall("1", "weather", text)) is None
    assert arguments_of(ToolCall("1", "weather", "")) == {}


def test_a_remote_server_that_compresses() -> None:
    """64 MiB of zeros are 64 KiB."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = gzip.compress(b" " * (64 << 20))
        head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    async def play() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        zeros = Server("zeros", Remote(f"http://127.0.0.1:{port}/mcp"))
        with pytest.raises(McpConnectionFailed, match="compresses"):
            async with opened(Pool(), [zeros], patience=9):
                pass
        server.close()

    asyncio.run(play())


def test_tools_of_the_same_name_are_told_apart() -> None:
    place = Local(sys.executable, (str(SCRIPT),))

    async def names() -> set[str]:
        both = [
            Server("a", place, Filter(frozenset({"visits", "again"}))),
            Server("b", place, Filter(frozenset({"visits"}))),
        ]
        async with opened(Pool(), both, patience=9) as toolset:
            called = await toolset.call(ToolCall("1", "b__visits", '{"city": "Ulm"}'))
            assert called.output.startswith('[{"type":"text","text":"1 ')
            unknown = await toolset.call(ToolCall("2", "visits", "{}"))
            assert (unknown.failure, unknown.offered) == ("invalid_name", None)
            wrong = await toolset.call(ToolCall("3", "again", "[1]"))
            assert wrong.failure == "invalid_arguments"
            missing = await toolset.call(ToolCall("4", "again", "{}"))
            assert missing.failure == "execution_error"
            assert "city" in missing.reason
            return {tool.name for tool in toolset.tools}

    assert asyncio.run(names()) == {"a__visits", "b__visits", "again"}


def test_without_tools_nothing_is_different(loaded: Client) -> None:
    answer = ask(loaded.http, plugin("nothing"), words=f"Well? {SEEN}").json()
    assert answer["output"] == [{"type": "message", "content": ANSWER}]


def test_leaving_ends_a_remote_connection(loaded: Client, remote: str) -> None:
    with loaded.http.stream(
        "POST",
        "/api/v1/chat",
        json={
            "model": MODEL,
            "input": "x",
            "stream": True,
            "integrations": [ephemeral(remote, "sleep")],
        },
    ) as answer:
        for line in answer.iter_lines():
            if "tool_call.arguments" in line:
                break
    wait_for(lambda: all(not row["active"] for row in loaded.ps()), "the chat to end")


# --- what cannot be used ----------------------------------------------------------------


def refused(http: httpx2.Client, *integrations: Any, status: int) -> dict[str, Any]:
    answer = ask(http, *integrations)
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_servers_that_cannot_be_reached(loaded: Client, server: ServerHome) -> None:
    nowhere = refused(loaded.http, ephemeral("http://127.0.0.1:9/mcp", "x"), status=424)
    assert nowhere["type"] == "mcp_connection_error"
    assert "far" in nowhere["message"]
    path = server.path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"gone": {"command": "/no/such/program"}}}))
    message = refused(loaded.http, "mcp/gone", status=424)["message"]
    assert message.startswith("The MCP server gone cannot be used: there is no such command")


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_PATIENCE", 2.0)

    async def use() -> None:
        mute = Server("mute", Local(sys.executable, (str(SCRIPT), "mute")), is_configured=True)
        async with opened(Pool(), [mute], patience=9):
            pass

    with pytest.raises(McpConnectionFailed, match="did not answer within 2 seconds"):
        asyncio.run(use())


def test_integrations_that_are_none(loaded: Client) -> None:
    assert "mcp/files" in str(refused(loaded.http, "mcp/other", status=404))
    assert refused(loaded.http, "files", status=404)["param"] == "integrations[0]"
    assert "twice" in refused(loaded.http, "mcp/files", "mcp/files", status=400)["message"]
    wrong = refused(loaded.http, ephemeral("file:///etc/passwd", "x"), status=400)
    assert wrong["param"] == "integrations[0]"
    assert refused(loaded.http, {"type": "plugin"}, status=400)["param"] == "integrations[0].id"


def test_what_the_network_may(loaded: Client, remote: str) -> None:
    """Off by default; configured servers need a token with the permission besides."""
    with httpx2.Client(base_url=loaded.serve(port=0)["url"]) as http:
        try:
            for integration in ("mcp/files", ephemeral(remote, "visits")):
                assert "lmnb settings" in refused(http, integration, status=403)["message"]
            loaded.change_setting("allow_request_mcp", "on")
            loaded.change_setting("allow_configured_mcp", "on")
            assert ask(http, ephemeral(remote, "visits")).status_code == 200
            assert "token" in refused(http, "mcp/files", status=403)["message"]
        finally:
            loaded.stop_serving()
    tokens = {
        name: loaded.create_token(name, [name, "inference"])["token"] for name in ("mcp", "models")
    }
    with httpx2.Client(base_url=loaded.serve(port=0, require_auth=True)["url"]) as http:
        try:
            http.headers["x-api-key"] = tokens["models"]
            for integration in ("mcp/files", ephemeral(remote, "visits")):
                assert "'mcp'" in refused(http, integration, status=403)["message"]
            http.headers["x-api-key"] = tokens["mcp"]
            for integration in (plugin("visits"), ephemeral(remote, "visits")):
                assert ask(http, integration).status_code == 200
        finally:
            loaded.stop_serving()
            for name in tokens:
                loaded.remove_token(name)
            loaded.change_setting("allow_request_mcp", None)
            loaded.change_setting("allow_configured_mcp", None)


def test_the_list(loaded: Client, server: ServerHome) -> None:
    (server.path / "mcp.json").write_text(
        json.dumps({"mcpServers": {"files": STDIO, "gone": {"command": "/no/such/program"}}})
    )
    files, gone = loaded.mcp()
    assert files["id"] == "mcp/files"
    assert {"name": "weather", "description": "The weather in a city."} in files["tools"]
    assert "gone" in gone["error"]
    printed = server.lmnb("mcp").stdout
    assert "    weather: The weather in a city.\n" in printed
    assert gone["error"] in printed
    assert json.loads(server.lmnb("mcp", "--json").stdout) == [files, gone]
    text = status.mcp([files, gone], server.path)["text/plain"]
    assert "mcp/files  weather" in text
    assert "mcp.json" in status.mcp([], server.path)["text/plain"]


def test_the_file(tmp_path: Path) -> None:
    assert servers.configured(tmp_path) == {}
    path = tmp_path / "mcp.json"
    path.write_text(
        json.dumps(
            {
                "mcpServers": {
                    "a": {
                        "command": "npx",
                        "args": ["-y", "x"],
                        "env": {"K": "v"},
                        "type": "stdio",
                    },
                    "b": {"url": "https://b.example/mcp", "headers": {"h": "v"}},
                    "c": {"command": "x", "disabled": True},
                }
            }
        )
    )
    assert servers.configured(tmp_path) == {
        "a": Local("npx", ("-y", "x"), {"K": "v"}),
        "b": Remote("https://b.example/mcp", {"h": "v"}),
    }
    with pytest.raises(NotFound):
        servers.find(servers.configured(tmp_path), "mcp/c", param="x")
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "mcpServers"),
        ('{"mcpServers": {"a": 1}}', "a must be an object"),
        ('{"mcpServers": {"a": {}}}', "command or a url"),
        ('{"mcpServers": {"a": {"command": 1}}}', "a: Expected `str`"),
        ('{"mcpServers": {"a": {"url": "http://["}}}', "a: 'http://\\[' is no http:// or https"),
        ('{"mcpServers": {"a": {"url": "http://"}}}', "a: 'http://' is no http:// or https"),
        ('{"mcpServers": {"a": {"url": "http://a b"}}}', "is no http:// or https:// URL"),
        ('{"mcpServers": {"a": {"url": "http://x:0"}}}', "is no http:// or https:// URL"),
        ('{"mcpServers": {"a": {"url": "http://x", "headers": {"a:": ""}}}}', "'a:' cannot be"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            servers.configured(tmp_path)
    with pytest.raises(InvalidRequest):
        servers.remote(" ", "https://x.example", None, param="x")
    for secret in ("hush\nhush", "hüsh", "hush "):
        # What sends it would refuse it, too, in words that repeat it.
        with pytest.raises(InvalidRequest, match="The header K has") as caught:
            servers.remote("x", "https://x.example", {"K": secret}, param="x")
        assert secret.strip() not in str(caught.value)


@pytest.mark.parametrize("how", ["shutdown", "kill"])
def test_servers_end_with_the_server(fresh_home: ServerHome, how: str) -> None:
    """No program is left behind, whatever ends the server."""
    (fresh_home.path / "mcp.json").write_text(json.dumps({"mcpServers": {"files": STDIO}}))
    client = fresh_home.attach()
    body = {"model": CHAT, "input": "Hi", "max_output_tokens": 1, "integrations": ["mcp/files"]}
    assert client.http.post("/api/v1/chat", json=body, timeout=60).status_code == 200
    _keeper, program = (
        one
        for one in psutil.Process(fresh_home.pid).children(recursive=True)
        if str(SCRIPT) in one.cmdline()
    )
    if how == "kill":
        fresh_home.kill()
    else:
        client.shutdown()
    wait_for(lambda: not program.is_running(), "the MCP server to end")
