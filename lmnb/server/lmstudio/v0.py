"""LM Studio's older REST API, /api/v0: OpenAI's language, with words about the model.

Zed reads the list of models with closed enumerations: another `type`, `state` or
`compatibility_type`, or a missing `publisher`, fails all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lmnb.models.entry import ModelEntry
from lmnb.models.instance import Instance
from lmnb.server.lmstudio.capabilities import Capabilities, capabilities
from lmnb.server.lmstudio.chat import find
from lmnb.server.openai import chat, completions, embeddings
from lmnb.server.remote import routing
from lmnb.server.remote.showing import Shown, remote_models, shown_of
from lmnb.server.reply import reply
from lmnb.server.state import State, state_of

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


async def index(request: Request) -> Response:
    """The models on this machine, and those of endpoints."""
    state = state_of(request)
    entries = [entry for entry in await state.catalog.entries() if entry.is_selected]
    remote = [_remote_row(shown) for shown in await remote_models(state)]
    return reply({"object": "list", "data": [*await _rows(state, entries), *remote]})


async def retrieve(request: Request) -> Response:
    """One model."""
    state = state_of(request)
    name = request.path_params["id"]
    if (target := await routing.find(state, name)) is not None:
        return reply(_remote_row(shown_of(target)))
    entry = await state.catalog.resolve(name)
    return reply((await _rows(state, [entry]))[0])


async def chat_completions(request: Request) -> Response:
    """Chat Completions; a plain answer also has `model_info` and `runtime`."""
    return await _with_model(request, chat.create)


async def text_completions(request: Request) -> Response:
    """Completions; a plain answer also has `model_info` and `runtime`."""
    return await _with_model(request, completions.create)


async def embed(request: Request) -> Response:
    """Embeddings."""
    return await embeddings.create(request)


async def _with_model(request: Request, handler: Handler) -> Response:
    response = await handler(request)
    if response.headers.get("content-type") != "application/json":
        return response  # a stream
    answer: dict[str, Any] = msgspec.json.decode(response.body)
    state = state_of(request)
    if (target := await routing.find(state, answer["model"])) is not None:
        context = target.model.context
        answer["model_info"] = {"arch": "unknown", "quant": None, "format": None}
        answer["model_info"]["context_length"] = context
        answer["runtime"] = {"name": "endpoint", "version": "unknown", "supported_formats": []}
        return reply(answer)
    identifier, entry = await find(state, answer["model"])
    instance = next((one for one in state.models.loaded() if one.id == identifier), None)
    answer["model_info"] = {
        "arch": entry.architecture,
        "quant": entry.quantization,
        "format": entry.format,
        "context_length": instance.config.context_length if instance else None,
    }
    report = await state.devices.get()
    answer["runtime"] = {
        "name": "llama.cpp",
        "version": str(report.get("llama_cpp", "unknown")),
        "supported_formats": ["gguf"],
    }
    return reply(answer)


async def _rows(state: State, entries: Sequence[ModelEntry]) -> list[dict[str, Any]]:
    can = await asyncio.to_thread(lambda: [capabilities(entry) for entry in entries])
    return [_row(state, *pair) for pair in zip(entries, can, strict=True)]


def _row(state: State, entry: ModelEntry, can: Capabilities) -> dict[str, Any]:
    kind = "vlm" if can.vision else "llm"
    row: dict[str, Any] = {
        "id": entry.key,
        "object": "model",
        "type": "embeddings" if entry.kind == "embedding" else kind,
        "publisher": entry.publisher,
        "arch": entry.architecture,
        "compatibility_type": entry.format,
        "quantization": entry.quantization or "unknown",
        "state": "not-loaded",
        "max_context_length": entry.max_context_length or 0,
    }
    if can.trained_for_tool_use:
        row["capabilities"] = ["tool_use"]
    if any(load.entry.base_key == entry.base_key for load in state.models.loading()):
        row["state"] = "loading"
    if instance := _loaded(state, entry):
        row |= {"state": "loaded", "loaded_context_length": instance.config.context_length}
    return row


def _remote_row(shown: Shown) -> dict[str, Any]:
    """A model that is elsewhere; of its file nothing is known. `endpoint` is an addition."""
    embeds = shown.model.kind == "embedding"
    row: dict[str, Any] = {
        "id": shown.key,
        "object": "model",
        "type": "embeddings" if embeds else "vlm" if shown.model.sees else "llm",
        "publisher": shown.endpoint,
        "arch": "unknown",
        "compatibility_type": "gguf",
        "quantization": "unknown",
        "state": "loaded" if shown.is_up else "not-loaded",
        "max_context_length": shown.model.context or 0,
        "endpoint": shown.endpoint,
    }
    if shown.is_up and shown.model.context:
        row["loaded_context_length"] = shown.model.context
    if not embeds:
        row["capabilities"] = ["tool_use"]
    return row


def _loaded(state: State, entry: ModelEntry) -> Instance | None:
    same = (one for one in state.models.loaded() if one.entry.base_key == entry.base_key)
    return next(same, None)
