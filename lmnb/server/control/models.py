"""Models: on the disk, loaded, looked into."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.engine.config import LoadConfig
from lmnb.errors import InvalidRequest, LmnbError, ModelLoadFailed
from lmnb.models.instance import Instance
from lmnb.models.instances import Manager
from lmnb.server import identities, inspecting, sse
from lmnb.server.asking import ask
from lmnb.server.control.form import answer, encode, error_frame, read, rows
from lmnb.server.control.present import coming_and_going
from lmnb.server.disconnect import until_disconnect
from lmnb.server.remote import routing
from lmnb.server.remote.showing import endpoint_row, loaded_row, model_row, remote_models
from lmnb.server.state import state_of

_PATIENCE = 120.0
"""Seconds an estimate may take: it reads the vocabulary, perhaps off a slow disk."""

router = APIRouter()


class _Load(LoadConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str
    ttl: float | None = None
    identifier: str | None = None
    jit: bool = False


class _Inspect(msgspec.Struct, forbid_unknown_fields=True):
    model: str


class _Unload(msgspec.Struct, forbid_unknown_fields=True):
    instance_id: str | None = None
    all: bool = False
    wait: bool = False


@router.get("/models")
async def models(request: Request) -> Response:
    """The models on the disk, with the ids under which they are loaded, and those of endpoints."""
    state = state_of(request)
    loaded = [(instance.entry.key, instance.id) for instance in state.models.loaded()]
    rows = []
    for entry in await state.catalog.entries():
        shown = msgspec.to_builtins(entry, enc_hook=encode)
        shown["loaded"] = [identifier for key, identifier in loaded if key == entry.key]
        shown["endpoint"] = None
        rows.append(shown)
    rows += [model_row(shown) for shown in await remote_models(state)]
    return answer({"models": rows})


@router.get("/ps")
async def ps(request: Request) -> Response:
    """What is loaded, being loaded, being unloaded, not loaded after crashes; and endpoints."""
    state = state_of(request)
    connected = [endpoint_row(link) for link in state.endpoints.links]
    found = {**coming_and_going(state), "endpoints": connected}
    # Last: workers are asked for it, and meanwhile everything may change.
    return answer({"loaded": await rows(state.models.loaded()), **found})


@router.post("/load")
async def load(request: Request) -> Response:
    """Have a model loaded. Events `progress` (`{"progress": 0 to 1}`) and `done`.

    An instance that is there, or on its way, with the options given is enough: who loads the same
    twice, or in two notebooks at once, gets one. With `jit` it is loaded the way a request to a
    language model would load it, so the user can be shown the load before the request. Of a remote
    model there is nothing to load: with `jit` it is done at once.

    `done` is a row of `ps` and `hint`: what to install if the model does not use the GPU there is;
    and `waited`: the seconds that took, None if the model was there already. Leaving the stream
    cancels the load, unless others wait for it.
    """
    body = await read(request, _Load)
    state = state_of(request)
    target = await routing.find(state, body.model) if body.jit else None
    if target is not None:
        done = {**loaded_row(target), "waited": None, "hint": None}
        return sse.stream(_one(sse.frame(done, "done")), on_error=error_frame)
    await routing.ensure_here(state, body.model)
    progress: asyncio.Queue[float | None] = asyncio.Queue()

    async def work() -> tuple[Instance, float | None]:
        try:
            return await _load_one(state.models, body, progress.put_nowait)
        finally:
            progress.put_nowait(None)

    async def frames() -> AsyncGenerator[bytes, None]:
        task = asyncio.create_task(work())
        try:
            while (value := await progress.get()) is not None:
                yield sse.frame({"progress": value}, "progress")
            instance, waited = await task
            hint = (await state.devices.get()).get("hint")
            [shown] = await rows([instance])
            yield sse.frame({**shown, "waited": waited, "hint": hint}, "done")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return sse.stream(frames(), on_error=error_frame)


@router.post("/find")
async def find(request: Request) -> Response:
    """The instance that `load` with these options would come to: a row of `ps`, or None."""
    body = await read(request, _Load)
    found = await state_of(request).models.find(
        body.model, _config(body), identifier=body.identifier
    )
    [shown] = await rows([found]) if found else [None]
    return answer({"found": shown})


@router.post("/estimate")
async def estimate(request: Request) -> Response:
    """What a model would take, with the options of `load`: `lmnb.engine.config.Estimate`, `total`."""
    body = await read(request, _Load)
    await routing.ensure_here(state_of(request), body.model)
    plan = await state_of(request).models.plan(body.model, _config(body))
    options = msgspec.json.encode(plan.config).decode()
    found = await ask("lmnb.engine.estimate", str(plan.entry.path), options, timeout=_PATIENCE)
    error = found.get("error")
    if isinstance(error, dict):
        raise LmnbError.from_dict(error)
    if error is not None:
        raise ModelLoadFailed(f"What {plan.entry.key} would take could not be found out: {error}")
    return answer(found)


@router.post("/identify")
async def identify(request: Request) -> Response:
    """Which model a name means, and all that decides what it answers: `Identity`. Loads nothing."""
    body = await read(request, _Inspect)
    return answer(await identities.identify(state_of(request), body.model))


@router.post("/inspect")
async def inspect(request: Request) -> Response:
    """How a model writes: `lmnb.server.inspecting.Inspected`. Loads nothing."""
    body = await read(request, _Inspect)
    state = state_of(request)
    await routing.ensure_here(state, body.model)
    entry = await state.catalog.resolve(body.model)
    return answer(await inspecting.inspect(entry, state.renderer))


def _config(body: _Load) -> LoadConfig:
    return LoadConfig(**{name: getattr(body, name) for name in LoadConfig.__struct_fields__})


async def _load_one(
    manager: Manager, body: _Load, on_progress: Callable[[float], None]
) -> tuple[Instance, float | None]:
    """The loaded instance, and the seconds that took if it took any."""
    config = _config(body)
    if body.jit:
        async with manager.lease(
            body.model, ttl=body.ttl, options=config, on_progress=on_progress
        ) as lease:
            return lease.instance, lease.load_seconds
    began: float | None = None

    def progress(fraction: float) -> None:
        nonlocal began
        began = began or time.monotonic()
        on_progress(fraction)

    instance = await manager.load(
        body.model,
        config,
        identifier=body.identifier,
        ttl=body.ttl,
        reuse=True,
        on_progress=progress,
    )
    return instance, None if began is None else time.monotonic() - began


@router.post("/unload")
async def unload(request: Request) -> Response:
    """Unload one instance, or with `all` every one; `unloaded` are their ids.

    What they are answering ends with an error, or with `wait` is answered first.
    """
    body = await read(request, _Unload)
    state = state_of(request)
    manager = state.models
    if body.all == (body.instance_id is not None):
        raise InvalidRequest("Give either instance_id or all.", param="instance_id")
    if body.instance_id is None:
        work = manager.unload_all(wait=body.wait)
    else:
        await routing.ensure_here(state, body.instance_id, "instance_id")
        work = _unload_one(manager, body.instance_id, wait=body.wait)
    return answer({"unloaded": sorted(await until_disconnect(request, work))})


async def _unload_one(manager: Manager, instance_id: str, *, wait: bool) -> list[str]:
    return [await manager.unload(instance_id, wait=wait)]


async def _one(frame: bytes) -> AsyncGenerator[bytes, None]:
    yield frame
