"""*Loaded*: what is in memory, how long it stays, and how to be rid of it."""

from __future__ import annotations

import html
import time
from typing import Any

import ipywidgets

from lmnb.client import Client
from lmnb.follow import State
from lmnb.notebook.status import placement
from lmnb.notebook.units import duration, size
from lmnb.notebook.widgets import ttl
from lmnb.notebook.widgets.panel import Panel, close_tree, column, row, show, text


class Loaded(Panel):
    """A card for each model that is loaded, or on its way in or out.

    cards
        By the id of the instance.
    """

    title = "Loaded"

    def build(self) -> list[Any]:
        """The cards, and a line where there are none."""
        self.cards: dict[str, Card] = {}
        self.loads: dict[str, LoadRow] = {}
        self.note = text()
        self.box = column()
        return [self.box, self.note]

    def draw(self, state: State) -> None:
        """A card for each model."""
        loaded = {one["id"]: one for one in state["loaded"]}
        loading = {one["id"]: one for one in state["loading"]}
        gone = [one.root for name, one in self.cards.items() if name not in loaded]
        gone += [one.root for name, one in self.loads.items() if name not in loading]
        self.cards = {name: self.cards.get(name) or Card(self, name) for name in loaded}
        self.loads = {name: self.loads.get(name) or LoadRow(self, name) for name in loading}
        for name, card in self.cards.items():
            card.draw(loaded[name])
        for name, load in self.loads.items():
            load.draw(loading[name])
        children = (
            *(one.root for one in self.cards.values()),
            *(one.root for one in self.loads.values()),
        )
        if children != self.box.children:
            self.box.children = children
        for root in gone:
            close_tree(root)
        show(self.note, self._note(state))

    def tick(self) -> None:
        """The countdowns go on."""
        for card in self.cards.values():
            card.tick()

    def unload(self, name: str, button: Any) -> None:
        """Unload a model, or cancel its load."""

        def work(client: Client) -> None:
            client.unload(name)

        self.act(work, button=button)

    def _note(self, state: State) -> str:
        if self.state is None:
            return "The lmnb server is not running. It starts when it is needed."
        lines = [
            f"{html.escape(one['id'])} is being unloaded"
            + (f"; it is still answering {one['active']}" if one["active"] else "")
            for one in state["unloading"]
        ]
        lines += [
            f"{html.escape(one['model'])} rests after {one['crashes']} crashes: "
            f"{html.escape(one['cause'])}"
            for one in state["resting"]
        ]
        nothing = not (self.cards or self.loads or lines)
        return "No model is loaded." if nothing else "<br>".join(lines)


class Card:
    """A loaded model."""

    def __init__(self, panel: Loaded, name: str) -> None:
        self._panel = panel
        self._name = name
        self._row: dict[str, Any] = {}
        self._drawn = time.monotonic()
        self.head = text()
        self.left = text()
        self.left.layout.margin = "0 1em"
        self.ttl = ttl.slider()
        self.ttl.observe(self._changed, "value")
        self.unload = ipywidgets.Button(description="Unload", icon="eject")
        self.unload.on_click(lambda button: panel.unload(name, button))
        self.root = column(self.head, row(self.ttl, self.left, self.unload))
        self.root.layout.margin = "0 0 0.8em 0"

    def draw(self, found: dict[str, Any]) -> None:
        """Show a row of `ps`."""
        self._row, self._drawn = found, time.monotonic()
        parts = [
            f"● busy, {found['active']} now" if found["state"] == "busy" else "○ idle",
            size(found["memory"]),
            placement(found),
            f"context {found['context_length']} tokens",
        ]
        if speed := found["tokens_per_second"]:
            parts.append(f"last answer {speed:.0f} tokens/s")
        parts += [f"⚠ {warning}" for warning in found["warnings"]]
        line = html.escape(" · ".join(parts))
        show(self.head, f"<b>{html.escape(found['id'])}</b> {found['kind']}<br>{line}")
        ttl.put(self.ttl, found["ttl"])
        self.tick()

    def tick(self) -> None:
        """Count down, while the model is idle."""
        show(self.left, self._countdown())

    def _countdown(self) -> str:
        if self._row["ttl"] is None:
            return ""
        if self._row["expires"] is None:
            return f"{duration(self._row['ttl'])} once it is idle"
        left = self._row["ttl_left"] - (time.monotonic() - self._drawn)
        return f"unloads in {duration(round(max(left, 0)))}"

    def _changed(self, _: Any) -> None:
        if self._panel.stage.is_here():
            return
        seconds = ttl.taken(self.ttl)

        def work(client: Client) -> None:
            if self._panel.cards.get(self._name) is not self or self.unload.disabled:
                return  # A slider that was moved in haste must not load again what has been unloaded.
            # Of what is loaded nothing is loaded again: it has the new TTL.
            for _ in client.load(self._name, ttl=seconds):
                pass

        self._panel.act(work)


class LoadRow:
    """A model that is being loaded, by whomever."""

    def __init__(self, panel: Loaded, name: str) -> None:
        self.bar = ipywidgets.FloatProgress(max=1.0, description="loading")
        self.cancel = ipywidgets.Button(description="Cancel", icon="times")
        self.cancel.on_click(lambda button: panel.unload(name, button))
        self.root = row(text(f"<b>{html.escape(name)}</b>"), self.bar, self.cancel)

    def draw(self, found: dict[str, Any]) -> None:
        """Show how far it is."""
        self.bar.value = found["progress"]
