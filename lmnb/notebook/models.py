"""Which model a cell talks to, and getting it loaded with the progress in sight."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from lmnb.errors import ModelNotFound

if TYPE_CHECKING:
    from lmnb.client import Client

DEFAULT_CHAT_MODEL = "smollm2-135m-instruct"


class Ready(NamedTuple):
    """A loaded model: the identifier to address it by, and how long a load took, if one did."""

    identifier: str
    load_seconds: float | None


def choose(client: Client, previous: str | None) -> str:
    """The model of a cell that names none.

    The one the conversation already uses, if it is loaded; the loaded chat model, if there is
    just one; the one the conversation used; the default, or else the only, downloaded chat model.
    """
    loaded: list[str] = [row["id"] for row in client.ps() if row["kind"] == "llm"]
    if previous is not None and previous in loaded:
        return previous
    if len(loaded) == 1:
        return loaded[0]
    if loaded:
        raise ModelNotFound(
            f"Several models are loaded: {', '.join(loaded)}.", hint="Name one with -m."
        )
    downloaded: list[str] = [row["key"] for row in client.ls() if row["kind"] == "llm"]
    for name in (previous, DEFAULT_CHAT_MODEL):
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
