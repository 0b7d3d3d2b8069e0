"""Fetches one file over HTTP so that an interrupted download goes on where it stopped.

Written by hand because huggingface_hub 2 gives every attempt a new temporary file and removes it
when the attempt fails, so that nothing is left to resume, and reports in steps of 10 MB.

What has arrived lies in `<file>.part`; `<file>.part.json` says of what. The file gets its name when
it is whole, has the right digest and the header of a GGUF.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import httpx2
import msgspec

from lmnb.engine.gguf import read_header
from lmnb.errors import (
    ChecksumMismatch,
    DownloadFailed,
    InvalidModel,
    LmnbError,
    NoNetwork,
)
from lmnb.models.entry import format_bytes
from lmnb.models.events import DownloadEvent, Meter, Note
from lmnb.models.record import Record, write_record
from lmnb.models.sources.files import Digest, Job, check_space, disk_errors, hash_into

BACKOFF = 1.0  # Seconds; doubled with each failure.
ATTEMPTS = 5  # In a row without a single new byte.
_TIMEOUT = httpx2.Timeout(30.0, connect=15.0)
_RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_FLUSH_BYTES = 1 << 20
_REPORT_SECONDS = 0.25
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file to fetch. `size` and `sha256` as far as they are known beforehand.

    `refuse` turns a response with an error status into the error to raise; `describe` makes the
    record of the file from its digest.
    """

    url: str
    target: Path
    refuse: Callable[[httpx2.Response], LmnbError]
    describe: Callable[[str], Record]
    size: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class _State(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Which version of the file the partial one is a part of."""

    url: str
    sha256: str | None = None
    etag: str | None = None
    size: int | None = None


class _Interrupted(Exception):
    """The transfer stopped for a reason that may pass."""


class Transfer:
    """The fetching of one file. `done` counts its bytes on the disk."""

    def __init__(self, client: httpx2.AsyncClient, remote: Remote) -> None:
        self.remote = remote
        self.done = 0
        self._client = client
        self._digest: Digest = hashlib.sha256()
        self._part = remote.target.with_name(remote.target.name + ".part")
        self._state_path = self._part.with_name(self._part.name + ".json")
        self._state = _State(url=remote.url, sha256=remote.sha256, size=remote.size)

    @property
    def resumable(self) -> int:
        """Bytes that an earlier attempt left and that can be used."""
        return self._part.stat().st_size if self._matches_earlier() else 0

    @property
    def sha256(self) -> str:
        """The digest of what has arrived."""
        return self._digest.hexdigest()

    async def run(self, meter: Meter, before: int) -> AsyncGenerator[DownloadEvent, None]:
        """Fetch the file. `before`: bytes of other files that `meter` counts already."""
        self._part.parent.mkdir(parents=True, exist_ok=True)
        resumes = self._matches_earlier()
        with disk_errors(self._part.parent), self._part.open("ab") as file:
            self._lock(file)
            try:
                if resumes:
                    async with aclosing(self._reread(meter, before)) as events:
                        async for event in events:
                            yield event
                else:
                    self._restart(file)
                async with aclosing(self._attempts(file, meter, before)) as events:
                    async for event in events:
                        yield event
            except OSError:
                # A full disk must not stay full, and what cannot be written is of no use.
                self._discard()
                raise
        await asyncio.to_thread(self._finish)

    # --- earlier attempts ---------------------------------------------------------

    def _matches_earlier(self) -> bool:
        try:
            earlier = msgspec.json.decode(self._state_path.read_bytes(), type=_State)
            size = self._part.stat().st_size
        except (OSError, msgspec.MsgspecError):
            return False
        known = self.remote.sha256 or earlier.etag
        same = (earlier.sha256, earlier.url) == (self._state.sha256, self._state.url)
        if not (size and known and (same or (self.remote.sha256 == earlier.sha256 is not None))):
            return False
        self._state.etag = earlier.etag
        self._state.size = self._state.size or earlier.size
        return self._state.size is None or size <= self._state.size

    async def _reread(self, meter: Meter, before: int) -> AsyncGenerator[DownloadEvent, None]:
        """Digest what is here; the rest is added to it."""
        size = self._part.stat().st_size
        name = self.remote.target.name
        yield Note(f"Resuming {name} at {format_bytes(size)}.")

        def work(job: Job[None]) -> None:
            job.done = before
            hash_into(self._digest, self._part, job)

        job = Job(work)
        async with aclosing(job.run(name, meter)) as events:
            async for event in events:
                yield event
        self.done = size

    def _restart(self, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        self.done = 0
        self._digest = hashlib.sha256()

    def _lock(self, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadFailed(
                f"Another process is downloading {self.remote.target.name}.",
                hint="Wait for it, then run this again.",
            ) from None

    # --- the transfer -------------------------------------------------------------

    async def _attempts(
        self, file: BinaryIO, meter: Meter, before: int
    ) -> AsyncGenerator[DownloadEvent, None]:
        failures = 0
        while True:
            begun_at = self.done
            try:
                async with aclosing(self._stream(file, meter, before)) as events:
                    async for event in events:
                        yield event
            except (httpx2.TransportError, _Interrupted) as error:
                failures = 1 if self.done > begun_at else failures + 1
                if failures >= ATTEMPTS:
                    raise self._gave_up(error) from error
                where = f" at {format_bytes(self.done)}" if self.done else ""
                yield Note(f"The connection was lost{where}; trying again.")
                await asyncio.sleep(min(BACKOFF * 2.0 ** (failures - 1), 8.0))
            else:
                return

    async def _stream(
        self, file: BinaryIO, meter: Meter, before: int
    ) -> AsyncGenerator[DownloadEvent, None]:
        name = self.remote.target.name
        if self.done and self.done == self._state.size:
            return
        headers = {**self.remote.headers, "Accept-Encoding": "identity"}
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            if self._state.etag and not (self.remote.sha256 or self._state.etag.startswith("W/")):
                headers["If-Range"] = self._state.etag
        request = self._client.stream("GET", self.remote.url, headers=headers, timeout=_TIMEOUT)
        async with request as response:
            if self._is_complete(response):
                return
            if note := self._begin(response, file):
                yield note
            if meter.total is None and self._state.size is not None:
                meter.total = before + self._state.size
            buffer = bytearray()
            try:
                async with aclosing(_pieces(response)) as pieces:
                    async for piece in pieces:
                        buffer += piece
                        if not piece or len(buffer) >= _FLUSH_BYTES:
                            await self._flush(file, buffer)
                            if event := meter.sample(name, before + self.done):
                                yield event
            finally:
                await self._flush(file, buffer)
        if self._state.size is not None and self.done < self._state.size:
            raise _Interrupted("the server closed the connection early")
        if event := meter.sample(name, before + self.done):
            yield event

    def _is_complete(self, response: httpx2.Response) -> bool:
        """416: there is nothing after what we have. Else the part is of no use."""
        if response.status_code != 416:
            return False
        total = response.headers.get("Content-Range", "").removeprefix("bytes */")
        if total == str(self.done):
            return True
        raise self._changed()

    def _begin(self, response: httpx2.Response, file: BinaryIO) -> Note | None:
        """Check the answer, remember the version of the file, go back to the start if need be."""
        if response.status_code in _RETRY_STATUS:
            raise _Interrupted(f"the server answered {response.status_code}")
        if response.status_code not in {200, 206}:
            raise self.remote.refuse(response)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadFailed(f"{response.url.host} sends the file in an encoded form.")
        start, total = _extent(response)
        if start not in {0, self.done}:
            raise DownloadFailed(f"{response.url.host} answers with another part than was asked.")
        etag = response.headers.get("ETag")
        if start and not self.remote.sha256 and etag != self._state.etag:
            raise self._changed()
        note = None
        if self.done and start == 0:
            note = Note(f"{response.url.host} cannot resume: starting again.")
            self._restart(file)
        if self.remote.size is not None and total not in {None, self.remote.size}:
            raise DownloadFailed(
                f"{self.remote.target.name} should have {self.remote.size:,} bytes; "
                f"{response.url.host} offers {total:,}."
            )
        self._state.size = self._state.size or total
        self._state.etag = etag
        if self._state.size is not None:
            check_space(self._part.parent, self._state.size - self.done)
        self._state_path.write_bytes(msgspec.json.encode(self._state))
        return note

    async def _flush(self, file: BinaryIO, buffer: bytearray) -> None:
        if not buffer:
            return
        data = bytes(buffer)
        buffer.clear()

        def write() -> None:
            file.write(data)
            file.flush()
            self._digest.update(data)

        task = asyncio.ensure_future(asyncio.to_thread(write))
        try:
            await asyncio.shield(task)
        finally:
            # Cancelled or not, the file is not closed under the thread that writes to it.
            await asyncio.wait({task})
        self.done += len(data)

    # --- the end --------------------------------------------------------------------

    def _finish(self) -> None:
        name = self.remote.target.name
        if self.remote.sha256 and self.sha256 != self.remote.sha256:
            self._discard()
            raise ChecksumMismatch(
                f"{name} has a wrong SHA-256, so it was removed.",
                hint="Run it again. If it happens again, the source serves a damaged file.",
            )
        try:
            read_header(self._part)
        except InvalidModel as error:
            self._discard()
            text = error.message.replace(self._part.name, name)
            raise InvalidModel(f"What was downloaded is no usable model. {text}") from None
        with self._part.open("rb+") as file:
            os.fsync(file.fileno())
        # The record first: what has its name but no record would be fetched again.
        write_record(self.remote.target, self.remote.describe(self.sha256))
        self._part.replace(self.remote.target)
        self._state_path.unlink(missing_ok=True)

    def _discard(self) -> None:
        with suppress(OSError):
            self._part.unlink(missing_ok=True)
            self._state_path.unlink(missing_ok=True)

    def _changed(self) -> DownloadFailed:
        self._discard()
        name = self.remote.target.name
        return DownloadFailed(f"{name} has changed on the server.", hint="Run it again.")

    def _gave_up(self, error: Exception) -> DownloadFailed:
        host = httpx2.URL(self.remote.url).host
        arrived = f" {format_bytes(self.done)} are kept." if self.done else ""
        return NoNetwork(
            f"{host} could not be reached ({_reason(error)}).{arrived}",
            hint="Check the network and run it again"
            + (": it goes on where it stopped." if self.done else "."),
        )


async def _pieces(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The body as it comes, with an empty piece in between whenever it is time to report."""
    source = response.aiter_raw()
    reported = time.monotonic()
    coming = asyncio.ensure_future(anext(source, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=_REPORT_SECONDS)
            if done:
                piece = coming.result()
                if piece is None:
                    return
                yield piece
                coming = asyncio.ensure_future(anext(source, None))
            if not done or time.monotonic() - reported >= _REPORT_SECONDS:
                reported = time.monotonic()
                yield b""
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


def _extent(response: httpx2.Response) -> tuple[int, int | None]:
    """Where the body begins in the file, and how long the file is."""
    if response.status_code == 206:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match:
            return int(match[1]), int(match[2]) if match[2] != "*" else None
        raise DownloadFailed(f"{response.url.host} answers a range request without saying which.")
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__
