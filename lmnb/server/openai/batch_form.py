"""OpenAI's way with batches: requests come from an uploaded file, answers go into two."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from lmnb.errors import InvalidModel, LmnbError, ModelNotFound, NotFound
from lmnb.server.batches.batch import (
    Answer,
    Batch,
    Checked,
    Drafts,
    LineError,
    Result,
    Usage,
    Written,
)
from lmnb.server.files import Draft, File
from lmnb.server.openai import ids
from lmnb.server.openai.batch_input import BatchInput, read_input
from lmnb.server.remote import routing
from lmnb.server.sse import one_line
from lmnb.server.state import State

_CANCELLED = {
    "code": "batch_cancelled",
    "message": "The batch was cancelled before this request had an answer.",
}


class _Response(msgspec.Struct, frozen=True):
    """What a request was answered with."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class _OutputLine(msgspec.Struct, frozen=True):
    """A line of the output or error file (API reference, "The request output object")."""

    id: str
    custom_id: str
    response: _Response | None
    error: dict[str, str] | None


class OpenAIForm:
    """Reads and writes the files of OpenAI's batches."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def check(self, batch: Batch, requests: Draft) -> Checked:
        """Read the uploaded file, and see that there are the models it names."""
        files = self._state.files
        id_ = batch.input_file or ""
        try:
            file = await asyncio.to_thread(files.find, id_)
        except NotFound:
            return _refused(f"Cannot find file {id_}.")
        if file.purpose != "batch":
            return _refused(f"File {id_} was uploaded for '{file.purpose}', not for 'batch'.")
        found = await asyncio.to_thread(read_input, files.path(id_), batch.endpoint, requests)
        await self._check_models(found)
        return found.checked()

    async def _check_models(self, found: BatchInput) -> None:
        loaded = {instance.id.casefold() for instance in self._state.models.loaded()}
        for name, lines in found.models.items():
            if name.strip().casefold() in loaded:
                continue
            try:
                if await routing.find(self._state, name) is None:
                    await self._state.catalog.resolve(name)
            except (ModelNotFound, InvalidModel) as error:
                for line in lines:
                    found.refuse(_no_model(error, line))
            if found.is_refused:  # folders are looked through for every name that is unknown
                return

    def write(self, batch: Batch, results: Iterator[Result], drafts: Drafts) -> Written:
        """The answers in one file, errors and what was cancelled in another, each if there are any."""
        output, errors = drafts(), drafts()
        usage = Usage()
        for result in results:
            answer = result.answer
            good = answer is not None and answer.status == 200
            (output if good else errors).write(_line(result.custom_id, answer))
            if good and answer is not None:
                usage = usage.plus(_used(answer))
        written: list[tuple[Draft, File]] = []
        changes: dict[str, Any] = {"usage": usage}
        for draft, name in ((output, "output"), (errors, "error")):
            if draft.size:
                file = _file(batch, name, draft)
                written.append((draft, file))
                changes[f"{name}_file"] = file.id
        return Written(changes=changes, files=tuple(written))


def _refused(message: str) -> Checked:
    return Checked(errors=(LineError(code="invalid_request", message=message, param="file_id"),))


def _no_model(error: LmnbError, line: int) -> LineError:
    return LineError(code=error.code, message=str(error), param="body.model", line=line)


def _line(custom_id: str, answer: Answer | None) -> bytes:
    id_ = ids.batch_request()
    if answer is None:
        line = _OutputLine(id_, custom_id, None, _CANCELLED)
    else:
        response = _Response(answer.status, answer.request_id, msgspec.Raw(answer.body))
        line = _OutputLine(id_, custom_id, response, None)
    return one_line(msgspec.json.encode(line)) + b"\n"


def _file(batch: Batch, name: str, draft: Draft) -> File:
    now = time.time()
    return File(
        id=ids.file(),
        purpose="batch_output",
        filename=f"{batch.id}_{name}.jsonl",
        bytes=draft.size,
        created_at=now,
        expires_at=None if batch.output_expires is None else now + batch.output_expires,
    )


class _Counts(msgspec.Struct, frozen=True):
    """An answer's usage, in the words of any endpoint."""

    input_tokens: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens_details: dict[str, Any] | None = None
    prompt_tokens_details: dict[str, Any] | None = None
    output_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None


class _Used(msgspec.Struct, frozen=True):
    usage: _Counts | None = None


def _used(answer: Answer) -> Usage:
    counts = msgspec.json.decode(answer.body, type=_Used).usage or _Counts()
    read = counts.input_tokens_details or counts.prompt_tokens_details or {}
    written = counts.output_tokens_details or counts.completion_tokens_details or {}
    return Usage(
        input=counts.input_tokens or counts.prompt_tokens or 0,
        cached=read.get("cached_tokens") or 0,
        output=counts.output_tokens or counts.completion_tokens or 0,
        reasoning=written.get("reasoning_tokens") or 0,
    )
