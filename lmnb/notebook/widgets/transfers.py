"""Downloads, by whomever they were begun: how far they are, and what can be done about them."""

from __future__ import annotations

import html
import time
from typing import Any, Literal

import ipywidgets

from lmnb.client import Client
from lmnb.follow import State
from lmnb.notebook.failures import in_magics
from lmnb.notebook.units import duration, size
from lmnb.notebook.widgets.loading import Loading
from lmnb.notebook.widgets.panel import Panel, close_tree, column, hide, row, show, text
from lmnb.selection import DEFAULT_CHAT_MODEL

_SHOWN_SECONDS = 86400
"""What has been fetched is shown for a day, or until it is cleared away."""


class Transfers:
    """A row for each download, the newest above.

    rows
        By the id of the download.
    """

    def __init__(self, panel: Panel, loading: Loading) -> None:
        self._panel, self._loading = panel, loading
        self.rows: dict[str, Transfer] = {}
        self.box = column()

    def draw(self, state: State) -> None:
        """Show those of the server's state."""
        latest = time.time() - _SHOWN_SECONDS
        jobs = {
            job["id"]: job
            for job in reversed(state["downloads"])
            if job["completed_at"] is None or job["completed_at"] > latest
        }
        loaded = {one["model"] for one in state["loaded"]}
        gone = [one.root for id_, one in self.rows.items() if id_ not in jobs]
        self.rows = {id_: self.rows.get(id_) or self._transfer(id_) for id_ in jobs}
        for id_, one in self.rows.items():
            one.draw(jobs[id_], is_loaded=jobs[id_]["key"] in loaded)
        children = tuple(one.root for one in self.rows.values())
        if children != self.box.children:
            self.box.children = children
        for root in gone:
            close_tree(root)

    def _transfer(self, id_: str) -> Transfer:
        return Transfer(self._panel, self._loading, id_)


class Transfer:
    """A download."""

    def __init__(self, panel: Panel, loading: Loading, id_: str) -> None:
        self._panel, self._loading = panel, loading
        self._id = id_
        self._key: str | None = None
        self.head = text()
        self.bar = ipywidgets.FloatProgress(max=1.0)
        self.line = text()
        self.pause = self._button("Pause", "pause", "pause")
        self.resume = self._button("Resume", "play", "resume")
        self.cancel = self._button("Cancel", "times", "cancel")
        self.clear = self._button("Clear", "check", "cancel")
        self.load = ipywidgets.Button(description="Load", icon="play")
        self.load.on_click(self._load)
        buttons = (self.pause, self.resume, self.cancel, self.load, self.clear)
        self.root = column(self.head, row(self.bar, self.line), row(*buttons))
        self.root.layout.margin = "0.8em 0 0 0"

    def draw(self, job: dict[str, Any], *, is_loaded: bool) -> None:
        """Show a `lmnb.server.downloads.Job`."""
        status, total = job["status"], job["total"]
        self._key = job["key"]
        model = job["key"] or job["model"] or DEFAULT_CHAT_MODEL
        wanted = f"@{job['quantization']}" if job["quantization"] and not job["key"] else ""
        show(self.head, f"<b>{html.escape(model + wanted)}</b>")
        self.bar.value = job["done"] / total if total else 0.0
        show(self.line, html.escape(_told(job, is_loaded=is_loaded)))
        hide(self.bar, unless=status != "completed")
        hide(self.pause, unless=status == "downloading")
        hide(self.resume, unless=status in {"paused", "failed"})
        hide(self.cancel, unless=status in {"downloading", "paused"})
        hide(self.load, unless=status == "completed" and not is_loaded)
        hide(self.clear, unless=status in {"completed", "failed"})

    def _button(
        self, name: str, icon: str, change: Literal["pause", "resume", "cancel"]
    ) -> ipywidgets.Button:
        def work(client: Client) -> None:
            client.change_download(self._id, change)

        button = ipywidgets.Button(description=name, icon=icon)
        button.on_click(lambda pressed: self._panel.act(work, button=pressed))
        return button

    def _load(self, button: Any) -> None:
        if self._key is not None:
            self._loading.begin(self._key, button)


def _told(job: dict[str, Any], *, is_loaded: bool) -> str:
    """How a download is, in words."""
    done, total = job["done"], job["total"]
    amount = f"{size(done)} of {size(total)}" if total else size(done)
    match job["status"]:
        case "completed":
            return f"is here: {size(done)}" + (", and loaded" if is_loaded else "")
        case "failed":
            error = job["error"]
            hint = f" {error['hint']}" if error["hint"] else ""
            return in_magics(f"failed: {error['message']}{hint}")
        case "paused":
            return f"paused at {amount}"
    if job["is_waiting"]:
        return "waits for its turn"
    if not done and total is None:
        return "begins …"
    parts = [f"{done / total:.0%}"] if total else []
    parts.append(amount)
    if job["bytes_per_second"]:
        parts.append(f"{size(job['bytes_per_second'])}/s")
    if job["eta_seconds"]:
        parts.append(f"{duration(job['eta_seconds'])} left")
    return " · ".join(parts)
