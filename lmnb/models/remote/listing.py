"""`GET /models` of an endpoint: whose server it is, and which models it has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from lmnb.engine.gguf import Kind
from lmnb.errors import EndpointFailed
from lmnb.models.remote.endpoint import Flavour, RemoteModel

MOST_MODELS = 2000
_LONGEST_ID = 300
_EMBEDS = re.compile(r"embed|minilm|rerank|(^|[/_-])(bge|e5|gte)-", re.IGNORECASE)


class Listing(msgspec.Struct, frozen=True):
    """What an endpoint is and has. `server` is the id of another lmnb (`lmnb.server.remote.via`)."""

    flavour: Flavour
    models: tuple[RemoteModel, ...]
    server: str | None = None


def parse(name: str, content: bytes, headers: Mapping[str, str]) -> Listing:
    """The answer of the endpoint `name` to `GET /models`.

    Raises
    ------
    EndpointFailed
        It is no list of models.
    """
    try:
        body = msgspec.json.decode(content)
    except msgspec.DecodeError:
        body = None
    cards = body.get("data") if isinstance(body, dict) else None
    if not isinstance(cards, list):
        raise no_list(name)
    known = [card for card in cards if isinstance(card, dict) and _is_id(card.get("id"))]
    models = {card["id"]: _model(card) for card in known[:MOST_MODELS]}
    server = headers.get("x-lmnb-server")
    return Listing(_flavour(known, headers), tuple(models.values()), server)


def no_list(name: str) -> EndpointFailed:
    """The error for a server that has no list of models where it is looked for."""
    return EndpointFailed(
        f"The endpoint {name} answers, but not with a list of models: it is no OpenAI-compatible "
        "server, or has another path.",
        hint="Give the address that OpenAI's clients would get as base_url.",
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and value.isprintable()


def _flavour(cards: list[dict[str, Any]], headers: Mapping[str, str]) -> Flavour:
    if "x-lmnb-server" in headers:
        return "lmnb"
    if headers.get("server", "").startswith("llama.cpp"):
        return "llama.cpp"
    for card in cards:
        if card.get("owned_by") == "llamacpp":
            return "llama.cpp"
        if card.get("owned_by") == "vllm" or "max_model_len" in card:
            return "vllm"
    return "other"


def _model(card: dict[str, Any]) -> RemoteModel:
    """What the card of lmnb, vLLM or llama.cpp's server says of a model."""
    meta = card.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    contexts = (card.get("max_input_tokens"), card.get("max_model_len"), meta.get("n_ctx_train"))
    able = card.get("capabilities")
    able = able if isinstance(able, dict) else {}
    return RemoteModel(
        id=card["id"],
        kind=_kind(card),
        context=next((n for n in contexts if isinstance(n, int) and n > 0), None),
        sees=_supported(able.get("image_input")),
        is_passed_on=isinstance(card.get("endpoint"), str),
    )


def _kind(card: dict[str, Any]) -> Kind:
    kind = card.get("kind")
    if kind in {"llm", "embedding"}:
        return "embedding" if kind == "embedding" else "llm"
    return "embedding" if _EMBEDS.search(card["id"]) else "llm"


def _supported(value: Any) -> bool | None:
    found = value.get("supported") if isinstance(value, dict) else None
    return found if isinstance(found, bool) else None
