"""Which model a cell talks to, and getting it loaded with the progress in sight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lmnb.errors import ModelNotFound

if TYPE_CHECKING:
    from lmnb.client import Client

DEFAULT_CHAT_MODEL = "smollm2-135m-instruct"


class Ready(NamedTuple):
    """A loaded model: the identifier to address it by, and how long a load took, if one did."""

    identifier: str
    load_seconds: float | None


class _Current:
    """The model that this notebook has loaded or asked last."""

    name: str | None = None


def use(name: str | None) -> None:
    """From now on cells that name no model ask this one, as long as it is loaded."""
    _Current.name = name


def choose(client: Client) -> str:
    """The model of a cell that names none.

    The one this notebook has loaded or asked last, if it is loaded; the loaded chat model, if there
    is just one; the one asked last, the default, or else the only, downloaded chat model.
    """
    current = _Current.name
    loaded: list[str] = [row["id"] for row in client.ps() if row["kind"] == "llm"]
    if current is not None and current in loaded:
        return current
    if len(loaded) == 1:
        return loaded[0]
    if loaded:
        raise ModelNotFound(
            f"Several models are loaded: {', '.join(loaded)}.", hint="Name one with -m."
        )
    downloaded: list[str] = [row["key"] for row in client.ls() if row["kind"] == "llm"]
    for name in (current, DEFAULT_CHAT_MODEL):
        if name is not None and name in downloaded:
            return name
    if not downloaded:
        raise ModelNotFound(
            "No chat model is downloaded yet.",
            hint=f"%lm get fetches {DEFAULT_CHAT_MODEL} (98 MB).",
        )
    if len(downloaded) > 1:
        raise ModelNotFound(
            f"No model is loaded, and several are downloaded: {', '.join(downloaded)}.",
            hint="Name one with -m, or load one with %lm load.",
        )
    return downloaded[0]


def find_loaded(
    rows: Sequence[dict[str, Any]],
    model: str,
    *,
    identifier: str | None,
    context_length: int | None,
    ttl: float | None,
) -> dict[str, Any] | None:
    """The row of `ps` that is what loading `model` like this would lead to, if there is one.

    A cell with `%lm load` is run again and again; that is not to fill the memory with copies.
    """
    for row in rows:
        key = row["model"].lower()
        names = {key, key.rpartition("/")[2], row["id"].lower()}
        if (
            model.lower() in names
            and identifier in {None, row["id"]}
            and context_length in {None, row["context_length"]}
            and row["ttl"] == ttl
            and not row["jit"]
        ):
            return row
    return None


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
