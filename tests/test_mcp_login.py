"""Logging in to MCP servers: a real authorization server, a real server of ours, no browser."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import mcp_oauth
import mcp_server
import pytest
from mcp.shared.auth import OAuthClientInformationFull
from mcp_caller import opened
from mcp_oauth import Authority
from pydantic import AnyUrl
from server_home import CHAT, ServerHome

from lmnb.chat.conversation import Text, ToolCall
from lmnb.client import Client
from lmnb.errors import ConfigError, InvalidRequest, LmnbError
from lmnb.notebook import server_commands
from lmnb.notebook.failures import UsageMistake
from lmnb.notebook.lm import lm
from lmnb.server.mcp import login, servers
from lmnb.server.mcp.connection import McpConnectionFailed
from lmnb.server.mcp.login import Desk
from lmnb.server.mcp.logins import Logins
from lmnb.server.mcp.pool import Pool
from lmnb.server.mcp.servers import OAuthClient, Remote, Server


@pytest.fixture
def careful() -> Iterator[tuple[Authority, str]]:
    with mcp_oauth.running() as found:
        yield found


def browse(url: str) -> httpx2.Response:
    """What a browser does with the address that the user is shown."""
    return httpx2.get(url, follow_redirects=True, timeout=20)


def logins_of(home: Path) -> Path:
    return home / "mcp-logins.json"


def row(client: Client) -> dict[str, Any]:
    (found,) = client.mcp()
    return found


def with_the_magic(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def show(bundle: dict[str, str]) -> None:
        shown.append(bundle["text/plain"])
        if shown[-1].startswith("Log in here: "):
            assert bundle["text/html"].startswith('<a href="http://')
            browse(shown[-1].removeprefix("Log in here: "))

    monkeypatch.setattr(server_commands, "show", show)
    monkeypatch.setattr(server_commands, "note", shown.append)
    lm("mcp login far")
    assert shown[1:] == ["Logged in to far."]
    with pytest.raises(UsageMistake, match="needs the NAME"):
        lm("mcp logout")
    lm("mcp logout far")
    assert shown[-1] == "far is forgotten."

    def paste(asked: str) -> str:
        assert "cannot be opened" in asked
        (away,) = (line for line in shown if line.startswith("Log in here: "))
        return str(httpx2.get(away.removeprefix("Log in here: "), timeout=20).headers["location"])

    # A browser elsewhere ends at an address that it cannot open.
    shown.clear()
    monkeypatch.setattr(server_commands, "show", lambda bundle: shown.append(bundle["text/plain"]))
    monkeypatch.setattr("builtins.input", paste)
    lm("mcp login far --paste")
    assert shown[1:] == ["Logged in to far."]
    lm("mcp")
    assert "mcp/far  who" in shown[-1]


def test_a_login_from_beginning_to_end(
    fresh_home: ServerHome, careful: tuple[Authority, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, url = careful
    printed = fresh_home.lmnb("mcp", "add", "far", url).stdout
    assert printed == f"far stands in {fresh_home.path / 'mcp.json'}.\n"
    client = fresh_home.attach()

    # Without a login: nothing hangs, no browser opens, nothing is registered.
    before = row(client)
    assert before["login"] == "needed"
    assert "`lmnb mcp login far`" in before["error"]
    assert "(needs login)" in fresh_home.lmnb("mcp").stdout
    body = {"model": CHAT, "input": "Hi", "integrations": ["mcp/far"]}
    refused = client.http.post("/api/v1/chat", json=body, timeout=60)
    assert refused.status_code == 424
    assert "`lmnb mcp login far`" in refused.json()["error"]["message"]
    assert not authority.clients

    # On the command line, with the user's browser.
    process = fresh_home.start("mcp", "login", "far", "--no-browser")
    assert process.stderr is not None
    told = ""
    while "code_challenge" not in told:
        told = process.stderr.readline()
    assert "lmnb goes on from here" in browse(told.strip()).text
    printed, _ = process.communicate(timeout=60)
    assert (process.returncode, printed) == (0, "Logged in to far.\n")
    (known,) = authority.clients.values()
    assert (known.client_name, known.token_endpoint_auth_method) == ("lmnb", "none")
    (asked,) = authority.asked
    assert asked.resource == url
    assert asked.scopes == ["use"]

    after = row(client)
    assert after["login"] == "done"
    assert [tool["name"] for tool in after["tools"]] == ["who"]
    listed = fresh_home.lmnb("mcp").stdout
    assert "(logged in)" in listed
    path = logins_of(fresh_home.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    # Expired, and the server is another process by now.
    client.shutdown()
    stored = json.loads(path.read_text())
    stored["far"]["expires_at"] = 5.0
    path.write_text(json.dumps(stored))
    client = fresh_home.attach()
    assert row(client)["login"] == "done"
    assert authority.renewed == 1
    assert json.loads(path.read_text())["far"]["tokens"] != stored["far"]["tokens"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    # Taken back sooner than was said: the connection that there is goes on.
    authority.access.clear()
    assert row(client)["login"] == "done"
    assert authority.renewed == 2

    # The authorization server has a bad day. The login outlives it.
    authority.access.clear()
    authority.is_broken = True
    assert "answered with status 503" in row(client)["error"]
    authority.is_broken = False
    assert row(client)["login"] == "done"

    # All taken back.
    authority.access.clear()
    authority.refresh.clear()
    assert row(client)["login"] == "needed"
    with_the_magic(monkeypatch)
    assert row(client)["login"] == "done"

    # Another address under the same name gets none of it.
    text = (fresh_home.path / "mcp.json").read_text()
    (fresh_home.path / "mcp.json").write_text(text.replace("/mcp", "/mcp/"))
    assert row(client)["login"] != "done"
    (fresh_home.path / "mcp.json").write_text(text)

    assert fresh_home.lmnb("mcp", "logout", "far").stdout == "far is forgotten.\n"
    assert fresh_home.lmnb("mcp", "logout", "far").stdout == "Nobody was logged in.\n"
    assert row(client)["login"] == "needed"
    assert "far" not in json.loads(path.read_text())

    shown = "".join((fresh_home.log(), listed, json.dumps([before, after]), printed))
    assert not [secret for secret in authority.secrets if secret in shown]


def test_logins_that_come_to_nothing(
    fresh_home: ServerHome, careful: tuple[Authority, str]
) -> None:
    authority, url = careful
    client = fresh_home.attach()
    client.add_mcp("far", {"url": url})
    client.add_mcp("near", {"command": "true"})
    with pytest.raises(InvalidRequest, match="nothing to log in to"):
        list(client.log_in_mcp("near"))
    client.remove_mcp("near")
    with pytest.raises(LmnbError, match="no integration 'mcp/near'"):
        list(client.log_in_mcp("near"))
    with pytest.raises(InvalidRequest, match="Nobody is logging in"):
        client.redirect_mcp("far", "http://127.0.0.1/?code=1")

    authority.denies = True
    events = client.log_in_mcp("far")
    page = browse(next(events)["url"])
    assert "You are not logged in" in page.text
    with pytest.raises(McpConnectionFailed, match="the login was refused: access_denied"):
        next(events)
    assert row(client)["login"] == "needed"
    assert not logins_of(fresh_home.path).exists()

    # A stranger's page does not end a login; another login does.
    authority.denies = False
    events = client.log_in_mcp("far")
    (back,) = parse_qs(urlsplit(next(events)["url"]).query)["redirect_uri"]
    assert browse(f"{back}?code=1&state=2").status_code == 400
    assert browse(back.replace("mcp-oauth-callback", "other")).status_code == 404
    with pytest.raises(InvalidRequest, match="not the address"):
        client.redirect_mcp("far", f"{back}?code=1")
    with pytest.raises(InvalidRequest, match="not the address"):
        client.redirect_mcp("far", "http://[")
    later = client.log_in_mcp("far")
    away = next(later)["url"]
    with pytest.raises(McpConnectionFailed, match="another login has begun"):
        next(events)

    # The browser is on another machine: what it cannot open is pasted.
    ends_at = httpx2.get(away, timeout=20).headers["location"]
    client.redirect_mcp("mcp/far", f" {ends_at}\n")
    assert [event["type"] for event in later] == ["done"]
    assert row(client)["login"] == "done"
    client.remove_mcp("far")
    assert json.loads(logins_of(fresh_home.path).read_text()) == {}


async def work(logins: Logins, place: Remote) -> str:
    """Log in, and call a tool."""
    async with Desk(logins).begin("far", place) as (url, done):
        page = await asyncio.to_thread(browse, url)
        assert page.status_code == 200, page.text
        await done
    pool = Pool(logins=logins)
    async with opened(pool, [Server("far", place, is_configured=True)], patience=9) as toolset:
        (part,) = (await toolset.call(ToolCall("1", "who", "{}"))).parts
    await pool.close()
    assert isinstance(part, Text)
    return part.text


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
def test_a_client_that_was_registered_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    if method == "client_secret_basic":
        choose_basic(monkeypatch)
    with mcp_oauth.running() as (authority, url):
        by_hand(authority, url, tmp_path, monkeypatch, method)


def by_hand(
    authority: Authority,
    url: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    monkeypatch.setattr(login, "PORT", port := free_port())
    back = f"http://127.0.0.1:{port}/mcp-oauth-callback"
    authority.clients["ours"] = OAuthClientInformationFull(
        client_id="ours",
        client_secret="hush",
        token_endpoint_auth_method=method,
        redirect_uris=[AnyUrl(back)],
        scope="use more",
    )
    client = OAuthClient("ours", "hush", scopes=("use", "more"))
    logins = Logins(home)
    assert asyncio.run(work(logins, Remote(url, client=client))) == "a friend"
    assert set(authority.clients) == {"ours"}
    assert authority.asked[-1].scopes == ["use", "more"]
    assert str(authority.asked[-1].redirect_uri) == back
    # The secret is needed to make tokens new, too.
    authority.access.clear()
    pool = Pool(logins=logins)

    async def use() -> None:
        async with opened(
            pool, [Server("far", Remote(url), is_configured=True)], patience=9
        ) as toolset:
            assert len(toolset.tools) == 1
        await pool.close()

    asyncio.run(use())
    assert authority.renewed == 1


def choose_basic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's server says that it takes both; some take one."""
    from mcp.server.auth import routes

    original = routes.build_metadata

    def build(*args: Any, **options: Any) -> Any:
        found = original(*args, **options)
        found.token_endpoint_auth_methods_supported = ["client_secret_basic"]
        return found

    monkeypatch.setattr(routes, "build_metadata", build)


def free_port() -> int:
    sock = mcp_oauth._bound()
    port: int = sock.getsockname()[1]
    sock.close()
    return port


def test_a_port_that_is_taken(
    careful: tuple[Authority, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lmnb registers itself with another; one that is registered by hand cannot."""
    _, url = careful
    taken = mcp_oauth._bound()
    monkeypatch.setattr(login, "PORT", taken.getsockname()[1])
    assert asyncio.run(work(Logins(tmp_path), Remote(url))) == "a friend"
    with pytest.raises(InvalidRequest, match="which is taken"):
        asyncio.run(work(Logins(tmp_path), Remote(url, client=OAuthClient("ours"))))
    taken.close()


def test_two_calls_make_an_expired_token_new_once(
    careful: tuple[Authority, str], tmp_path: Path
) -> None:
    authority, url = careful
    logins = Logins(tmp_path)

    async def play() -> None:
        assert await work(logins, Remote(url)) == "a friend"
        pool = Pool(logins=logins)
        server = Server("far", Remote(url), is_configured=True)
        async with opened(pool, [server], patience=9) as toolset:
            authority.access.clear()
            calls = [toolset.call(ToolCall(str(i), "who", "{}")) for i in range(5)]
            for one in await asyncio.gather(*calls):
                assert one.failure is None, one.reason
            assert authority.renewed == 1
            authority.access.clear()
            authority.refresh.clear()
            lost = await toolset.call(ToolCall("6", "who", "{}"))
            assert "`lmnb mcp login far`" in lost.reason
        await pool.close()

    asyncio.run(play())


def test_servers_that_ask_for_no_login(tmp_path: Path) -> None:
    sock = mcp_oauth._bound()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/mcp"
    with (
        mcp_oauth._served(mcp_server.server.streamable_http_app(), sock),
        pytest.raises(InvalidRequest, match="far asks for no login"),
    ):
        asyncio.run(work(Logins(tmp_path), Remote(url)))


def test_requests_that_bring_their_own_header(careful: tuple[Authority, str]) -> None:
    _, url = careful

    async def use(place: Remote) -> None:
        async with opened(Pool(), [Server("far", place)], patience=9):
            pass

    with pytest.raises(McpConnectionFailed, match="needs the header Authorization"):
        asyncio.run(use(Remote(url)))
    with pytest.raises(McpConnectionFailed, match="refuses the header Authorization"):
        asyncio.run(use(Remote(url, {"authorization": "Bearer x"})))


def test_a_file_of_logins_that_is_broken(tmp_path: Path) -> None:
    logins_of(tmp_path).write_text('{"far": {"tokens": "sesame"}}')
    with pytest.raises(ConfigError) as caught:
        Logins(tmp_path).find("far", "x")
    assert "sesame" not in str(caught.value)


# --- the file -------------------------------------------------------------------------


def test_clients_in_the_file(tmp_path: Path) -> None:
    """As Cursor, LM Studio and Claude Code write them."""
    auth = {"CLIENT_ID": "a", "CLIENT_SECRET": "b", "scopes": ["x", "y"]}
    oauth = {"clientId": "a", "callbackPort": 8080, "scopes": "x y"}
    entries = [{"url": "https://a", "auth": auth}, {"url": "https://a", "oauth": oauth}]
    found = [servers.parse(entry, "x") for entry in entries]
    assert found == [
        Remote("https://a", client=OAuthClient("a", "b", None, ("x", "y"))),
        Remote("https://a", client=OAuthClient("a", None, 8080, ("x", "y"))),
    ]
    for wrong in ({"auth": {"CLIENT_SECRET": "b"}}, {"oauth": {"callbackPort": 0}}):
        with pytest.raises(ConfigError, match="x: "):
            servers.parse({"url": "https://a", **wrong}, "x")


def test_adding_and_removing(server: ServerHome) -> None:
    path = server.path / "mcp.json"
    kept = {"inputs": [1], "mcpServers": {"ä": {"command": "ä", "disabled": True, "x": 1}}}
    path.write_text(json.dumps(kept))
    try:
        server.lmnb("mcp", "add", "--env", "K=a=b", "files", "npx", "-y", "--env", "x")
        url = "https://u:p@a.example/mcp?key=hush"
        server.lmnb("mcp", "add", "far", url, "--header", "X-A: b: c", "--client-id", "me")
        added = json.loads(path.read_text())
        assert added == {
            "inputs": [1],
            "mcpServers": {
                **kept["mcpServers"],  # type: ignore[dict-item]
                "files": {"command": "npx", "args": ["-y", "--env", "x"], "env": {"K": "a=b"}},
                "far": {"url": url, "headers": {"X-A": "b: c"}, "auth": {"CLIENT_ID": "me"}},
            },
        }
        assert '\n    "ä": {\n' in path.read_text()
        for arguments, message in (
            (["add", "files", "x"], "There is an MCP server files already."),
            (["add", "a/b", "x"], "cannot be the name"),
            (["add", "b"], "Give the command"),
            (["add", "b", "http://["], "is no http:// or https:// URL"),
            (["add", "--header", "a: b", "b", "x"], "are for URLs"),
            (["add", "b", "https://x", "--header", "a"], "--header needs a name"),
            (["remove", "other"], "There is no MCP server 'other'."),
        ):
            failed = server.lmnb("mcp", *arguments, check=False)
            assert (failed.returncode, message in failed.stderr) == (1, True), failed.stderr
        server.lmnb("mcp", "add", "--replace", "files", "x")
        server.lmnb("mcp", "remove", "far")
        assert json.loads(path.read_text())["mcpServers"]["files"] == {"command": "x", "args": []}
        path.write_text("{ // mine\n}")
        failed = server.lmnb("mcp", "add", "b", "x", check=False)
        assert "cannot be read" in failed.stderr
        assert path.read_text() == "{ // mine\n}"
    finally:
        path.unlink()
