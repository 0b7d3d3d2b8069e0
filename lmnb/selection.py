"""Which model is meant where none is named: by cells, by tables, and by `launch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmnb.errors import ModelNotFound

if TYPE_CHECKING:
    from lmnb.client import Client

DEFAULT_CHAT_MODEL = "smollm2-135m-instruct"
DEFAULT_EMBEDDING_MODEL = "all-minilm-l6-v2"


def choose(client: Client, current: str | None = None, *, by: str = "-m") -> str:
    """The name of a chat model that is loaded, or else can be.

    `current` (the one this notebook has loaded or asked last), if it is loaded or remote; the loaded
    chat model, if there is just one; `current`, the default, or else the only, downloaded chat
    model; the only remote one, if there is no other. `by` is how the caller's users name one.

    Raises
    ------
    ModelNotFound
        There is none, or the choice is not clear.
    """
    loaded: list[str] = [row["id"] for row in client.ps() if row["kind"] == "llm"]
    if current is not None and current in loaded:
        return current
    chats = [row for row in client.ls() if row["kind"] == "llm"]
    remote: list[str] = [row["key"] for row in chats if row["endpoint"]]
    if current is not None and current in remote:
        return current
    if len(loaded) == 1:
        return loaded[0]
    if loaded:
        raise ModelNotFound(
            f"Several models are loaded: {', '.join(loaded)}.", hint=f"Name one with {by}."
        )
    downloaded: list[str] = [row["key"] for row in chats if not row["endpoint"]] or remote
    for name in (current, DEFAULT_CHAT_MODEL):
        if name is not None and name in downloaded:
            return name
    if not downloaded:
        raise ModelNotFound(
            "No chat model is downloaded yet.",
            hint=f"`lmnb get` fetches {DEFAULT_CHAT_MODEL} (98 MB).",
        )
    if len(downloaded) > 1:
        raise ModelNotFound(
            f"No model is loaded, and several are here: {', '.join(downloaded)}.",
            hint=f"Name one with {by}, or load one with `lmnb load`.",
        )
    return downloaded[0]


def choose_embedding(client: Client, *, by: str) -> str:
    """The name of an embedding model: the loaded one, if there is just one; the default; the only one.

    Raises
    ------
    ModelNotFound
        There is none, or the choice is not clear.
    """
    loaded: list[str] = [row["id"] for row in client.ps() if _embeds(row)]
    if len(loaded) == 1:
        return loaded[0]
    known: list[str] = [row["key"] for row in client.ls() if _embeds(row)]
    found = loaded or ([DEFAULT_EMBEDDING_MODEL] if DEFAULT_EMBEDDING_MODEL in known else known)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelNotFound(
            "No embedding model is downloaded yet.",
            hint=f"`lmnb get {DEFAULT_EMBEDDING_MODEL}` fetches one (46 MB).",
        )
    raise ModelNotFound(
        f"Several embedding models are here: {', '.join(found)}.", hint=f"Name one with {by}."
    )


def _embeds(row: dict[str, Any]) -> bool:
    return row["kind"] == "embedding" and not row.get("reranks")
