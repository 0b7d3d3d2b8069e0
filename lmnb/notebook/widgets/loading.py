"""A load that a panel has asked for: how far it is, and what has come of it."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets

from lmnb.client import Client
from lmnb.errors import LmnbError
from lmnb.notebook.models import use
from lmnb.notebook.units import duration, size
from lmnb.notebook.widgets.panel import Panel, hide, row, show, text


class Loading:
    """A bar with a button to cancel it, and a line that stays.

    parts
        The widgets, for the panel.
    """

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._model = ""
        self.bar = ipywidgets.FloatProgress(max=1.0)
        self.cancel = ipywidgets.Button(description="Cancel", icon="times")
        self.cancel.on_click(self._cancel)
        self.done = text()
        self.parts = (row(self.bar, self.cancel), self.done)
        self._show_running(running=False)

    def begin(self, model: str, button: Any, *, ttl: float | None = None, **options: Any) -> None:
        """Load a model as `Client.load` does. From then on, cells ask it."""

        def work(client: Client) -> dict[str, Any]:
            loaded: dict[str, Any] = {}
            for event in client.load(model, ttl=ttl, **options):
                loaded = event
                if event["type"] == "progress":
                    self._progress(event["progress"])
            return loaded

        def start() -> None:
            self._model = model
            self._show_running(running=True)

        self._panel.post(start)
        self._panel.act(work, self._loaded, failed=self._failed, button=button)

    def _progress(self, fraction: float) -> None:
        def move() -> None:
            self.bar.value = fraction

        self._panel.post(move)

    def _cancel(self, button: Any) -> None:
        model = self._model

        def work(client: Client) -> None:
            for one in client.pending()["loading"]:
                if one["model"] == model:
                    client.unload(one["id"])

        self._panel.act(work, button=button)

    def _loaded(self, found: dict[str, Any]) -> None:
        self._show_running(running=False)
        if found["kind"] == "llm":
            use(found["id"])
        how = "already" if found["waited"] is None else f"({duration(found['waited'])})"
        lines = [f"{found['id']} is loaded {how}: {size(found['memory'])}", *found["warnings"]]
        show(self.done, "<br>".join(html.escape(line) for line in lines))

    def _failed(self, error: LmnbError) -> None:
        self._show_running(running=False)
        self._panel.fail(error)

    def _show_running(self, *, running: bool) -> None:
        for part in (self.bar, self.cancel):
            hide(part, unless=running)
        if running:
            self.bar.value = 0.0
            show(self.done, "")
