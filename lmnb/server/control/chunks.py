"""Texts cut into chunks of so many tokens, and tokens counted: for tables, many at once.

Nothing is loaded for it, and nothing that is loaded has to wait: a process with the vocabulary alone
does it and ends with the request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.engine.protocol import ChunkUnit
from lmnb.errors import InvalidRequest, NotSupported
from lmnb.models.entry import ModelEntry
from lmnb.server import sse
from lmnb.server.control.form import error_frame, read
from lmnb.server.identities import entry_of
from lmnb.server.reading import vocabulary
from lmnb.server.remote import routing
from lmnb.server.state import State, state_of

_AT_ONCE = 100_000
"""Characters that the worker is given at once: a few milliseconds' work, after which it tells."""

router = APIRouter()


class _Count(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    texts: list[str]


class _Chunk(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    texts: list[str]
    size: Annotated[int, msgspec.Meta(ge=1)]
    overlap: Annotated[int, msgspec.Meta(ge=0)] = 0
    unit: ChunkUnit = "tokens"


@router.post("/chunks")
async def chunks(request: Request) -> Response:
    """Cut `texts` into chunks of at most `size` of the model's tokens, or characters.

    Events `chunks`: `{"first", "spans"}`, for each text from number `first` on its chunks, each
    `[start, end, tokens]`; then `done`.
    """
    body = await read(request, _Chunk)
    if body.overlap >= body.size:
        raise InvalidRequest(
            f"overlap ({body.overlap}) must be less than size ({body.size}).", param="overlap"
        )
    entry = await _entry(state_of(request), body.model)

    async def frames() -> AsyncGenerator[bytes, None]:
        async with vocabulary(entry) as worker:
            for first, some in _groups(body.texts):
                spans = await worker.chunk(some, body.size, overlap=body.overlap, unit=body.unit)
                yield sse.frame({"first": first, "spans": spans}, "chunks")
        yield sse.frame({}, "done")

    return sse.stream(frames(), on_error=error_frame)


@router.post("/counts")
async def counts(request: Request) -> Response:
    """Count the tokens of `texts`. Events `counts`: `{"first", "tokens"}`; then `done`."""
    body = await read(request, _Count)
    entry = await _entry(state_of(request), body.model)

    async def frames() -> AsyncGenerator[bytes, None]:
        async with vocabulary(entry) as worker:
            for first, some in _groups(body.texts):
                tokens = await worker.count(some)
                yield sse.frame({"first": first, "tokens": tokens}, "counts")
        yield sse.frame({}, "done")

    return sse.stream(frames(), on_error=error_frame)


async def _entry(state: State, model: str) -> ModelEntry:
    if await routing.find(state, model) is not None:
        raise NotSupported(
            f"{model} is on another server, which does not lend its tokenizer.",
            hint="Name a model of this machine.",
            param="model",
        )
    entry, _ = await entry_of(state, model)
    return entry


def _groups(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Texts of about `_AT_ONCE` characters together, and the number of the first."""
    first = size = 0
    for number, text in enumerate(texts):
        if number > first and size + len(text) > _AT_ONCE:
            yield first, texts[first:number]
            first, size = number, 0
        size += len(text)
    if first < len(texts):
        yield first, texts[first:]
