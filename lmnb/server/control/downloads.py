"""Downloads: which there are, and what becomes of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.errors import InvalidRequest
from lmnb.server import sse
from lmnb.server.control.form import answer, encode, error_frame, read
from lmnb.server.downloads import Downloads, Job
from lmnb.server.state import state_of

router = APIRouter()


class _Get(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None
    quantization: str | None = None


@router.post("/get")
async def get(request: Request) -> Response:
    """Fetch a model. Events `started`, `progress`, `note`, `done`, as in `lmnb.models.events`.

    Leaving the stream pauses the download, unless somebody else follows it or it was begun through
    LM Studio's API.
    """
    body = await read(request, _Get)
    downloads = state_of(request).downloads

    async def frames() -> AsyncGenerator[bytes, None]:
        job = await downloads.start(body.model, body.quantization, detached=False)
        async with aclosing(_followed(downloads, job)) as found:
            async for frame in found:
                yield frame

    return sse.stream(frames(), on_error=error_frame)


@router.get("/downloads")
async def index(request: Request) -> Response:
    """All of the last month, oldest first: `{"downloads": [lmnb.server.downloads.Job]}`."""
    return answer({"downloads": state_of(request).downloads.all()})


@router.post("/downloads")
async def begin(request: Request) -> Response:
    """Fetch a model, whoever follows it. The job: a new one, or the one that does so already."""
    body = await read(request, _Get)
    downloads = state_of(request).downloads
    return answer(await downloads.start(body.model, body.quantization, detached=True))


@router.get("/downloads/{name:path}/events")
async def follow(request: Request, name: str) -> Response:
    """The events of one, as of `get`. `name` is its id or, if it is the only one, its model."""
    downloads = state_of(request).downloads
    job = downloads.named(name)
    if job.status != "downloading":
        raise InvalidRequest(
            f"The download of {job.model} is not running: it is {job.status}.",
            hint=f"`lmnb downloads resume {job.id}` goes on with one that is paused or has failed.",
        )
    return sse.stream(_followed(downloads, job), on_error=error_frame)


@router.post("/downloads/{name:path}/pause")
async def pause(request: Request, name: str) -> Response:
    """Stop one for now; what has arrived is kept. The job."""
    downloads = state_of(request).downloads
    return answer(await downloads.pause(downloads.named(name).id))


@router.post("/downloads/{name:path}/resume")
async def resume(request: Request, name: str) -> Response:
    """Go on with one, whoever follows it. The job."""
    downloads = state_of(request).downloads
    job = downloads.named(name)
    job.is_detached = True
    return answer(await downloads.resume(job.id))


@router.post("/downloads/{name:path}/cancel")
async def cancel(request: Request, name: str) -> Response:
    """Stop one and forget it. The job as it was."""
    downloads = state_of(request).downloads
    return answer(await downloads.cancel(downloads.named(name).id))


async def _followed(downloads: Downloads, job: Job) -> AsyncGenerator[bytes, None]:
    async with aclosing(downloads.follow(job)) as events:
        async for event in events:
            data = msgspec.to_builtins(event, enc_hook=encode)
            yield sse.frame(data, data["type"])
