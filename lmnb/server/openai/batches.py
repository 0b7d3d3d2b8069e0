"""/v1/batches: uploaded requests, answered when there is time (API reference, Batch)."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lmnb.server.batches.batch import Batch, LineError, Status
from lmnb.server.openai import body as bodies
from lmnb.server.openai import ids
from lmnb.server.openai.body import Fields, Int
from lmnb.server.openai.errors import InvalidValue
from lmnb.server.openai.files import expires_after
from lmnb.server.openai.metadata import Metadata
from lmnb.server.openai.paging import Page
from lmnb.server.paging import limit
from lmnb.server.reply import reply
from lmnb.server.state import state_of

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/rerank",
)
WINDOW = "24h"
"""The one completion window of OpenAI's API. It means nothing here: batches do not expire."""


class ExpiresAfter(Fields):
    """When the files with the results expire, counted from their creation."""

    anchor: str
    seconds: Int


class BatchBody(Fields):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None

    def checked_endpoint(self) -> str:
        """The endpoint; `InvalidValue` if batches cannot be for it, or have another window."""
        for name, value, known in (
            ("endpoint", self.endpoint, ENDPOINTS),
            ("completion_window", self.completion_window, (WINDOW,)),
        ):
            if value not in known:
                words = ", ".join(f"'{one}'" for one in known)
                raise InvalidValue(
                    f"Invalid value: '{value}'. Supported values are: {words}.", param=name
                )
        return self.endpoint

    def expiry(self) -> int | None:
        """Seconds after which the files with the results expire."""
        expires = self.output_expires_after
        return None if expires is None else expires_after(expires.anchor, expires.seconds)


class BatchError(msgspec.Struct, frozen=True):
    """What is wrong with a line of the uploaded file."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch has failed."""

    object: str = "list"
    data: list[BatchError]


class RequestCounts(msgspec.Struct, frozen=True):
    """Requests that have been answered, and all."""

    total: int
    completed: int
    failed: int


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """A batch in OpenAI's shape. Times in seconds since the epoch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str = WINDOW
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None = None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None = None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: dict[str, Any] | None
    metadata: dict[str, str] | None


async def create(request: Request) -> Response:
    """Take a batch. Whether its file can be used is found out in the background."""
    body = await bodies.read(request, BatchBody)
    batch = Batch(
        id=ids.batch(),
        protocol="openai",
        endpoint=body.checked_endpoint(),
        status="validating",
        input_file=body.input_file_id,
        metadata=body.metadata,
        output_expires=body.expiry(),
    )
    await state_of(request).batches.add(batch)
    return reply(_shown(batch))


async def index(request: Request) -> Response:
    """All batches, newest first, a page at a time."""
    query = request.query_params
    found, more = await asyncio.to_thread(
        state_of(request).batches.store.page,
        "openai",
        after=query.get("after"),
        limit=limit(query, most=100) or 20,
    )
    return reply(
        Page(
            data=[_shown(batch) for batch in found],
            first_id=found[0].id if found else None,
            last_id=found[-1].id if found else None,
            has_more=more,
        )
    )


async def retrieve(request: Request) -> Response:
    """GET /v1/batches/{id}."""
    store = state_of(request).batches.store
    return reply(_shown(await asyncio.to_thread(store.find, request.path_params["id"], "openai")))


async def cancel(request: Request) -> Response:
    """POST /v1/batches/{id}/cancel. What has been answered until now is kept."""
    return reply(
        _shown(await state_of(request).batches.cancel(request.path_params["id"], "openai"))
    )


def _shown(batch: Batch) -> BatchObject:
    ended = _seconds(batch.ended_at)
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        errors=BatchErrors(data=[_error(one) for one in batch.errors]) if batch.errors else None,
        input_file_id=batch.input_file or "",
        status=batch.status,
        output_file_id=batch.output_file,
        error_file_id=batch.error_file,
        created_at=int(batch.created_at),
        in_progress_at=_seconds(batch.in_progress_at),
        finalizing_at=_seconds(batch.finalizing_at),
        completed_at=ended if batch.status == "completed" else None,
        failed_at=ended if batch.status == "failed" else None,
        cancelling_at=_seconds(batch.cancelling_at),
        cancelled_at=ended if batch.status == "cancelled" else None,
        request_counts=RequestCounts(batch.total, batch.succeeded, batch.failed),
        usage=None if batch.is_open else _usage(batch),
        metadata=batch.metadata,
    )


def _usage(batch: Batch) -> dict[str, Any]:
    used = batch.usage
    return {
        "input_tokens": used.input,
        "input_tokens_details": {"cached_tokens": used.cached},
        "output_tokens": used.output,
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.input + used.output,
    }


def _error(error: LineError) -> BatchError:
    return BatchError(error.code, error.line, error.message, error.param)


def _seconds(at: float | None) -> int | None:
    return None if at is None else int(at)
