"""Lines to copy in the panel *Server*: how a program is told of a loaded model."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import ipywidgets

from lmnb.agents import targets
from lmnb.agents.lines import CLIENTS
from lmnb.errors import LmnbError
from lmnb.follow import State
from lmnb.notebook.widgets.panel import column, failure, offer, show, text, wide

if TYPE_CHECKING:
    from lmnb.client import Client
    from lmnb.notebook.widgets.panel import Panel

_NONE = ("choose a program", "")


class Lines:
    """The lines for one program and one of the loaded models, once one was chosen.

    If clients need a token, the lines name a file with one that is made for them (as `launch` does).
    """

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._models: dict[str, dict[str, Any]] = {}
        self._shown: object = None  # What the lines that are there, or on their way, are for.
        self.client = ipywidgets.Dropdown(
            description="Use it from", options=[_NONE, *((one, one) for one in CLIENTS)], **wide()
        )
        self.model = ipywidgets.Dropdown(description="Answered by", **wide())
        self.lines = text()
        for choice in (self.client, self.model):
            choice.observe(lambda _: panel.post(self._refresh), "value")
        self.root = column(self.client, self.model, self.lines)

    def draw(self, state: State) -> None:
        """What is loaded can be chosen; what the lines say may have changed."""
        self._models = {one["id"]: one for one in state["loaded"] if one["kind"] == "llm"}
        offer(self.model, list(self._models))
        self.model.layout.display = None if len(self._models) > 1 else "none"
        self._refresh()

    def _refresh(self) -> None:
        client, model = self.client.value, self._models.get(self.model.value)
        listener = self._panel.state and self._panel.state["listener"]
        if not client:
            self._say("")
        elif not listener:
            self._say("Start the server, and the lines to copy are here.")
        elif model is None:
            self._say("No chat model is loaded: load one, and the lines to copy are here.")
        else:
            self._write(client, model, listener)

    def _say(self, words: str) -> None:
        self._shown = None
        show(self.lines, words)

    def _write(self, name: str, model: dict[str, Any], listener: dict[str, Any]) -> None:
        wanted = (name, model["id"], model["context_length"], tuple(listener.items()))
        if wanted == self._shown:
            return
        self._shown = wanted

        def work(client: Client) -> str:
            return CLIENTS[name](targets.target(client, model, None))

        def done(found: str) -> None:
            if wanted == self._shown:
                show(self.lines, found)

        def failed(error: LmnbError) -> None:
            done(failure(error))

        self._panel.act(work, lambda lines: done(_block(lines)), failed=failed)


def _block(lines: str) -> str:
    """Lines that one click selects."""
    style = "user-select: all; overflow-x: auto; line-height: 1.3; margin: 0.3em 0"
    return f'<pre style="{style}">{html.escape(lines)}</pre>'
