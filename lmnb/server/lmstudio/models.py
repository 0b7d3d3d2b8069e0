"""GET /api/v1/models, POST /api/v1/models/load and /unload."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmnb.engine.config import LoadConfig
from lmnb.errors import NotSupported
from lmnb.models.entry import ModelEntry
from lmnb.models.instance import Instance
from lmnb.server.disconnect import until_disconnect
from lmnb.server.lmstudio.capabilities import Capabilities, capabilities
from lmnb.server.lmstudio.reading import read
from lmnb.server.lmstudio.schema import LoadBody, UnloadBody
from lmnb.server.remote import routing
from lmnb.server.remote.showing import Shown, remote_models
from lmnb.server.reply import reply
from lmnb.server.state import state_of

_SHOWN = (
    "context_length",
    "eval_batch_size",
    "parallel",
    "flash_attention",
    "num_experts",
    "offload_kv_cache_to_gpu",
)


async def index(request: Request) -> Response:
    """The models on this machine with their loaded instances, and those of endpoints."""
    state = state_of(request)
    loaded = state.models.loaded()
    entries = await state.catalog.entries()
    rows = await asyncio.to_thread(_rows, entries, loaded)
    remote = [_remote_row(shown) for shown in await remote_models(state)]
    return reply({"models": [*rows, *remote]})


async def load(request: Request) -> Response:
    """Load a model explicitly, so without a TTL unless one is given. Leaving cancels the load."""
    body = await read(request, LoadBody)
    _refuse_files(body)
    config = LoadConfig(**{name: getattr(body, name) for name in LoadConfig.__struct_fields__})
    await routing.ensure_here(state_of(request), body.model)
    models = state_of(request).models
    loading = models.load(body.model, config, identifier=body.identifier, ttl=body.ttl)
    instance = await until_disconnect(request, loading)
    answer = {
        "type": instance.entry.kind,
        "instance_id": instance.id,
        "load_time_seconds": instance.load_seconds,
        "status": "loaded",
    }
    if body.echo_load_config:
        answer["load_config"] = config_of(instance)
    return reply(answer)


def _refuse_files(body: LoadBody) -> None:
    """Who speaks over the network must not have files of this machine opened."""
    for name, option in (("adapters", "--adapter"), ("projector", "--projector")):
        if getattr(body, name) is not None:
            raise NotSupported(
                f"'{name}' cannot be given here.",
                hint=f"Load the model on this machine: lmnb load MODEL {option} FILE.",
                param=name,
            )


async def unload(request: Request) -> Response:
    """Unload an instance. What it is answering ends with an error, unless it is to `wait` for that."""
    body = await read(request, UnloadBody)
    await routing.ensure_here(state_of(request), body.instance_id, "instance_id")
    unloading = state_of(request).models.unload(body.instance_id, wait=body.wait)
    await until_disconnect(request, unloading)
    return reply({"instance_id": body.instance_id})


def config_of(instance: Instance) -> dict[str, Any]:
    """The configuration an instance was loaded with; of embedding models only the context."""
    names = _SHOWN if instance.entry.kind == "llm" else _SHOWN[:1]
    values = {name: getattr(instance.config, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _rows(entries: Sequence[ModelEntry], loaded: Sequence[Instance]) -> list[dict[str, Any]]:
    """One row a model; its quantizations are variants. Files loaded from elsewhere come too."""
    known = {entry.base_key for entry in entries}
    rows = [entry for entry in entries if entry.is_selected]
    for instance in loaded:
        if instance.entry.base_key not in known:
            known.add(instance.entry.base_key)
            rows.append(instance.entry)
    return [_row(entry, loaded) for entry in rows]


def _row(entry: ModelEntry, loaded: Sequence[Instance]) -> dict[str, Any]:
    quantization = None
    if entry.quantization is not None or entry.bits_per_weight is not None:
        quantization = {"name": entry.quantization, "bits_per_weight": entry.bits_per_weight}
    row: dict[str, Any] = {
        "type": entry.kind,
        "publisher": entry.publisher,
        "key": entry.key,
        "display_name": entry.display_name,
    }
    if entry.kind == "llm":
        row["architecture"] = entry.architecture
    row |= {
        "quantization": quantization,
        "size_bytes": entry.size_bytes,
        "params_string": entry.params_string,
        "loaded_instances": [
            {"id": instance.id, "config": config_of(instance)}
            for instance in loaded
            if instance.entry.base_key == entry.base_key
        ],
        # LM Studio's clients expect a number; files that name none are rare.
        "max_context_length": entry.max_context_length or 0,
        "format": entry.format,
    }
    if entry.kind == "llm":
        row |= {"capabilities": capabilities(entry), "description": None}
    if entry.variants:
        row |= {"variants": entry.variants, "selected_variant": entry.variant}
    return row


def _remote_row(shown: Shown) -> dict[str, Any]:
    """A model that is elsewhere. `endpoint` is an addition; one that answers counts as loaded."""
    context = shown.model.context
    loaded = {"id": shown.key, "config": {"context_length": context} if context else {}}
    row: dict[str, Any] = {
        "type": shown.model.kind,
        "publisher": shown.endpoint,
        "key": shown.key,
        "display_name": shown.display_name,
    }
    if shown.model.kind == "llm":
        row["architecture"] = None
    row |= {
        "quantization": None,
        "size_bytes": 0,
        "params_string": None,
        "loaded_instances": [loaded] if shown.is_up else [],
        "max_context_length": context or 0,
        "format": None,
        "endpoint": shown.endpoint,
    }
    if shown.model.kind == "llm":
        able = Capabilities(vision=bool(shown.model.sees), trained_for_tool_use=True)
        row |= {"capabilities": able, "description": None}
    return row
