"""Models made into GGUF."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.models.converting import convert, target_of
from lmnb.server import sse
from lmnb.server.control.form import encode, error_frame, read
from lmnb.server.state import state_of

router = APIRouter()


class _Convert(msgspec.Struct, forbid_unknown_fields=True):
    folder: str
    name: str | None = None
    file_type: str = "F16"


@router.post("/convert")
async def converted(request: Request) -> Response:
    """Make a GGUF of the BERT-type model in `folder`. Events `progress` (`{"progress": 0 to 1}`), `done`.

    `done` has `{key, path, size_bytes}`. Leaving the stream ends the conversion without a trace.
    """
    body = await read(request, _Convert)
    state, folder = state_of(request), Path(body.folder)

    async def frames() -> AsyncGenerator[bytes, None]:
        target = target_of(state.home, folder, body.name, body.file_type)
        work = convert(state.home, folder, name=body.name, file_type=body.file_type)
        async with aclosing(work) as fractions:
            async for fraction in fractions:
                yield sse.frame({"progress": fraction}, "progress")
        entry = await state.catalog.resolve(str(target))
        done = {"key": entry.key, "path": target, "size_bytes": entry.size_bytes}
        yield sse.frame(msgspec.to_builtins(done, enc_hook=encode), "done")

    return sse.stream(frames(), on_error=error_frame)
