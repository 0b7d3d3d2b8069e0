"""GET /v1/models and /v1/models/{id}: one object for OpenAI's and Anthropic's clients.

Both protocols have these paths. The object holds the fields of both, so that no
client has to be told apart (protocols, 1.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from lmnb.engine.gguf import Kind
from lmnb.errors import ModelNotFound
from lmnb.models.entry import ModelEntry
from lmnb.models.instance import Instance
from lmnb.server.lmstudio.capabilities import capabilities
from lmnb.server.openai.errors import InvalidValue
from lmnb.server.paging import limit
from lmnb.server.remote import routing
from lmnb.server.remote.showing import Shown, remote_models, shown_of
from lmnb.server.reply import reply
from lmnb.server.state import State, state_of

ModelState: TypeAlias = Literal["loaded", "not-loaded"]
_NO = {"supported": False}
CAPABILITIES: dict[str, Any] = {
    "batch": {"supported": True},
    "citations": _NO,
    "code_execution": _NO,
    "context_management": _NO,
    "effort": {"supported": False, "low": _NO, "medium": _NO, "high": _NO, "max": _NO},
    "image_input": _NO,
    "pdf_input": _NO,
    "server_tools": {"supported": False, "code_execution": _NO, "web_search": _NO},
    "structured_outputs": _NO,
    "thinking": {
        "supported": False,
        "types": {"adaptive": _NO, "between_tools": _NO, "disabled": _NO, "enabled": _NO},
    },
}
"""Anthropic's list, every key present; what is true of every model."""


def _capabilities(entry: ModelEntry, instance: Instance | None) -> dict[str, Any]:
    """What Anthropic's clients are told of a model. Blocks (disk)."""
    if entry.kind != "llm":
        return CAPABILITIES
    found = capabilities(entry)
    sees = instance.worker.info.sees if instance else found.vision
    options = found.reasoning.allowed_options if found.reasoning else ()
    thinks = {"supported": found.reasoning is not None}
    levels = {name: {"supported": name in options} for name in ("low", "medium", "high")}
    types = {"adaptive": thinks, "enabled": thinks, "disabled": {"supported": "off" in options}}
    return CAPABILITIES | {
        "effort": {"supported": "low" in options, **levels, "max": _NO},
        "image_input": {"supported": sees},
        "pdf_input": {"supported": True},
        "structured_outputs": {"supported": True},
        "thinking": thinks | {"types": types | {"between_tools": _NO}},
    }


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A model. `max_input_tokens` is the context: as loaded, else as trained; null if unknown.

    `endpoint` is the name of the endpoint that has it; null: it is on this machine.
    """

    id: str
    object: str = "model"
    created: int
    owned_by: str
    type: str = "model"
    display_name: str
    created_at: str
    max_input_tokens: int | None
    max_tokens: int | None
    capabilities: dict[str, Any]
    lifecycle: str = "active"
    state: ModelState
    kind: Kind
    endpoint: str | None = None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of models; all of them unless the caller limits it."""

    object: str = "list"
    data: Sequence[ModelCard]
    has_more: bool
    first_id: str | None
    last_id: str | None


async def index(request: Request) -> Response:
    """All models: the downloaded ones, or only the loaded ones where requests may not load; then those
    of endpoints.
    """
    state = state_of(request)
    remote = [_remote_card(shown) for shown in await remote_models(state)]
    return reply(page([*await _cards(state), *remote], request.query_params))


async def retrieve(request: Request) -> Response:
    """One model, by any of its names."""
    state = state_of(request)
    name: str = request.path_params["id"]
    for instance in state.models.loaded():
        if instance.id.casefold() == name.casefold():
            return reply(await asyncio.to_thread(_card, instance.id, instance.entry, instance))
    if (target := await routing.find(state, name)) is not None:
        return reply(_remote_card(shown_of(target)))
    entry = await state.catalog.resolve(name)
    instances = [one for one in state.models.loaded() if one.entry.key == entry.key]
    instances.sort(key=lambda one: one.id != entry.key)
    if not instances and not state.settings.jit_loading:
        raise ModelNotFound(
            f"The model {entry.key} is not loaded, and requests may not load models.",
            hint=f"Load it with `lmnb load {entry.key}`.",
            param="model",
        )
    first = instances[0] if instances else None
    return reply(await asyncio.to_thread(_card, first.id if first else entry.key, entry, first))


async def _cards(state: State) -> list[ModelCard]:
    """Loaded language models first: some clients take the first model there is."""
    loaded = {instance.id: instance for instance in state.models.loaded()}
    known: dict[str, ModelEntry] = {id_: instance.entry for id_, instance in loaded.items()}
    if state.settings.jit_loading:
        known |= {entry.key: entry for entry in await state.catalog.entries()}
    order = sorted(known, key=lambda id_: (known[id_].kind != "llm", id_ not in loaded, id_))
    return await asyncio.to_thread(
        lambda: [_card(id_, known[id_], loaded.get(id_)) for id_ in order]
    )


def _card(id_: str, entry: ModelEntry, instance: Instance | None) -> ModelCard:
    created = _modified(entry.path)
    context = instance.config.context_length if instance else entry.max_context_length
    return ModelCard(
        id=id_,
        created=created,
        owned_by=entry.publisher,
        display_name=entry.display_name,
        created_at=datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
        max_input_tokens=context,
        max_tokens=context,
        capabilities=_capabilities(entry, instance),
        state="loaded" if instance else "not-loaded",
        kind=entry.kind,
    )


def _remote_card(shown: Shown) -> ModelCard:
    able = CAPABILITIES
    if shown.model.kind == "llm":
        yes = {"supported": True}
        sees = {"supported": bool(shown.model.sees)}
        able |= {"image_input": sees, "pdf_input": yes, "structured_outputs": yes}
    return ModelCard(
        id=shown.key,
        created=0,
        owned_by=shown.endpoint,
        display_name=shown.display_name,
        created_at="1970-01-01T00:00:00Z",
        max_input_tokens=shown.model.context,
        max_tokens=shown.model.context,
        capabilities=able,
        state="loaded" if shown.is_up else "not-loaded",
        kind=shown.model.kind,
        endpoint=shown.endpoint,
    )


def _modified(path: Path) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:  # deleted since it was listed
        return 0


def page(cards: Sequence[ModelCard], query: QueryParams) -> ModelList:
    """Anthropic's paging: `limit`, `after_id`, `before_id`."""
    start, end = 0, len(cards)
    if after := query.get("after_id"):
        start = _position(cards, after, "after_id") + 1
    if before := query.get("before_id"):
        end = _position(cards, before, "before_id")
    most = limit(query, most=1000)
    shown = cards[start:end]
    more = False
    if most is not None and len(shown) > most:
        more = True
        # Going backwards, the page is the one that ends just before `before_id`.
        shown = shown[-most:] if before and not after else shown[:most]
    return ModelList(
        data=shown,
        has_more=more,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
    )


def _position(cards: Sequence[ModelCard], id_: str, param: str) -> int:
    for i, card in enumerate(cards):
        if card.id == id_:
            return i
    raise InvalidValue(f"'{param}' names no model: '{id_}'.", param=param)
