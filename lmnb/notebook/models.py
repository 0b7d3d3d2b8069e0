"""Which model a cell talks to, and getting it loaded with the progress in sight."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from lmnb import selection
from lmnb.notebook.defaults import aliases, default

if TYPE_CHECKING:
    from lmnb.client import Client


class Ready(NamedTuple):
    """A loaded model: the identifier to address it by, and how long a load took, if one did."""

    identifier: str
    load_seconds: float | None


class _Current:
    """The model that this notebook has loaded or asked last."""

    name: str | None = None
    picked = False
    """Whether the user has said so, by `%lm use`."""


def use(name: str | None, *, picked: bool = False) -> None:
    """From now on cells that name no model ask this one, as long as it is loaded.

    One that was `picked` is asked even if it has to be loaded for it.
    """
    _Current.name, _Current.picked = name, picked


def asked(identifier: str, *, named: bool) -> None:
    """A cell asks this model, which it may have `named`."""
    if named or not _Current.picked:
        use(identifier)


def choose(client: Client) -> str:
    """The model of a cell that names none."""
    if _Current.picked and _Current.name is not None:
        return _Current.name
    name: str | None = default("model")
    if name is not None and _Current.name not in {row["id"] for row in client.ps()}:
        return aliases().get(name, name)
    return selection.choose(client, _Current.name)


def ready(client: Client, model: str, waiting: Callable[[str], None]) -> Ready:
    """Have `model` loaded the way a request would load it, saying how far it is."""
    waiting(f"Loading {model}")
    identifier, seconds = model, None
    for event in client.load(model, jit=True):
        if event["type"] == "progress":
            waiting(f"Loading {model} · {event['progress']:.0%}")
        elif event["type"] == "done":
            identifier, seconds = event["id"], event["waited"]
    return Ready(identifier, seconds)
