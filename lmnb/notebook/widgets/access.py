"""API tokens in the panel *Server*: made (and shown once), listed, revoked."""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING, Any

import ipywidgets

from lmnb.follow import State
from lmnb.notebook.widgets.panel import close_tree, column, row, show, text, wide

if TYPE_CHECKING:
    from lmnb.client import Client
    from lmnb.notebook.widgets.panel import Panel

_PERMISSIONS = (
    ("ask, load and download models", None),
    ("ask models", ("inference",)),
    ("ask and load models", ("inference", "models")),
)
"""What a token may be made for here. None is what the server gives unless told otherwise."""
_SHOWN = 120.0
"""Seconds after which a secret is taken away by itself: a notebook may be saved with its widgets."""


class Tokens:
    """A row for each token, and what makes another.

    rows
        By the id of the token.
    """

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._made = 0  # Counts tokens, so that a later one is not taken away too early.
        self.rows: dict[str, TokenRow] = {}
        self.box = column()
        self.name = ipywidgets.Text(
            description="New token", placeholder="what it is for, such as laptop", **wide()
        )
        self.permissions = ipywidgets.Dropdown(description="It may", options=_PERMISSIONS, **wide())
        self.create = ipywidgets.Button(description="Create token", icon="plus")
        self.create.on_click(self._create)
        self.secret = text()
        self.hide = ipywidgets.Button(description="Hide token", icon="eye-slash")
        self.hide.on_click(lambda _: panel.post(self._hide))
        self.hide.layout.display = "none"
        shown = row(self.secret, self.hide)
        self.root = column(self.box, self.name, self.permissions, self.create, shown)

    def draw(self, state: State) -> None:
        """A row for each token."""
        tokens = {one["id"]: one for one in state["tokens"]}
        gone = [one.root for name, one in self.rows.items() if name not in tokens]
        self.rows = {name: self.rows.get(name) or TokenRow(self._panel, name) for name in tokens}
        for name, one in self.rows.items():
            one.draw(tokens[name])
        children = tuple(one.root for one in self.rows.values())
        if children != self.box.children:
            self.box.children = children
        for root in gone:
            close_tree(root)

    def _create(self, button: Any) -> None:
        name, permissions = self.name.value, self.permissions.value

        def work(client: Client) -> dict[str, Any]:
            return client.create_token(name, permissions and list(permissions))

        self._panel.act(work, self._show, button=button)

    def _show(self, token: dict[str, Any]) -> None:
        self._made += 1
        number = self._made
        self.name.value = ""
        show(
            self.secret,
            f"The token <b>{html.escape(token['name'])}</b>. Copy it now, it is shown this once:"
            f'<br><code style="user-select: all">{html.escape(token["token"])}</code>',
        )
        self.hide.layout.display = None

        def rested() -> None:
            if number == self._made:
                self._hide()

        self._panel.stage.later(_SHOWN, lambda: self._panel.guarded(rested))

    def _hide(self) -> None:
        show(self.secret, "")
        self.hide.layout.display = "none"


class TokenRow:
    """A token, without its secret."""

    def __init__(self, panel: Panel, name: str) -> None:
        self.label = text()
        self.revoke = ipywidgets.Button(
            description="Revoke", icon="trash", tooltip="The token is refused from then on"
        )

        def work(client: Client) -> None:
            client.remove_token(name)

        self.revoke.on_click(lambda button: panel.act(work, button=button))
        self.root = row(self.label, self.revoke)
        self.label.layout.margin = "0 1em 0 0"

    def draw(self, token: dict[str, Any]) -> None:
        """Show a token as `Client.tokens` has it."""
        since = time.strftime("%Y-%m-%d", time.localtime(token["created_at"]))
        may = ", ".join(token["permissions"])
        name, what = html.escape(token["name"]), html.escape(f"{may} · since {since}")
        show(self.label, f"<b>{name}</b> {what}")
