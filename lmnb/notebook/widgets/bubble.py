"""A message of the panel *Chat* as widgets."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import ipywidgets

from lmnb.notebook.markdown import CURSOR, balance, closed
from lmnb.notebook.widgets.pace import ENVELOPE, Pace
from lmnb.notebook.widgets.panel import close_tree, column, row, show, text
from lmnb.notebook.widgets.rendered import finished, rendered
from lmnb.notebook.widgets.tree import Message

_RENDERED = "jp-RenderedHTMLCommon"
"""JupyterLab's class for Markdown; elsewhere it means nothing."""
_NEW_PIECE = 2 * ENVELOPE + 1200
"""About what one widget more takes, and its parent's list of them."""


class Bubble:
    """Shows a message. What is done with its buttons is told with the message.

    Every widget costs kilobytes when it is made, so there are none for what there is not.

    pieces
        The text: of a growing answer only the last piece is sent again.
    thinking, footer, switch
        None while there is nothing to show in them.
    """

    def __init__(
        self,
        message: Message,
        *,
        branch: Callable[[Message], None],
        switch: Callable[[Message, int], None],
    ) -> None:
        self.message = message
        self.root = column()
        self.pieces: list[Any] = []
        self.thinking: Any = None
        self.footer: Any = None
        self.switch: Switch | None = None
        self.branch = _button("Branch", "Go on from here in a new branch")
        self.branch.on_click(lambda _: branch(message))
        self._switched = switch
        self._begun = 0  # Where in the text the last piece begins.
        self._is_growing = False  # Whether the last piece may still change.
        self.root.layout.margin = "0 0 0.6em 0"
        if message.role == "user":
            self.root.layout.border_left = "3px solid var(--jp-brand-color1, #1976d2)"
            self.root.layout.padding = "0 0 0 0.6em"
        self.draw()

    def draw(self) -> None:
        """Show the message as it is now."""
        message = self.message
        if message.role == "user":
            words = html.escape(message.text)
            self._draw_last(f'<div style="white-space: pre-wrap">{words}</div>')
        else:
            self._draw_finished(self._finished(message.text))
            self._draw_last(rendered(closed(message.text[self._begun :])))
        self.thinking = self._made(self.thinking, _folded(message.thinking))
        footer = f"<small>{html.escape(message.footer)}</small>" if message.footer else ""
        self.footer = self._made(self.footer, footer)
        self.draw_branches()

    def wait(self, words: str) -> None:
        """Say what is being waited for, in place of a text."""
        self._draw_last(f"<small>⏳ {html.escape(words)}</small>")
        self._arrange()

    def grow(self, words: str, pace: Pace) -> bool:
        """Show more of a text that is still coming, if the pace allows."""
        done = self._finished(words)
        rest = words[self._begun + sum(map(len, done)) :]
        shown = rendered(balance(rest, CURSOR))
        cost = ENVELOPE + len(shown.encode()) + sum(_NEW_PIECE + len(one) for one in done)
        if not pace.allows(cost, len(words.encode())):
            return False
        pace.add(cost)
        self._draw_finished(done)
        self._draw_last(shown)
        self._arrange()
        return True

    def draw_branches(self) -> None:
        """Show which of how many branches this one is."""
        siblings = self.message.siblings
        if len(siblings) > 1 and self.switch is None:
            self.switch = Switch(lambda step: self._switched(self.message, step))
        if self.switch is not None:
            self.switch.draw(siblings.index(self.message), len(siblings))
        self._arrange()

    def close(self) -> None:
        """Take the widgets away."""
        close_tree(self.root)

    def _finished(self, words: str) -> list[str]:
        """What follows the pieces that stay as they are, as far as it will, too."""
        found = []
        at = self._begun
        while length := finished(words[at:]):
            found.append(words[at : at + length])
            at += length
        return found

    def _draw_finished(self, done: list[str]) -> None:
        for words in done:
            self._draw_last(rendered(words))
            self._begun += len(words)
            self._is_growing = False

    def _draw_last(self, shown: str) -> None:
        if self._is_growing:
            self.pieces[-1].value = shown
        else:
            self.pieces.append(self._piece(shown))
            self._is_growing = True

    def _made(self, piece: Any, shown: str) -> Any:
        """`piece`, made if there is something to show, showing it."""
        if piece is None:
            return self._piece(shown) if shown else None
        piece.value = shown
        return piece

    def _piece(self, shown: str) -> Any:
        # Layout and style are widgets, too: all pieces have the first one's.
        common = {}
        if self.pieces:
            common = {"layout": self.pieces[0].layout, "style": self.pieces[0].style}
        # What people write is shown as it is: "$5 to $10" is no formula.
        kind = ipywidgets.HTML if self.message.role == "user" else ipywidgets.HTMLMath
        return kind(shown, _dom_classes=(_RENDERED,), **common)

    def _arrange(self) -> None:
        controls = self.branch if self.switch is None else self.switch.beside(self.branch)
        parts = (self.thinking, *self.pieces, self.footer, controls)
        children = tuple(part for part in parts if part is not None)
        if children != self.root.children:
            self.root.children = children


class Switch:
    """Two buttons that lead to the branches beside this one."""

    def __init__(self, switch: Callable[[int], None]) -> None:
        self.earlier = _button("‹", "Earlier branch")
        self.later = _button("›", "Later branch")
        self.earlier.on_click(lambda _: switch(-1))
        self.later.on_click(lambda _: switch(1))
        self.place = text()
        self.root = row(self.earlier, self.place, self.later)

    def draw(self, index: int, count: int) -> None:
        """Say which one this is."""
        show(self.place, f"{index + 1} of {count}")

    def beside(self, button: Any) -> Any:
        """The same with a button before it."""
        if button not in self.root.children:
            self.root.children = (button, *self.root.children)
        return self.root


def _button(description: str, tooltip: str) -> Any:
    layout = ipywidgets.Layout(width="auto", align_self="flex-start")
    return ipywidgets.Button(description=description, tooltip=tooltip, layout=layout)


def _folded(thinking: str) -> str:
    if not thinking.strip():
        return ""
    words = len(thinking.split())
    body = rendered(closed(thinking))
    return f"<details><summary>Thinking · {words} words</summary>{body}</details>"
