"""Bodies of requests and answers of the control routes, and rows that several of them show."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lmnb.errors import InvalidRequest
from lmnb.models.instance import Instance

T = TypeVar("T")


async def read(request: Request, kind: type[T]) -> T:
    content = await request.body()
    try:
        return msgspec.json.decode(content or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The request cannot be understood: {error}.") from None


def answer(data: Any) -> Response:
    return Response(msgspec.json.encode(data, enc_hook=encode), media_type="application/json")


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
