"""`/lmnb/*`, on the private socket only: what magics, widgets and the command line use.

Answers are JSON. Errors are `{"error": LmnbError.to_dict()}`, which the client turns back into the
same exception. What takes long answers with server-sent events, the last of them `done` or `error`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb import logs
from lmnb.config import WHEN_LISTENING, change_setting, describe
from lmnb.engine.protocol import LoadConfig
from lmnb.errors import InvalidRequest, LmnbError, ModelLoadFailed
from lmnb.models.instance import Instance
from lmnb.models.instances import Manager
from lmnb.runtime import log_path
from lmnb.server import inspecting, sse
from lmnb.server.asking import ask
from lmnb.server.mcp.listing import listing
from lmnb.server.state import state_of
from lmnb.server.tokens import USUAL

QUIET = frozenset({"/lmnb/handshake", "/lmnb/shutdown"})
"""Paths that ask about the server itself; see `lmnb.server.tracking`."""

_PATIENCE = 120.0
"""Seconds an estimate may take: it reads the vocabulary, perhaps off a slow disk."""

router = APIRouter(prefix="/lmnb")

T = TypeVar("T")


class _Shutdown(msgspec.Struct, forbid_unknown_fields=True):
    if_idle: bool = False


class _Get(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None
    quantization: str | None = None


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


class _Listen(msgspec.Struct, forbid_unknown_fields=True):
    host: str | None = None
    port: int | None = None
    require_auth: bool | None = None
    allow_open: bool = False


class _ChangedSetting(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    value: Any


class _NewToken(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    permissions: list[str] | None = None


class _EditedToken(msgspec.Struct, forbid_unknown_fields=True):
    new_name: str | None = None
    permissions: list[str] | None = None


# --- the server ---------------------------------------------------------------


@router.get("/handshake")
async def handshake(request: Request) -> Response:
    """Which server this is, and whether it could be replaced without anybody noticing."""
    state = state_of(request)
    return _json(
        {
            **state.identity,
            "pid": os.getpid(),
            "busy": state.busy,
            "loaded": [instance.id for instance in state.models.loaded()],
            "listening": state.tcp.info.url if state.tcp.info else None,
        }
    )


@router.post("/shutdown")
async def shutdown(request: Request) -> Response:
    """End the server; with `if_idle` only if nothing is loaded, running or listening."""
    body = await _body(request, _Shutdown)
    state = state_of(request)
    stopping = not (body.if_idle and state.busy)
    if stopping:
        state.stopping.set()
    return _json({"stopping": stopping})


@router.get("/status")
async def status(request: Request) -> Response:
    """Everything at a glance: server, devices, listener, loaded models."""
    state = state_of(request)
    return _json(
        {
            "server": {
                **state.identity,
                "pid": os.getpid(),
                "home": str(state.home),
                "uptime": time.time() - state.started_at,
                "log": str(log_path(state.home)),
            },
            "device": await state.devices.get(),
            "listener": state.tcp.info,
            "loaded": [_row(instance) for instance in state.models.loaded()],
        }
    )


@router.get("/log")
async def log(request: Request) -> Response:
    """The last `lines` (100) lines of the server's log."""
    given = request.query_params.get("lines", "100")
    if not given.isdecimal():
        raise InvalidRequest(f"lines must be a number, not {given!r}.", param="lines")
    path = log_path(state_of(request).home)
    return _json({"lines": await asyncio.to_thread(logs.tail, path, int(given))})


# --- models -------------------------------------------------------------------


@router.get("/models")
async def models(request: Request) -> Response:
    """The models on the disk, and under which ids they are loaded."""
    state = state_of(request)
    loaded = [(instance.entry.key, instance.id) for instance in state.models.loaded()]
    rows = []
    for entry in await state.catalog.entries():
        row = msgspec.to_builtins(entry, enc_hook=_encode)
        row["loaded"] = [identifier for key, identifier in loaded if key == entry.key]
        rows.append(row)
    return _json({"models": rows})


@router.get("/ps")
async def ps(request: Request) -> Response:
    """The loaded models, the loads in progress, and what is not loaded after crashes."""
    manager = state_of(request).models
    return _json(
        {
            "loaded": [_row(instance) for instance in manager.loaded()],
            "loading": [
                {"id": load.id, "model": load.entry.key, "progress": load.progress}
                for load in manager.loading()
            ],
            "resting": [
                {
                    "model": row.entry.key,
                    "crashes": row.count,
                    "seconds_left": left,
                    "cause": row.error.message,
                }
                for row, left in manager.crashes.resting()
            ],
        }
    )


@router.post("/get")
async def get(request: Request) -> Response:
    """Fetch a model. Events `started`, `progress`, `note`, `done`, as in `lmnb.models.events`.

    Leaving the stream pauses the download, unless somebody else follows it or it was begun through
    LM Studio's API.
    """
    body = await _body(request, _Get)
    state = state_of(request)

    async def frames() -> AsyncGenerator[bytes, None]:
        job = await state.downloads.start(body.model, body.quantization, detached=False)
        async with aclosing(state.downloads.follow(job)) as events:
            async for event in events:
                data = msgspec.to_builtins(event, enc_hook=_encode)
                yield sse.frame(data, data["type"])

    return sse.stream(frames(), on_error=_error_frame)


@router.post("/load")
async def load(request: Request) -> Response:
    """Load a model. Events `progress` (`{"progress": 0 to 1}`) and `done`.

    `done` is a row of `ps` and `hint`: what to install if the model does not use the GPU there is.
    With `jit` it is loaded the way a request to a language model would load it, if it has to be;
    so the user can be shown the load before the request. `waited` of `done` is the seconds that
    took, None if the model was there already. Leaving the stream cancels the load.
    """
    body = await _body(request, _Load)
    state = state_of(request)
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
            yield sse.frame({**_row(instance), "waited": waited, "hint": hint}, "done")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return sse.stream(frames(), on_error=_error_frame)


@router.post("/estimate")
async def estimate(request: Request) -> Response:
    """What a model would take, with the options of `load`: `lmnb.engine.protocol.Estimate`, `total`."""
    body = await _body(request, _Load)
    plan = await state_of(request).models.plan(body.model, _config(body))
    options = msgspec.json.encode(plan.config).decode()
    answer = await ask("lmnb.engine.estimate", str(plan.entry.path), options, timeout=_PATIENCE)
    error = answer.get("error")
    if isinstance(error, dict):
        raise LmnbError.from_dict(error)
    if error is not None:
        raise ModelLoadFailed(f"What {plan.entry.key} would take could not be found out: {error}")
    return _json(answer)


@router.post("/inspect")
async def inspect(request: Request) -> Response:
    """How a model writes: `lmnb.server.inspecting.Inspected`. Loads nothing."""
    body = await _body(request, _Inspect)
    state = state_of(request)
    entry = await state.catalog.resolve(body.model)
    return _json(await inspecting.inspect(entry, state.renderer))


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
    instance = await manager.load(
        body.model, config, identifier=body.identifier, ttl=body.ttl, on_progress=on_progress
    )
    return instance, instance.load_seconds


@router.post("/unload")
async def unload(request: Request) -> Response:
    """Unload one instance, or with `all` every one."""
    body = await _body(request, _Unload)
    manager = state_of(request).models
    if body.all == (body.instance_id is not None):
        raise InvalidRequest("Give either instance_id or all.", param="instance_id")
    before = {instance.id for instance in manager.loaded()}
    if body.instance_id is None:
        await manager.unload_all()
    else:
        await manager.unload(body.instance_id)
    after = {instance.id for instance in manager.loaded()}
    return _json({"unloaded": sorted(before - after)})


# --- listener and tokens ------------------------------------------------------


@router.post("/listener")
async def listen(request: Request) -> Response:
    """Open the TCP listener. `opened` is false if it was open already."""
    body = await _body(request, _Listen)
    state = state_of(request)
    info, opened = await state.tcp.open(
        body.host, body.port, require_auth=body.require_auth, allow_open=body.allow_open
    )
    warnings = []
    if info.require_auth and not len(state.tokens):
        warnings.append("There is no API token yet; `lmnb token create NAME` makes one.")
    return _json({**msgspec.to_builtins(info), "opened": opened, "warnings": warnings})


@router.delete("/listener")
async def stop_listening(request: Request) -> Response:
    """Close the TCP listener and end its streams. Models stay loaded."""
    return _json({"closed": await state_of(request).tcp.close()})


@router.get("/tokens")
async def tokens(request: Request) -> Response:
    """The API tokens, without their secrets."""
    return _json({"tokens": state_of(request).tokens.all()})


@router.post("/tokens")
async def create_token(request: Request) -> Response:
    """A new API token. `token` is its secret text, said this once."""
    body = await _body(request, _NewToken)
    tokens = state_of(request).tokens
    permissions = USUAL if body.permissions is None else body.permissions
    token, text = await asyncio.to_thread(tokens.create, body.name, permissions)
    return _json({**msgspec.to_builtins(token), "token": text})


@router.patch("/tokens")
async def edit_token(request: Request) -> Response:
    """Change name or permissions of the token that `?name=` names, by name or id."""
    body = await _body(request, _EditedToken)
    name = request.query_params.get("name", "")
    edit = partial(state_of(request).tokens.edit, new_name=body.new_name)
    return _json(await asyncio.to_thread(edit, name, permissions=body.permissions))


@router.delete("/tokens")
async def remove_token(request: Request) -> Response:
    """Remove the token that `?name=` names, by name or id."""
    name = request.query_params.get("name", "")
    return _json(await asyncio.to_thread(state_of(request).tokens.remove, name))


@router.get("/mcp")
async def mcp(request: Request) -> Response:
    """The servers of `mcp.json` with their tools: `{"servers": [lmnb.server.mcp.listing.Listed]}`."""
    state = state_of(request)
    return _json({"servers": await listing(state.home, state.mcp)})


# --- settings -----------------------------------------------------------------


@router.get("/settings")
async def settings(request: Request) -> Response:
    """All settings: `{"settings": [lmnb.config.Setting]}`."""
    return _json({"settings": await asyncio.to_thread(describe, state_of(request).settings)})


@router.patch("/settings")
async def edit_setting(request: Request) -> Response:
    """Set `name` to `value` (null: the default). `warnings` says if a port is open that keeps it."""
    body = await _body(request, _ChangedSetting)
    state = state_of(request)
    await asyncio.to_thread(change_setting, state.settings, body.name, body.value)
    warnings = []
    if state.tcp.info and body.name in WHEN_LISTENING:
        warnings.append(f"{state.tcp.info.url} stays as it is until it is closed.")
    rows = await asyncio.to_thread(describe, state.settings)
    changed = next(row for row in rows if row.name == body.name)
    return _json({**msgspec.to_builtins(changed), "warnings": warnings})


# --- helpers ------------------------------------------------------------------


def _row(instance: Instance) -> dict[str, Any]:
    """An instance as `ps` shows it. Times in seconds, `memory` in bytes."""
    info = instance.worker.info
    return {
        "id": instance.id,
        "model": instance.entry.key,
        "kind": instance.entry.kind,
        "state": instance.state,
        "jit": instance.jit,
        "active": instance.active,
        "ttl": instance.ttl,
        "ttl_left": instance.ttl_left,
        "context_length": info.context_length,
        "memory": info.memory,
        "device": info.device,
        "gpu_layers": info.gpu_layers,
        "layers": info.layers,
        "load_seconds": instance.load_seconds,
        "warnings": instance.warnings,
    }


def _error_frame(error: LmnbError) -> bytes:
    return sse.frame(error.to_dict(), "error")


async def _body(request: Request, kind: type[T]) -> T:
    content = await request.body()
    try:
        return msgspec.json.decode(content or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The request cannot be understood: {error}.") from None


def _json(data: Any) -> Response:
    return Response(msgspec.json.encode(data, enc_hook=_encode), media_type="application/json")


def _encode(value: Any) -> str:
    """Paths, which JSON lacks."""
    return str(value)
