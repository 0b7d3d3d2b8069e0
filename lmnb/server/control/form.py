"""Bodies of requests and answers of the control routes, and rows that several of them show."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lmnb.errors import InvalidRequest, LmnbError
from lmnb.models.instance import Instance
from lmnb.server import sse
from lmnb.server.reply import reply

T = TypeVar("T")

_PATIENCE = 1.0
"""Seconds. A worker answers at once, also within a forward pass, unless the machine is stuck."""


async def read(request: Request, kind: type[T]) -> T:
    """The body as a `kind`; no body is an empty one.

    Raises
    ------
    InvalidRequest
        It is none.
    """
    content = await request.body()
    try:
        return msgspec.json.decode(content or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The request cannot be understood: {error}.") from None


def number(request: Request, name: str, default: int) -> int:
    """The number that the query has under `name`.

    Raises
    ------
    InvalidRequest
        It is none.
    """
    given = request.query_params.get(name, str(default))
    if not given.isdecimal():
        raise InvalidRequest(f"{name} must be a number, not {given!r}.", param=name)
    return int(given)


def answer(data: Any) -> Response:
    """`data` as JSON."""
    return reply(data, encode=encode)


def encode(value: Any) -> str:
    """Paths, which JSON lacks."""
    return str(value)


def error_frame(error: LmnbError) -> bytes:
    """The event that ends a stream because of `error`."""
    return sse.frame(error.to_dict(), "error")


async def rows(instances: Iterable[Instance]) -> list[dict[str, Any]]:
    """Instances as `ps` shows them, as they are at the call, with what their workers say then."""
    known = [(row(instance), instance) for instance in instances]
    told = await asyncio.gather(*(_queue(instance) for _, instance in known))
    return [shown | now for (shown, _), now in zip(known, told, strict=True)]


async def _queue(instance: Instance) -> dict[str, Any]:
    """The requests that are computed and that wait; None if it does not say in time."""
    with contextlib.suppress(TimeoutError, LmnbError):
        async with asyncio.timeout(_PATIENCE):
            pong = await instance.worker.ping()
        return {
            "running": pong.running,
            "waiting": pong.waiting,
            "cache_tokens": pong.cache_tokens,
        }
    return {"running": None, "waiting": None, "cache_tokens": None}


def row(instance: Instance) -> dict[str, Any]:
    """An instance as it is known here. Times in seconds, `memory` in bytes."""
    info = instance.worker.info
    return {
        "id": instance.id,
        "model": instance.entry.key,
        "kind": instance.entry.kind,
        "reranks": instance.entry.reranks,
        "state": instance.state,
        "jit": instance.jit,
        "active": instance.active,
        "ttl": instance.ttl,
        "ttl_left": instance.ttl_left,
        "context_length": info.context_length,
        "memory": instance.worker.memory,
        "device": info.device,
        "gpu_layers": info.gpu_layers,
        "layers": info.layers,
        "load_seconds": instance.load_seconds,
        "warnings": instance.warnings,
    }
