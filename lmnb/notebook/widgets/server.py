"""*Server*: the port for other programs, who may come in, and what is being answered."""

from __future__ import annotations

import html
import time
from typing import Any

import ipywidgets

from lmnb.agents.lines import base_urls
from lmnb.client import Client
from lmnb.errors import Forbidden, LmnbError, PortInUse
from lmnb.follow import State
from lmnb.notebook.output import Bundle
from lmnb.notebook.table import paragraph, table
from lmnb.notebook.units import duration
from lmnb.notebook.widgets.access import Tokens
from lmnb.notebook.widgets.clients import Lines
from lmnb.notebook.widgets.panel import Panel, row, show, text, wide

_HERE = "127.0.0.1"
_LOOPBACK = (_HERE, "localhost", "::1")
_NETWORK = "0.0.0.0"  # noqa: S104 - what the user may choose
_HOSTS = (("this machine only", _HERE), ("the local network", _NETWORK))
_MOST = 20
"""Requests that are shown."""


class Server(Panel):
    """Where to listen and who may come in are the server's settings: they hold for everybody."""

    title = "Server"

    def build(self) -> list[Any]:
        """Address, settings, tokens, lines to copy, requests."""
        self._unsettled: set[str] = set()  # Settings that are being changed from here.
        self.where = text()
        self.start = ipywidgets.Button(description="Start", icon="play", tooltip="Open the port")
        self.start.on_click(self._start)
        self.stop = ipywidgets.Button(
            description="Stop", icon="stop", tooltip="Close the port; models stay loaded"
        )
        self.stop.on_click(
            lambda button: self.act(lambda client: client.stop_serving(), button=button)
        )
        self.host = ipywidgets.Dropdown(description="Reached from", options=_HOSTS, **wide())
        self.port = ipywidgets.BoundedIntText(
            description="Port", min=0, max=65535, value=1234, tooltip="0 takes a free one", **wide()
        )
        self.require_auth = _box("Ask clients for an API token")
        self.allow_open = _box("Let the network in without tokens")
        self.cors = _box("Let web pages use it (CORS)")
        self.warning = text()
        self.tokens = Tokens(self)
        self.lines = Lines(self)
        self.requests = text()
        self._settings = {
            "host": self.host,
            "port": self.port,
            "require_auth": self.require_auth,
            "cors": self.cors,
        }
        for name, widget in self._settings.items():
            widget.observe(lambda change, name=name: self._changed(name, change["new"]), "value")
        return [
            *(self.where, row(self.start, self.stop), self.host, self.port, self.require_auth),
            *(self.allow_open, self.cors, self.warning, _heading("API tokens"), self.tokens.root),
            *(_heading("Lines to copy"), self.lines.root),
            *(_heading("Requests being answered"), self.requests),
        ]

    @staticmethod
    def summary(client: Client) -> Bundle:
        """Where it listens."""
        listener = client.status()["listener"]
        url = listener and (listener["network_url"] or listener["url"])
        found = f"It listened on {url}." if url else "It did not listen."
        return paragraph(f"The server when it was shown: {found}")

    def draw(self, state: State) -> None:
        """What is open, what is set, who may come in, and what is asked."""
        show(self.where, self._where(state))
        self.start.layout.display = "none" if state["listener"] else None
        self.stop.layout.display = None if state["listener"] else "none"
        for name, value in state["settings"].items():
            if name not in self._unsettled:
                self._put(name, value)
        self._draw_opening()
        self.tokens.draw(state)
        self.lines.draw(state)
        self.tick()

    def tick(self) -> None:
        """Requests take longer."""
        if self.state is not None:
            show(self.requests, _requests(self.state["requests"]))

    # --- the port -----------------------------------------------------------------

    def _start(self, button: Any) -> None:
        host, port, auth = self.host.value, self.port.value, self.require_auth.value
        is_open = self.allow_open.value and self._may_be_open()

        def work(client: Client) -> dict[str, Any]:
            return client.serve(host, port, require_auth=auth, allow_open=is_open)

        self.post(lambda: show(self.warning, ""))
        self.act(work, failed=lambda error: self.fail(_in_the_panel(error)), button=button)

    def _where(self, state: State) -> str:
        listener = state["listener"]
        if listener is None:
            return "○ Not listening. Only notebooks and commands of this user reach the models."
        lines = [f"● Listening on <b>{html.escape(listener['url'])}</b>"]
        if listener["network_url"]:
            lines[0] += f", for other machines on <b>{html.escape(listener['network_url'])}</b>"
        if not listener["require_auth"]:
            lines[0] += " · clients need no token"
        else:
            lines[0] += " · clients need a token"
            if not state["tokens"]:
                lines.append("⚠ There is no API token yet, so nobody gets in: create one below.")
        url = listener["network_url"] or listener["url"]
        return "<br>".join([*lines, html.escape(base_urls(url))])

    # --- settings -----------------------------------------------------------------

    def _changed(self, name: str, value: Any) -> None:
        if self.stage.is_here():
            return

        def work(client: Client) -> dict[str, Any]:
            return client.change_setting(name, value)

        def done(setting: dict[str, Any]) -> None:
            self._unsettled.discard(name)
            show(self.warning, "<br>".join(html.escape(one) for one in setting["warnings"]))

        def failed(error: LmnbError) -> None:
            self._unsettled.discard(name)
            if self.state is not None:
                self._put(name, self.state["settings"][name])
                self._draw_opening()
            self.fail(error)

        def begin() -> None:
            self._unsettled.add(name)
            self._draw_opening()

        self.post(begin)
        self.act(work, done, failed=failed)

    def _put(self, name: str, value: Any) -> None:
        widget = self._settings[name]
        if widget is self.host and value not in dict(map(reversed, self.host.options)):
            self.host.options = [*_HOSTS, (value, value)]
        if widget.value != value:
            widget.value = value

    def _may_be_open(self) -> bool:
        """Whether anybody on the network would get in, which the user has to allow."""
        return self.host.value not in _LOOPBACK and not self.require_auth.value

    def _draw_opening(self) -> None:
        self.allow_open.layout.display = None if self._may_be_open() else "none"


def _box(description: str) -> Any:
    return ipywidgets.Checkbox(
        description=description, indent=False, layout=ipywidgets.Layout(width="min(100%, 34em)")
    )


def _heading(words: str) -> Any:
    return text(f"<b>{words}</b>")


def _requests(found: list[dict[str, Any]]) -> str:
    if not found:
        return "None at the moment."
    now = time.time()
    rows = [
        (one["method"], one["path"], duration(round(max(now - one["started_at"], 0))))
        for one in found[-_MOST:]
    ]
    shown = table(("Method", "Path", "For"), rows)["text/html"]
    more = len(found) - len(rows)
    return shown + (f"and {more} more" if more else "")


def _in_the_panel(error: LmnbError) -> LmnbError:
    """The same error with what can be done about it here."""
    if isinstance(error, Forbidden):
        error.hint = "Tick “Ask clients for an API token”, or allow the network in without tokens."
    elif isinstance(error, PortInUse):
        error.hint = "Stop that program, or choose another port."
    return error
