"""Downloads as jobs: whoever asks for the same model shares one, and a restart of the server resumes it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from lmnb.errors import Cancelled, LmnbError, NotFound, ServerError
from lmnb.models import download
from lmnb.models.events import Done, DownloadEvent, Note, Progress, Started
from lmnb.server.database import Database
from lmnb.server.turns import Turns

_log = logging.getLogger(__name__)

_KEPT_SECONDS = 30 * 86400
"""Ended jobs are forgotten after a month."""

Status: TypeAlias = Literal["downloading", "paused", "completed", "failed"]


class JobNotFound(NotFound):
    """There is no such download."""

    code = "job_not_found"


class Job(msgspec.Struct, kw_only=True):
    """A download. Times are seconds since the epoch.

    model, quantization
        As they were asked for.
    key
        What the model is called once it is here.
    is_waiting
        It is its turn when one of those that are running ends.
    was_here
        Nothing had to be fetched, as far as is known.
    is_detached
        It goes on without anybody following it.
    error
        `LmnbError.to_dict()` of a failed one.
    """

    id: str
    model: str | None
    quantization: str | None
    status: Status = "downloading"
    started_at: float
    completed_at: float | None = None
    total: int | None = None
    done: int = 0
    bytes_per_second: float | None = None
    eta_seconds: float | None = None
    key: str | None = None
    is_waiting: bool = False
    was_here: bool = True
    is_detached: bool = False
    error: dict[str, object] | None = None


class Downloads:
    """All jobs of a server. What a job is about is on disk before `start` returns.

    Only what can be told of a transfer between two looks at it (bytes, speed) is kept in memory:
    the bytes themselves are found on the disk when it goes on. At most `at_once()` are running, the
    others wait their turn.
    """

    def __init__(
        self, database: Database, home: Path, at_once: Callable[[], int] = lambda: 3
    ) -> None:
        self._database = database
        self._home = home
        self._turns = Turns(at_once)
        self._changing = asyncio.Lock()
        self._running: dict[str, _Transfer] = {}
        database.execute(
            "CREATE TABLE IF NOT EXISTS downloads "
            "(id TEXT PRIMARY KEY, started_at REAL NOT NULL, job TEXT NOT NULL)"
        )
        database.execute(
            "DELETE FROM downloads WHERE started_at < ? AND id NOT IN "
            "(SELECT id FROM downloads WHERE json_extract(job, '$.status') "
            "IN ('downloading', 'paused'))",
            (time.time() - _KEPT_SECONDS,),
        )
        rows = database.execute("SELECT job FROM downloads ORDER BY started_at")
        self._jobs = {job.id: job for (data,) in rows if (job := _read(data))}

    @property
    def busy(self) -> bool:
        """Whether something is being fetched."""
        return bool(self._running)

    def resume_all(self) -> None:
        """Go on with what the last server was fetching."""
        for job in self._jobs.values():
            if job.status == "downloading":
                self._begin(job)

    def all(self) -> list[Job]:
        """All jobs, oldest first."""
        return list(self._jobs.values())

    def latest(self, count: int) -> list[Job]:
        """The newest `count`, and all older ones that have not ended. Oldest first."""
        jobs = self.all()
        older = [job for job in jobs[:-count] if job.status in {"downloading", "paused"}]
        return older + jobs[-count:]

    def find(self, id_: str) -> Job:
        """The job of that id.

        Raises
        ------
        JobNotFound
            There is none.
        """
        job = self._jobs.get(id_)
        if job is None:
            raise JobNotFound(f"There is no download {id_!r}.", param="job_id")
        return job

    def named(self, name: str) -> Job:
        """The job of that id, or the only one of that model which can be paused or resumed.

        Raises
        ------
        JobNotFound
            There is none such, or there are several.
        """
        if name in self._jobs:
            return self._jobs[name]
        found = [one for one in self.all() if one.model == name and one.status != "completed"]
        if len(found) != 1:
            raise JobNotFound(
                f"There are {len(found)} downloads of {name!r}."
                if found
                else f"There is no download {name!r}.",
                hint="`lmnb downloads` lists them with their ids.",
                param="job_id",
            )
        return found[0]

    async def start(self, model: str | None, quantization: str | None, *, detached: bool) -> Job:
        """The job that fetches the model: a new one, or the one that does so already.

        One that is not `detached` is paused when nobody follows it any more.
        """
        for job in self._jobs.values():
            same = (job.model, job.quantization) == (model, quantization)
            if same and job.status in {"downloading", "paused"}:
                job.is_detached = job.is_detached or detached
                return await self.resume(job.id)
        job = Job(
            id=f"job_{secrets.token_hex(5)}",
            model=model,
            quantization=quantization,
            started_at=time.time(),
            is_detached=detached,
        )
        self._jobs[job.id] = job
        await self._save(job)
        self._begin(job)
        return job

    async def resume(self, id_: str) -> Job:
        """Go on with a job that was paused or has failed."""
        async with self._changing:
            job = self.find(id_)
            if job.status in {"paused", "failed"}:
                job.status, job.error = "downloading", None
                await self._save(job)
            if job.status == "downloading" and id_ not in self._running:
                self._begin(job)
            return job

    async def pause(self, id_: str) -> Job:
        """Stop fetching; what has arrived is kept."""
        async with self._changing:
            return await self._pause(id_)

    async def cancel(self, id_: str) -> Job:
        """Stop fetching and forget the job. Asking for the model again goes on where it was."""
        async with self._changing:
            job = await self._pause(id_)
            del self._jobs[id_]
            await asyncio.to_thread(
                self._database.execute, "DELETE FROM downloads WHERE id = ?", (id_,)
            )
            return job

    async def _pause(self, id_: str) -> Job:
        job = self.find(id_)
        if job.status == "downloading":
            job.status = "paused"
            await self._save(job)
            await self._stop(id_)
        return job

    async def follow(self, job: Job) -> AsyncGenerator[DownloadEvent, None]:
        """What the job says from now on, until it is done.

        Raises
        ------
        LmnbError
            It failed. `Cancelled` if somebody paused it.
        """
        transfer = self._running.get(job.id)
        if transfer is not None:
            transfer.followers += 1
            try:
                async with aclosing(transfer.follow()) as events:
                    async for event in events:
                        yield event
            finally:
                transfer.followers -= 1
                if not (transfer.followers or job.is_detached) and job.id in self._jobs:
                    await self.pause(job.id)
        elif job.error is not None:
            raise LmnbError.from_dict(job.error)

    async def close(self) -> None:
        """Stop all transfers, to be resumed by the next server."""
        await asyncio.gather(*(self._stop(id_) for id_ in list(self._running)))

    def _begin(self, job: Job) -> None:
        transfer = _Transfer()
        self._running[job.id] = transfer
        transfer.task = asyncio.create_task(self._fetch(job, transfer))

    async def _stop(self, id_: str) -> None:
        transfer = self._running.get(id_)
        if transfer is not None and transfer.task is not None:
            transfer.task.cancel()
            await asyncio.gather(transfer.task, return_exceptions=True)

    async def _fetch(self, job: Job, transfer: _Transfer) -> None:
        error: LmnbError | None = Cancelled("The download was paused.", hint="Ask for it again.")
        try:
            error = await self._run(job, transfer)
            if error is not None:
                job.status, job.error = "failed", error.to_dict()
            await self._save(job)  # Before anybody hears of the end.
        finally:
            del self._running[job.id]
            transfer.end(error)

    async def _run(self, job: Job, transfer: _Transfer) -> LmnbError | None:
        """Fetch the model when its turn has come; what went wrong, if something did."""
        if self._turns.all_taken:
            job.is_waiting = True
            transfer.tell(Note("Other downloads are running: waiting for one of them to end."))
        try:
            async with self._turns.take():
                job.is_waiting = False
                return await self._get(job, transfer)
        finally:
            job.is_waiting = False

    async def _get(self, job: Job, transfer: _Transfer) -> LmnbError | None:
        try:
            async with aclosing(download.get(self._home, job.model, job.quantization)) as events:
                async for event in events:
                    _note(job, event)
                    transfer.tell(event)
        except LmnbError as failure:
            return failure
        except Exception:  # noqa: BLE001 - who follows has to be told
            _log.exception("The download of %s failed", job.model)
            return ServerError("The download failed because of a fault of lmnb's own.")
        return None

    async def _save(self, job: Job) -> None:
        row = (job.id, job.started_at, msgspec.json.encode(job).decode())
        sql = "INSERT OR REPLACE INTO downloads VALUES (?, ?, ?)"
        await asyncio.to_thread(self._database.execute, sql, row)


class _Transfer:
    """One run of a job, which any number of clients follow."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.followers = 0
        self._events: list[DownloadEvent] = []
        self._error: LmnbError | None = None
        self._ended = False
        self._news = asyncio.Event()

    def tell(self, event: DownloadEvent) -> None:
        """Something has happened. Of progress only the last is kept for who comes later."""
        if self._events and isinstance(event, Progress) and isinstance(self._events[-1], Progress):
            del self._events[-1]
        self._events.append(event)
        self._wake()

    def end(self, error: LmnbError | None) -> None:
        """Nothing follows."""
        self._ended, self._error = True, error
        self._wake()

    async def follow(self) -> AsyncGenerator[DownloadEvent, None]:
        """All events; progress as it is when the follower gets to it."""
        place = 0
        seen: DownloadEvent | None = None
        while True:
            news = self._news
            while place < len(self._events):
                event = self._events[place]
                is_last = place == len(self._events) - 1
                if event is not seen:
                    yield event
                seen = event
                if is_last and isinstance(event, Progress):
                    break  # It may be replaced by a later one.
                place += 1
            if self._ended and place >= len(self._events) - 1:
                if self._error is not None:
                    raise self._error
                return
            await news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _note(job: Job, event: DownloadEvent) -> None:
    match event:
        case Started():
            job.total, job.done = event.total, event.done
            job.was_here = event.total == event.done
        case Progress():
            job.total, job.done = event.total, event.done
            job.bytes_per_second, job.eta_seconds = event.bytes_per_second, event.eta_seconds
        case Done():
            job.status, job.key, job.completed_at = "completed", event.key, time.time()
            job.total = job.done = event.size_bytes
            job.bytes_per_second = job.eta_seconds = None


def _read(data: str) -> Job | None:
    try:
        return msgspec.json.decode(data, type=Job)
    except msgspec.DecodeError:
        _log.warning("A download on record cannot be read; it is left out")
        return None
