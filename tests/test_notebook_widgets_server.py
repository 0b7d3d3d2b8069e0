"""The panel *Server* without a front end, on a server of its own: what it changes is kept there."""

from __future__ import annotations

import html
import re
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from panels import TALKS, opened, stage_of, talking_model
from server_home import ServerHome, wait_for

from lmnb.agents.all import AGENTS
from lmnb.agents.command import shell_lines
from lmnb.agents.targets import target
from lmnb.client import Client
from lmnb.notebook.widgets.server import Server


@pytest.fixture(scope="module")
def own(front: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Client:
    client = front.attach()
    path = talking_model(tmp_path_factory.mktemp("made"))
    list(client.load(str(path), identifier=TALKS, context_length=4096))
    client.change_setting("port", 0)
    return client


@pytest.fixture
def panel(front: ServerHome, own: Client) -> Iterator[Any]:
    with stage_of(front) as stage:
        found = opened(Server(stage))
        wait_for(lambda: found.port.value == 0, "the settings")
        yield found
    own.stop_serving()
    for token in own.tokens():
        own.remove_token(token["id"])
    for name in ("host", "require_auth", "cors"):
        own.change_setting(name, None)


def setting(client: Client, name: str) -> Any:
    return next(row["value"] for row in client.settings() if row["name"] == name)


def shown(widget: Any) -> bool:
    return widget.layout.display is None


def lines(panel: Any, client: str) -> str:
    """The lines for a program, without HTML."""
    if panel.lines.client.value != client:
        panel.lines.client.value = ""
        wait_for(lambda: not panel.lines.lines.value, "the lines to go")
        panel.lines.client.value = client
    wait_for(lambda: "<pre" in panel.lines.lines.value, f"the lines for {client}")
    return html.unescape(re.sub(r"<[^>]*>", "", panel.lines.lines.value))


def test_the_port_is_opened_and_closed(panel: Any, own: Client) -> None:
    assert "Not listening" in panel.where.value
    assert (shown(panel.start), shown(panel.stop)) == (True, False)
    panel.start.click()
    wait_for(lambda: "● Listening" in panel.where.value, "the port")
    assert (shown(panel.start), shown(panel.stop)) == (False, True)
    url = own.status()["listener"]["url"]
    assert f"base_url {url}/v1" in panel.where.value
    assert httpx2.get(f"{url}/v1/models").status_code == 200
    panel.stop.click()
    wait_for(lambda: "Not listening" in panel.where.value, "the end")
    assert own.status()["listener"] is None


def test_what_others_do_is_shown(panel: Any, own: Client) -> None:
    own.serve()
    wait_for(lambda: "● Listening" in panel.where.value, "the port")
    own.change_setting("cors", True)
    own.change_setting("host", "localhost")
    wait_for(lambda: panel.cors.value and panel.host.value == "localhost", "the settings")
    own.create_token("laptop")
    wait_for(lambda: len(panel.tokens.rows) == 1, "the token")
    own.stop_serving()
    wait_for(lambda: "Not listening" in panel.where.value, "the end")


def test_beyond_this_machine_only_with_tokens_or_if_allowed(panel: Any, own: Client) -> None:
    panel.host.value = "0.0.0.0"
    wait_for(lambda: shown(panel.allow_open), "the choice")
    panel.start.click()
    wait_for(lambda: "would let anybody on the network" in panel.failure.value, "the refusal")
    assert "Tick “Ask clients for an API token”" in panel.failure.value
    assert own.status()["listener"] is None
    panel.allow_open.value = True
    panel.start.click()
    wait_for(lambda: "clients need no token" in panel.where.value, "the open port")
    assert not panel.failure.value
    panel.require_auth.value = True
    wait_for(lambda: "stays as it is until it is closed" in panel.warning.value, "the warning")
    panel.stop.click()
    wait_for(lambda: shown(panel.start), "the end")
    assert not shown(panel.allow_open)
    panel.start.click()
    wait_for(lambda: "There is no API token yet" in panel.where.value, "the port with tokens")
    own.create_token("laptop")
    wait_for(lambda: "no API token" not in panel.where.value, "the token")


def test_settings_are_changed_for_everybody(panel: Any, own: Client) -> None:
    panel.cors.value = True
    wait_for(lambda: setting(own, "cors") is True, "the setting")
    wait_for(lambda: panel.state["settings"]["cors"] is True, "the news of it")
    assert panel.cors.value is True
    # One that is refused goes back to what it was.
    panel.host.options = [*panel.host.options, ("nowhere", "")]
    panel.host.value = ""
    wait_for(lambda: "host cannot be" in panel.failure.value, "the refusal")
    assert panel.host.value == "127.0.0.1"


def test_a_taken_port_says_so(panel: Any, own: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        panel.port.value = other.getsockname()[1]
        panel.start.click()
        wait_for(lambda: "is taken by" in panel.failure.value, "the refusal")
    assert panel.failure.value.endswith("Stop that program, or choose another port.")
    wait_for(lambda: not panel.start.disabled, "the button")
    own.change_setting("port", 0)


def test_a_token_is_shown_once_and_revoked(panel: Any, own: Client) -> None:
    panel.tokens.create.click()
    wait_for(lambda: "A token needs a name." in panel.failure.value, "the refusal")
    panel.tokens.name.value = "lap<top>"
    panel.tokens.permissions.value = ("inference",)
    panel.tokens.create.click()
    wait_for(lambda: "sk-lm-" in panel.tokens.secret.value, "the token")
    assert "lap&lt;top&gt;" in panel.tokens.secret.value
    (token,) = own.tokens()
    assert (token["name"], token["permissions"]) == ("lap<top>", ["inference"])
    wait_for(lambda: token["id"] in panel.tokens.rows, "its row")
    one = panel.tokens.rows[token["id"]]
    assert "sk-lm-" not in one.label.value
    panel.tokens.hide.click()
    wait_for(lambda: not panel.tokens.secret.value, "the secret to go")
    one.revoke.click()
    wait_for(lambda: not panel.tokens.rows, "the end of it")
    assert own.tokens() == []


def test_requests_are_shown_while_they_are_answered(panel: Any, own: Client) -> None:
    assert panel.requests.value == "None at the moment."

    def slowly() -> Iterator[bytes]:
        yield b"{"
        wait_for(lambda: "/v1/chat/completions" in panel.requests.value, "the request")
        yield b"}"

    assert own.http.post("/v1/chat/completions", content=slowly()).status_code == 400
    wait_for(lambda: panel.requests.value == "None at the moment.", "its end")


def test_lines_to_copy_work(panel: Any, own: Client, capsys: pytest.CaptureFixture[str]) -> None:
    panel.lines.client.value = "curl"
    wait_for(lambda: "Start the server" in panel.lines.lines.value, "the note")
    own.serve()
    assert "Authorization" not in lines(panel, "curl")
    own.stop_serving()
    wait_for(lambda: "Start the server" in panel.lines.lines.value, "the note again")
    own.serve(require_auth=True)
    wait_for(lambda: "Authorization" in panel.lines.lines.value, "the lines with a token")
    for client in ("curl", "LM Studio's API"):
        done = subprocess.run(
            ["bash", "-c", lines(panel, client)], capture_output=True, text=True, check=True
        )
        assert "The **sea** is blue." in done.stdout
    for sdk in ("OpenAI SDK", "Anthropic SDK"):
        exec(compile(lines(panel, sdk), sdk, "exec"), {})
        assert capsys.readouterr().out == "The **sea** is blue.\n"
    # The agents' are those of `launch`. No token is in any.
    found = target(own, own.ps()[0], None)
    assert lines(panel, "Codex") == shell_lines(AGENTS["codex"].command(found), found)
    assert "sk-lm-" not in lines(panel, "OpenAI SDK")
