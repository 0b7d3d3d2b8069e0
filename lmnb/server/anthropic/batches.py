"""/v1/messages/batches: many messages, answered when there is time (API reference, Batches)."""

from __future__ import annotations

import asyncio
import re
import secrets
from datetime import UTC, datetime
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from lmnb.errors import InvalidRequest, NotFound
from lmnb.server.batches.batch import MAX_LINES, Batch, Line
from lmnb.server.batches.runner import CannotCancel
from lmnb.server.body import read
from lmnb.server.files import Draft
from lmnb.server.paging import limit
from lmnb.server.reply import reply
from lmnb.server.state import state_of

_CUSTOM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NEVER = "9999-12-31T23:59:59Z"
"""Batches do not expire here, but the protocol wants a date."""


class BatchRequest(msgspec.Struct, frozen=True):
    """One message that is asked for; `params` is the body of `POST /v1/messages`."""

    custom_id: str
    params: msgspec.Raw


class BatchBody(msgspec.Struct, frozen=True):
    """POST /v1/messages/batches."""

    requests: list[BatchRequest]


class _Params(msgspec.Struct, frozen=True):
    """What is looked at before a message is asked for."""

    stream: bool | None = None


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests. All are `processing` until the batch has ended."""

    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


class MessageBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch in Anthropic's shape. Times as RFC 3339 has them."""

    id: str
    type: Literal["message_batch"] = "message_batch"
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: RequestCounts
    created_at: str
    ended_at: str | None
    expires_at: str = _NEVER
    cancel_initiated_at: str | None
    archived_at: None = None
    results_url: str | None


class BatchList(msgspec.Struct, frozen=True):
    """A page of batches, newest first."""

    data: list[MessageBatch]
    has_more: bool
    first_id: str | None
    last_id: str | None


async def create(request: Request) -> Response:
    """Take a batch. What is wrong with the params of a request becomes its result."""
    body = await read(request, BatchBody)
    runner, files = state_of(request).batches, state_of(request).files
    batch = Batch(
        id=f"msgbatch_{secrets.token_hex(12)}",
        protocol="anthropic",
        endpoint="/v1/messages",
        status="in_progress",
        total=len(body.requests),
    )
    with files.writing() as draft:
        lines = await asyncio.to_thread(_lines, body.requests, draft)
        await asyncio.to_thread(runner.store.add_lines, batch.id, lines, draft)
    await runner.add(batch)
    return reply(_shown(batch, request))


async def index(request: Request) -> Response:
    """All batches, newest first, a page at a time."""
    query = request.query_params
    found, more = await asyncio.to_thread(
        state_of(request).batches.store.page,
        "anthropic",
        after=query.get("after_id"),
        before=query.get("before_id"),
        limit=limit(query, most=1000) or 20,
    )
    shown = [_shown(batch, request) for batch in found]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return reply(BatchList(shown, more, first, last))


async def retrieve(request: Request) -> Response:
    """GET /v1/messages/batches/{id}."""
    return reply(_shown(await _find(request), request))


async def cancel(request: Request) -> Response:
    """POST /v1/messages/batches/{id}/cancel. What has been answered until now is kept."""
    id_ = request.path_params["id"]
    try:
        batch = await state_of(request).batches.cancel(id_, "anthropic")
    except CannotCancel:
        raise InvalidRequest(f"Message batch {id_} has ended: it cannot be canceled.") from None
    return reply(_shown(batch, request))


async def delete(request: Request) -> Response:
    """DELETE /v1/messages/batches/{id}."""
    batch = await _find(request)
    if batch.is_open:
        raise InvalidRequest(
            f"Message batch {batch.id} has not ended: it cannot be deleted.",
            hint="Cancel it first.",
        )
    await asyncio.to_thread(state_of(request).batches.store.delete, batch.id)
    return reply({"id": batch.id, "type": "message_batch_deleted"})


async def results(request: Request) -> Response:
    """GET /v1/messages/batches/{id}/results: a result a line."""
    batch = await _find(request)
    if batch.is_open or batch.status == "failed":
        raise InvalidRequest(f"Message batch {batch.id} has no results (yet).")
    path = state_of(request).batches.store.written(batch.id)
    try:
        found = await asyncio.to_thread(path.stat)
    except FileNotFoundError:
        raise NotFound(f"The results of message batch {batch.id} were deleted.") from None
    return FileResponse(path, media_type="application/x-jsonl", stat_result=found)


def _lines(requests: list[BatchRequest], draft: Draft) -> list[Line]:
    """Check the requests, and write their bodies down."""
    if not 1 <= len(requests) <= MAX_LINES:
        raise InvalidRequest(f"requests: a batch has 1 to {MAX_LINES} of them.", param="requests")
    lines: list[Line] = []
    seen: set[str] = set()
    for number, one in enumerate(requests):
        where = f"requests.{number}"
        if not _CUSTOM_ID.fullmatch(one.custom_id):
            raise InvalidRequest(
                f"{where}.custom_id: it must have 1 to 64 letters, digits, '_' or '-'.",
                param=f"{where}.custom_id",
            )
        if one.custom_id in seen:
            raise InvalidRequest(
                f"{where}.custom_id: '{one.custom_id}' is not unique in the batch.",
                param=f"{where}.custom_id",
            )
        seen.add(one.custom_id)
        body = bytes(one.params)
        _check_params(body, f"{where}.params")
        lines.append(Line(number, one.custom_id, draft.size, len(body)))
        draft.write(body)
    return lines


def _check_params(body: bytes, where: str) -> None:
    try:
        params = msgspec.json.decode(body, type=_Params)
    except msgspec.ValidationError:
        if body.lstrip()[:1] != b"{":
            raise InvalidRequest(f"{where}: it must be an object.", param=where) from None
        return  # The request will be told what is wrong.
    if params.stream:
        raise InvalidRequest(
            f"{where}.stream: messages of a batch are not streamed.", param=f"{where}.stream"
        )


async def _find(request: Request) -> Batch:
    store = state_of(request).batches.store
    return await asyncio.to_thread(store.find, request.path_params["id"], "anthropic")


def _shown(batch: Batch, request: Request) -> MessageBatch:
    status: Literal["in_progress", "canceling", "ended"] = "in_progress"
    if batch.status == "cancelling":
        status = "canceling"
    elif not batch.is_open:
        status = "ended"
    done = status == "ended"
    there = done and batch.status != "failed"
    return MessageBatch(
        id=batch.id,
        processing_status=status,
        request_counts=_counts(batch) if done else RequestCounts(processing=batch.total),
        created_at=_time(batch.created_at) or "",
        ended_at=_time(batch.ended_at),
        cancel_initiated_at=_time(batch.cancelling_at),
        results_url=f"{request.base_url}v1/messages/batches/{batch.id}/results" if there else None,
    )


def _counts(batch: Batch) -> RequestCounts:
    return RequestCounts(
        succeeded=batch.succeeded,
        errored=batch.failed,
        canceled=batch.total - batch.succeeded - batch.failed,
    )


def _time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
