"""/v1/files: what batches are made of, and what comes of them (API reference, Files)."""

from __future__ import annotations

import asyncio
import time

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from lmnb.server import uploads
from lmnb.server.errors import MissingParameter
from lmnb.server.files import File, not_found
from lmnb.server.openai import ids
from lmnb.server.openai.errors import InvalidValue
from lmnb.server.openai.paging import Page, newest_first
from lmnb.server.paging import limit
from lmnb.server.reply import reply
from lmnb.server.state import state_of

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_MOST = 10_000
_SHORTEST, _LONGEST = 3600, 2_592_000


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """A file in OpenAI's shape. Times in seconds since the epoch."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str = "processed"
    status_details: str | None = None


async def create(request: Request) -> Response:
    """Keep an uploaded file."""
    files = state_of(request).files
    await asyncio.to_thread(files.forget_expired)
    with files.writing() as draft:
        form = await uploads.read_upload(request, draft)
        now = time.time()
        seconds = _expires(form.fields)
        file = File(
            id=ids.file(),
            purpose=_purpose(form.fields),
            filename=form.filename or "file",
            bytes=draft.size,
            created_at=now,
            expires_at=None if seconds is None else now + seconds,
        )
        await asyncio.to_thread(files.add, draft, file)
    return reply(_shown(file))


async def index(request: Request) -> Response:
    """All files, a page at a time."""
    query = request.query_params
    found, more = await asyncio.to_thread(
        state_of(request).files.page,
        after=query.get("after"),
        limit=limit(query, most=_MOST) or _MOST,
        newest_first=newest_first(query),
        purpose=query.get("purpose"),
    )
    return reply(
        Page(
            data=[_shown(file) for file in found],
            first_id=found[0].id if found else None,
            last_id=found[-1].id if found else None,
            has_more=more,
        )
    )


async def retrieve(request: Request) -> Response:
    """GET /v1/files/{id}."""
    files = state_of(request).files
    return reply(_shown(await asyncio.to_thread(files.find, request.path_params["id"])))


async def content(request: Request) -> Response:
    """GET /v1/files/{id}/content: the bytes as they were uploaded."""
    files = state_of(request).files
    file = await asyncio.to_thread(files.find, request.path_params["id"])
    path = files.path(file.id)
    try:
        found = await asyncio.to_thread(path.stat)
    except FileNotFoundError:
        raise not_found(file.id) from None
    return FileResponse(
        path,
        media_type="application/octet-stream",
        filename=file.filename,
        stat_result=found,
    )


async def delete(request: Request) -> Response:
    """DELETE /v1/files/{id}. Batches need it until they are validated."""
    id_ = request.path_params["id"]
    await asyncio.to_thread(state_of(request).files.delete, id_)
    return reply({"id": id_, "object": "file", "deleted": True})


def expires_after(anchor: object, seconds: object) -> int:
    """The seconds of an `expires_after`.

    Raises
    ------
    InvalidValue
        It counts from something else than the file's creation, or not from 1 hour to 30 days.
    """
    if anchor != "created_at":
        raise InvalidValue(
            f"Invalid value: '{anchor}'. Supported values are: 'created_at'.",
            param="expires_after.anchor",
        )
    text = str(seconds)
    if not text.isascii() or not text.isdigit() or not _SHORTEST <= int(text) <= _LONGEST:
        raise InvalidValue(
            f"Invalid value for 'expires_after.seconds': expected {_SHORTEST} to {_LONGEST}.",
            param="expires_after.seconds",
        )
    return int(text)


def _expires(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    return expires_after(anchor, seconds)


def _purpose(fields: dict[str, str]) -> str:
    purpose = fields.get("purpose")
    if purpose is None:
        raise MissingParameter("Missing required parameter: 'purpose'.", param="purpose")
    if purpose not in PURPOSES:
        words = ", ".join(f"'{name}'" for name in PURPOSES)
        raise InvalidValue(
            f"Invalid value: '{purpose}'. Supported values are: {words}.", param="purpose"
        )
    return purpose


def _shown(file: File) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created_at),
        expires_at=None if file.expires_at is None else int(file.expires_at),
        filename=file.filename,
        purpose=file.purpose,
    )
