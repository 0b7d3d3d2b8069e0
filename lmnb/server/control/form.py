"""Bodies of requests and answers of the control routes, and rows that several of them show."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lmnb.errors import InvalidRequest
from lmnb.models.instance import Instance
from lmnb.server.reply import reply

T = TypeVar("T")


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


def answer(data: Any) -> Response:
    """`data` as JSON."""
    return reply(data, encode=encode)


def encode(value: Any) -> str:
    """Paths, which JSON lacks."""
    return str(value)


def row(instance: Instance) -> dict[str, Any]:
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
