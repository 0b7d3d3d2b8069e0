"""POST /api/v1/models/download and GET …/download/status/{job_id}."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmnb.models.events import Done, Progress, Started
from lmnb.server.disconnect import until_disconnect
from lmnb.server.downloads import Downloads, Job
from lmnb.server.lmstudio.reading import read
from lmnb.server.lmstudio.schema import DownloadBody
from lmnb.server.reply import reply
from lmnb.server.state import state_of

_PATIENCE = 15.0
"""Seconds until an answer is given although it is not known yet what there is to fetch."""


async def create(request: Request) -> Response:
    """Begin to fetch a model, or join a download of it. It goes on when the client has left."""
    body = await read(request, DownloadBody)
    downloads = state_of(request).downloads
    job = await downloads.start(body.model, body.quantization, detached=True)
    await until_disconnect(request, _begun(downloads, job))
    if job.status == "completed" and job.was_here:
        return reply({"status": "already_downloaded"})
    answer = _described(job)
    return reply({name: answer[name] for name in _ANSWER if name in answer})


async def status(request: Request) -> Response:
    """How a download is getting on."""
    return reply(_described(state_of(request).downloads.find(request.path_params["job_id"])))


_KNOWN = (Started, Progress)
_ANSWER = ("job_id", "status", "total_size_bytes", "started_at", "completed_at")


async def _begun(downloads: Downloads, job: Job) -> None:
    """Wait until it is known what there is to fetch, or that nothing is. Errors are raised."""
    try:
        async with asyncio.timeout(_PATIENCE), aclosing(downloads.follow(job)) as events:
            async for event in events:
                known = isinstance(event, _KNOWN) and not job.was_here
                if isinstance(event, Done) or known or job.is_waiting:
                    return
    except TimeoutError:
        return


def _described(job: Job) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "job_id": job.id,
        "status": job.status,
        "total_size_bytes": job.total,
        "downloaded_bytes": job.done,
        "started_at": _time(job.started_at),
    }
    if job.completed_at is not None:
        fields["completed_at"] = _time(job.completed_at)
    if job.status == "downloading":
        fields["bytes_per_second"] = job.bytes_per_second or 0.0
        if job.eta_seconds is not None:
            now = datetime.now(UTC).timestamp()
            fields["estimated_completion"] = _time(now + job.eta_seconds)
    if job.error is not None:
        fields["error"] = {"message": job.error["message"]}
    return {name: value for name, value in fields.items() if value is not None}


def _time(seconds: float) -> str:
    """ISO 8601 in UTC, with milliseconds."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
