"""*Get*: look for a model, choose a variant that fits, fetch it and see how far it is."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import ipywidgets

from lmnb.client import Client
from lmnb.errors import LmnbError
from lmnb.follow import State
from lmnb.notebook.units import size
from lmnb.notebook.widgets.loading import Loading
from lmnb.notebook.widgets.panel import Panel, hide, row, show, text
from lmnb.notebook.widgets.transfers import Transfers

_FITS = {
    "fits": "✓ fits",
    "tight": "⚠ tight",
    "too large": "✗ too large",
}
_STYLE = {"description_width": "5em"}
_MEANING = {
    "fits": "",
    "tight": " It fits only when something else is unloaded or ended.",
    "too large": " That is more than this machine has.",
}


class Get(Panel):
    """Search, variants, and what is being fetched by anybody.

    Without a search, the built-in models are there to choose from.
    """

    title = "Get"

    def build(self) -> list[Any]:
        """Search, results, variants, buttons; below, the downloads."""
        self._asking: str | None = None  # What is being searched for.
        self._model: str | None = None  # The one whose variants are shown, or on their way.
        self._offers: dict[str, Any] = {}
        self._here: list[str] | None = None
        self.query = ipywidgets.Text(
            description="Search",
            placeholder="words of a name on the Hugging Face Hub",
            continuous_update=False,
            layout=ipywidgets.Layout(flex="1 1 16em", width="auto"),
            style=_STYLE,
        )
        self.search = ipywidgets.Button(description="Search", icon="search")
        self.results = ipywidgets.Select(description="Models", rows=7, **_whole_width())
        self.variants = ipywidgets.Select(description="Variants", rows=5, **_whole_width())
        self.note = text()
        self.get = ipywidgets.Button(description="Get", icon="download", button_style="primary")
        self.load = ipywidgets.Button(description="Load", icon="play", button_style="primary")
        self.loading = Loading(self)
        self.transfers = Transfers(self, self.loading)
        # Enter, and leaving the box, change its value.
        self.query.observe(lambda _: self.post(self._ask), "value")
        self.search.on_click(lambda _: self.post(self._ask))
        self.results.observe(lambda _: self.post(self._chosen), "value")
        self.variants.observe(lambda _: self.post(self._picked), "value")
        self.get.on_click(self._get)
        self.load.on_click(self._load)
        self._show_buttons(None)
        return [
            *(row(self.query, self.search), self.results, self.variants, self.note),
            *(row(self.get, self.load), *self.loading.parts, self.transfers.box),
        ]

    def draw(self, state: State) -> None:
        """What is being fetched; what has been fetched meanwhile need not be fetched again."""
        self.transfers.draw(state)
        here = [one["id"] for one in state["downloads"] if one["status"] == "completed"]
        if self.state is None or here == self._here:
            return
        first, self._here = self._here is None, here
        if first:
            self._ask()
        elif self._model is not None:
            self._look_into(self._model)

    # --- searching ----------------------------------------------------------------

    def _ask(self) -> None:
        query = self.query.value.strip()
        if query == self._asking:  # A click on the button has made the box lose its focus, too.
            return
        self._asking = query
        if query:
            show(self.note, f"Looking for {html.escape(query)} …")

        def found(rows: list[dict[str, Any]]) -> None:
            if self._over(query):
                self._found(query, rows)

        def failed(error: LmnbError) -> None:
            if self._over(query):
                show(self.note, "")
                self.fail(error)

        self.act(lambda client: client.search(query), found, failed=failed)

    def _over(self, query: str) -> bool:
        """Whether this is still what is searched for; now it is no more."""
        if self._asking != query:
            return False
        self._asking = None
        return True

    def _found(self, query: str, rows: list[dict[str, Any]]) -> None:
        show(self.note, "" if rows else f"The Hub has no GGUF models named {html.escape(query)}.")
        self._model = None
        self._offers = {}
        self.variants.options = ()
        self._show_buttons(None)
        self.results.options = [(_result(one), one["model"]) for one in rows]
        self.results.index = 0 if rows else None
        self._chosen()

    # --- variants -------------------------------------------------------------------

    def _chosen(self) -> None:
        """A model has been chosen among the results."""
        model = self.results.value
        if model is not None and model != self._model:
            self._look_into(model)

    def _look_into(self, model: str) -> None:
        self._model = model

        def only_now(then: Callable[[Any], None]) -> Callable[[Any], None]:
            return lambda value: then(value) if model == self._model else None

        def failed(error: LmnbError) -> None:
            self.variants.options = ()
            self._show_buttons(None)
            self._model = None  # Choosing it again asks again.
            show(self.note, "")
            self.fail(error)

        if model != self._offers.get("model"):
            show(self.note, f"Looking into {html.escape(model)} …")
        self.act(
            lambda client: client.variants(model), only_now(self._offered), failed=only_now(failed)
        )

    def _offered(self, offers: dict[str, Any]) -> None:
        chosen = self.variants.value if offers["model"] == self._offers.get("model") else None
        self._offers = offers
        names = [one["name"] for one in offers["variants"]]
        usual = next((one["name"] for one in offers["variants"] if one["is_default"]), names[0])
        self.variants.options = [(_variant(one), one["name"]) for one in offers["variants"]]
        self.variants.value = chosen if chosen in names else usual
        self._picked()

    def _picked(self) -> None:
        """A variant has been chosen."""
        one = self._variant()
        self._show_buttons(one)
        if one is None:
            return
        offers = self._offers
        figures = (
            f"{size(one['size_bytes'])} to download, about {size(one['needed_bytes'])} of memory "
            f"when it is loaded; {size(offers['free_bytes'])} are free.{_MEANING[one['fit']]}"
        )
        parts = [f"<b>{html.escape(one['name'])}</b>: {figures}"]
        if one["key"]:
            parts.append(f"It is here, as {html.escape(one['key'])}.")
        if offers["license"]:
            parts.append(f"Its licence is {html.escape(offers['license'])}.")
        if offers["gated"]:
            parts.append("Its authors want their terms accepted, on its page on the Hub.")
        show(self.note, " ".join(parts))

    def _variant(self) -> dict[str, Any] | None:
        """The variant that is chosen."""
        name = self.variants.value
        return next((one for one in self._offers.get("variants", ()) if one["name"] == name), None)

    def _show_buttons(self, one: dict[str, Any] | None) -> None:
        hide(self.get, unless=one is not None and one["key"] is None)
        hide(self.load, unless=one is not None and one["key"] is not None)

    # --- what is done -----------------------------------------------------------------

    def _get(self, button: Any) -> None:
        name = self.variants.value

        def work(client: Client) -> None:
            client.start_download(name)

        self.act(work, button=button)

    def _load(self, button: Any) -> None:
        one = self._variant()
        if one is not None and one["key"] is not None:
            self.loading.begin(one["key"], button)


def _whole_width() -> dict[str, Any]:
    # Of the whole, Jupyter's margins are no part.
    return {"layout": ipywidgets.Layout(width="calc(100% - 4px)"), "style": _STYLE}


def _result(found: dict[str, Any]) -> str:
    parts = [found["model"], found["params_string"]]
    if found["size_bytes"] is not None:
        parts.append(size(found["size_bytes"]))
    if found["downloads"] is not None:
        parts.append(f"{found['downloads']:,} downloads")
    if found["gated"]:
        parts.append("terms to accept")
    return " · ".join(part for part in (*parts, found["description"]) if part)


def _variant(one: dict[str, Any]) -> str:
    parts = [one["quantization"] or one["files"][0], size(one["size_bytes"]), _FITS[one["fit"]]]
    if one["name"].endswith(".gguf"):  # its quantization is not enough to tell it by
        parts.append(one["files"][0])
    return " · ".join([*parts, *(["here"] if one["key"] else [])])
