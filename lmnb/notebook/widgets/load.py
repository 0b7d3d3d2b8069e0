"""*Load*: a model, its options, and what they take while they are moved."""

from __future__ import annotations

from typing import Any

import ipywidgets

from lmnb.client import Client
from lmnb.follow import State
from lmnb.notebook.units import size
from lmnb.notebook.widgets import ttl
from lmnb.notebook.widgets.loading import Loading
from lmnb.notebook.widgets.panel import Panel, failure, show, sliding, text, wide

AUTO = -2
"""The engine decides. (-1 is an option's own word for all layers.)"""
_DEBOUNCE = 0.25
_CACHE_TYPES = (("auto", None), ("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"))
_PARALLEL = (1, 2, 3, 4, 6, 8, 12, 16, 32)
_MOST_LAYERS = 128


class Load(Panel):
    """Choose a model and its options, see the estimate, load."""

    title = "Load"

    def build(self) -> list[Any]:
        """The options, the estimate and the buttons."""
        self._rows: dict[str, dict[str, Any]] = {}
        self._here: list[str] | None = None
        self._wanted = 0  # Counts what has been asked for, so that late estimates are known.
        self._estimating = False
        self.model = ipywidgets.Dropdown(description="Model", **wide())
        self.context = _choice("Context", [AUTO])
        self.layers = _choice("GPU layers", [AUTO, -1, *range(_MOST_LAYERS)])
        self.layers.layout.display = "none"  # Until a GPU is known of.
        self.parallel = _choice("Parallel", [AUTO, *_PARALLEL])
        self.cache_type = ipywidgets.Dropdown(
            description="KV cache",
            options=_CACHE_TYPES,
            **wide(),
        )
        self.ttl = ttl.slider()
        self.estimate = text()
        self.load = ipywidgets.Button(description="Load", icon="play", button_style="primary")
        self.load.on_click(self._load)
        self.loading = Loading(self)
        self.model.observe(lambda _: self.post(self._chosen), "value")
        for option in (self.context, self.layers, self.parallel, self.cache_type):
            option.observe(lambda _: self.post(self._moved), "value")
        return [
            *(self.model, self.context, self.layers, self.parallel, self.cache_type, self.ttl),
            *(self.estimate, self.load, *self.loading.parts),
        ]

    def draw(self, state: State) -> None:
        """Models that have been fetched meanwhile are to be chosen from."""
        here = [one["id"] for one in state["downloads"] if one["status"] == "completed"]
        if self.state is not None and here != self._here:
            self._here = here
            self.refresh()

    def refresh(self) -> None:
        """Look again which models and devices there are."""

        def work(client: Client) -> tuple[list[dict[str, Any]], bool]:
            device = client.status()["device"]
            return client.ls(), bool(device.get("supports_gpu_offload"))

        self.act(work, self._found)

    # --- choosing -----------------------------------------------------------------

    def _found(self, found: tuple[list[dict[str, Any]], bool]) -> None:
        rows, has_gpu = found
        self._rows = {one["key"]: one for one in rows if not one["endpoint"]}
        self.layers.layout.display = None if has_gpu else "none"
        chosen = self.model.value
        self.model.options = [
            (f"{name} · {size(one['size_bytes'])}", name) for name, one in self._rows.items()
        ]
        if not self._rows:
            show(self.estimate, "No model is downloaded yet: <code>%lm get</code>")
            return
        first = min(self._rows, key=lambda name: self._rows[name]["kind"] != "llm")
        self.model.value = chosen if chosen in self._rows else first

    def _chosen(self) -> None:
        """Another model: its context has another end."""
        most = self._rows.get(self.model.value, {}).get("max_context_length") or 1 << 17
        lengths = [length for power in range(9, 24) if (length := 1 << power) < most]
        _offer(self.context, [AUTO, *lengths, most])
        show(self.loading.done, "")
        self._moved()

    def options(self) -> dict[str, Any]:
        """The options of `Client.load` that are set."""
        given = {
            "context_length": self.context.value,
            "gpu_layers": self.layers.value,
            "parallel": self.parallel.value,
            "cache_type_k": self.cache_type.value,
            "cache_type_v": self.cache_type.value,
        }
        return {name: value for name, value in given.items() if value not in {None, AUTO}}

    # --- the estimate ---------------------------------------------------------------

    def _moved(self) -> None:
        if self.model.value is None:
            return
        self._wanted += 1
        number = self._wanted
        self.stage.later(_DEBOUNCE, lambda: self._rested(number))

    def _rested(self, number: int) -> None:
        """Nothing has moved for a moment. One estimate runs at a time: each takes a process."""
        if number != self._wanted or self._estimating:
            return
        self._estimating = True
        model, options = self.model.value, self.options()

        def done(shown: str) -> None:
            self._estimating = False
            if number == self._wanted:
                show(self.estimate, shown)
            else:
                self._rested(self._wanted)

        self.act(
            lambda client: client.estimate(model, **options),
            lambda found: done(_estimate(found)),
            failed=lambda error: done(failure(error)),
        )

    # --- loading --------------------------------------------------------------------

    def _load(self, button: Any) -> None:
        model, options, seconds = self.model.value, self.options(), ttl.taken(self.ttl)
        if model is None:
            self.post(lambda: show(self.estimate, "There is no model to load: choose one above."))
            return
        self.loading.begin(model, button, ttl=seconds, **options)


def _choice(name: str, values: list[int]) -> Any:
    return ipywidgets.SelectionSlider(
        options=_labelled(values), value=values[0], description=name, **sliding()
    )


def _offer(slider: Any, values: list[int]) -> None:
    """Other values to choose from; the chosen one stays if it is among them."""
    options = _labelled(values)
    if options != list(slider.options):
        chosen = slider.value
        slider.options = options
        slider.value = chosen if chosen in values else AUTO


def _labelled(values: list[int]) -> list[tuple[str, int]]:
    names = {AUTO: "auto", -1: "all"}
    return [(names.get(value, str(value)), value) for value in values]


def _estimate(found: dict[str, Any]) -> str:
    share = min(found["total"] / max(found["free"] + found["gpu_free"], 1), 1.0)
    parts = ", ".join(f"{name} {size(found[name])}" for name in ("weights", "cache", "compute"))
    return (
        f"<b>{size(found['total'])}</b> of memory ({parts}); {size(found['free'])} are free "
        f"<meter value={share:.3f} high=0.8 max=1></meter><br>"
        f"context {found['context_length']} tokens, {found['parallel']} answers at a time"
    )
