"""The disk side of a download: room, digests, staging folders, locks."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import psutil

from lmnb.errors import Cancelled, DownloadFailed, NoSpace
from lmnb.models.catalog import Catalog
from lmnb.models.entry import format_bytes
from lmnb.models.events import Done, Meter, Progress

_RESERVE = 64 << 20  # Never fill a disk to the brim.
CHUNK = 1 << 20

T = TypeVar("T")


def models_folder(home: Path) -> Path:
    """Where lmnb keeps models."""
    return home / "models"


def check_space(folder: Path, needed: int) -> None:
    """Raise `NoSpace` unless the disk of `folder` has room for `needed` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + _RESERVE:
        raise NoSpace(
            f"The disk has too little room: {format_bytes(needed)} are needed in {folder}, "
            f"{format_bytes(free)} are free.",
            hint="Free some space, or set LMNB_HOME to a folder on another disk.",
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns the errors of writing into ones that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpace(
                f"The disk of {folder} is full.",
                hint="Free some space and run it again, or set LMNB_HOME to another disk.",
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise DownloadFailed(
                f"{error.filename or folder} cannot be written: {error.strerror}.",
                hint="Set LMNB_HOME to a folder you may write to.",
            ) from error
        raise


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Job(Generic[T]):
    """Blocking work in a thread that reports bytes and can be told to stop.

    The work gets the job itself: it sets `done` and calls `check` between its pieces.
    """

    def __init__(self, work: Callable[[Job[T]], T]) -> None:
        self.done = 0
        self._work = work
        self._stop = threading.Event()
        self._task: asyncio.Task[T] | None = None

    def check(self) -> None:
        """Raise if the job was told to stop."""
        if self._stop.is_set():
            raise Cancelled("The download was cancelled.")

    async def run(self, file: str, meter: Meter) -> AsyncGenerator[Progress, None]:
        """Progress until the work is over; its result is then in `result`."""
        self._task = asyncio.create_task(asyncio.to_thread(self._work, self))
        try:
            while not self._task.done():
                if event := meter.sample(file, self.done):
                    yield event
                await asyncio.wait({self._task}, timeout=0.2)
            self._task.result()
        finally:
            self._stop.set()
            # The thread still writes into folders that are cleaned up next: wait for it.
            await asyncio.wait({self._task})

    @property
    def result(self) -> T:
        """What the work returned."""
        assert self._task is not None
        return self._task.result()


def hash_file(path: Path, job: Job[Any] | None = None, limit: int | None = None) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    hash_into(digest, path, job, limit)
    return digest.hexdigest()


def hash_into(
    digest: Digest, path: Path, job: Job[Any] | None = None, limit: int | None = None
) -> None:
    """Feed a file (or its first `limit` bytes) to a digest."""
    left = limit if limit is not None else path.stat().st_size
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
            if job:
                job.done += len(chunk)
                job.check()


@contextmanager
def staging_folder(home: Path) -> Iterator[Path]:
    """A private folder on the disk of the models; what a killed process left is removed."""
    parent = models_folder(home) / ".staging"
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.iterdir():
        pid = old.name.split("-", 1)[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    folder = parent / f"{os.getpid()}-{os.urandom(4).hex()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(eq=False)
class _Turn:
    lock: asyncio.Lock
    users: int = 0


_turns: dict[tuple[Path, str], _Turn] = {}


@asynccontextmanager
async def exclusive(home: Path, subject: str) -> AsyncIterator[None]:
    """One download of a thing at a time in this process; the others wait and find it done."""
    turn = _turns.setdefault((home, subject), _Turn(asyncio.Lock()))
    turn.users += 1
    try:
        async with turn.lock:
            yield
    finally:
        turn.users -= 1
        if not turn.users:
            _turns.pop((home, subject), None)


def is_running(home: Path, subject: str) -> bool:
    """Whether somebody downloads this right now."""
    return (home, subject) in _turns


async def done_event(home: Path, path: Path) -> Done:
    """The last event of a download: under which key the file at `path` is to be found."""
    catalog = Catalog(home)
    for entry in await catalog.entries():
        if entry.path == path:
            return Done(key=entry.key, path=str(path), size_bytes=entry.size_bytes)
    # The same variant lies in another place too, and is listed from there.
    entry = await catalog.resolve(str(path))
    return Done(key=entry.key, path=str(path), size_bytes=entry.size_bytes)
