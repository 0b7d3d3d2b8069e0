"""Showing the panels: all of them as tabs, or one alone.

A saved notebook holds what was the case when the panel was shown, for GitHub, nbconvert and
whoever has no kernel: an output of its own, in sight wherever the panel is not alive. A panel that is
shown again moves: its former place keeps that text only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ipywidgets

from lmnb.errors import InvalidRequest
from lmnb.notebook.output import NOTHING, Bundle, Output, is_notebook
from lmnb.notebook.table import joined, paragraph
from lmnb.notebook.widgets import NAMES
from lmnb.notebook.widgets.chat import Chat
from lmnb.notebook.widgets.get import Get
from lmnb.notebook.widgets.load import Load
from lmnb.notebook.widgets.loaded import Loaded
from lmnb.notebook.widgets.panel import Panel, close_tree
from lmnb.notebook.widgets.server import Server
from lmnb.notebook.widgets.stage import Stage

if TYPE_CHECKING:
    from lmnb.client import Client

_ALL = (Get, Loaded, Load, Server, Chat)
_PANELS: dict[str, type[Panel]] = dict(zip(NAMES, _ALL, strict=True))


_LIVE = "lmnb-live"
_ALIVE = f".{_LIVE}:not(.jupyter-widgets-disconnected)"
_STILL = "lmnb-still"
_STILL_OUTPUT = f".jp-OutputArea-child:has(.{_STILL})"
_STYLE = f"""<style>
{_STILL_OUTPUT}:has(+ .jp-OutputArea-child {_ALIVE}),
{_STILL_OUTPUT} + .jp-OutputArea-child:not(:has({_ALIVE})) {{ display: none; }}
</style>"""
"""Of the text and the panel below it, one is seen. JupyterLab says "Error displaying widget" of each
that has no kernel any more, and shows no text beside it."""


class Shown:
    """What `show` has displayed. `panels` by name."""

    def __init__(self, names: list[str], text: Bundle) -> None:
        self._text = text
        self._still = Output()
        self._still.show(_still(text))
        self._stage = Stage()
        self.panels = {name: _PANELS[name](self._stage) for name in names}
        self._output = Output()
        parts = [panel.root for panel in self.panels.values()]
        titles = [panel.title for panel in self.panels.values()]
        self._root = parts[0] if len(parts) == 1 else ipywidgets.Tab(parts, titles=titles)
        self._root.add_class(_LIVE)
        self._output.show_widget(self._root.model_id)

    def resume(self, former: Shown) -> None:
        """Go on where the same panels, now closed, were."""
        for name, panel in self.panels.items():
            panel.resume(former.panels[name])

    def close(self) -> None:
        """Leave the text behind."""
        for panel in self.panels.values():
            panel.close()
        self._stage.close()
        close_tree(self._root)
        self._output.show(NOTHING)
        left = [one for panel in self.panels.values() if (one := panel.left()) is not None]
        if left:
            self._still.show(_still(joined(self._text, *left)))


def _still(text: Bundle) -> Bundle:
    return {**text, "text/html": f'<div class="{_STILL}">{text["text/html"]}</div>{_STYLE}'}


_shown: dict[str | None, Shown] = {}


def show(client: Client, name: str | None = None) -> None:
    """Show the panel of that name (one of `NAMES`), or all of them. In a terminal: a text."""
    if name not in {None, *NAMES}:
        raise InvalidRequest(f"There is no panel {name!r}.", hint=f"There are {', '.join(NAMES)}.")
    names = [name] if name else list(NAMES)
    text = _text(client, names)
    if not is_notebook():
        Output().show(text)
        return
    former = _shown.pop(name, None)
    if former is not None:
        former.close()
    _shown[name] = Shown(names, text)
    if former is not None:
        _shown[name].resume(former)


def close() -> None:
    """Close everything that is shown."""
    while _shown:
        _shown.popitem()[1].close()


def _text(client: Client, names: list[str]) -> Bundle:
    line = paragraph("The lmnb panel is live in a notebook that runs.")
    summaries = dict.fromkeys(_PANELS[name].summary for name in names)
    return joined(line, *(summary(client) for summary in summaries))
