"""Work that goes on without its client: what it says is kept for whoever asks later."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable

from lmnb.errors import LmnbError, ServerError
from lmnb.server.tracking import Activity

logger = logging.getLogger(__name__)

MOST = 1000
"""Jobs at a time. Those that wait are in memory, and lost if the server ends; batches are not."""


class TooManyJobs(LmnbError):
    """As much is being made in the background as may be."""

    code = "too_many_requests"
    status = 429


class Log:
    """Frames that one task writes and any number of others follow, from any place on."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self._ended = False
        self._news = asyncio.Event()

    def write(self, frame: bytes) -> None:
        """Append a frame."""
        self.frames.append(frame)
        self._wake()

    def end(self) -> None:
        """Nothing follows."""
        self._ended = True
        self._wake()

    async def follow(self, start: int) -> AsyncGenerator[bytes, None]:
        """The frames from the `start`-th on, those to come included, until the end."""
        while True:
            news = self._news
            while start < len(self.frames):
                yield self.frames[start]
                start += 1
            if self._ended:
                return
            await news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Job(ABC):
    """Work in two parts: one that can be stopped at any time, and its end, which always comes."""

    def __init__(self) -> None:
        self.log = Log()
        self._why: LmnbError | None = None
        self._work: asyncio.Task[None] | None = None
        self._whole: asyncio.Task[None] | None = None

    @abstractmethod
    async def work(self) -> None:
        """The part that can be stopped."""

    @abstractmethod
    async def finish(self, error: LmnbError | None) -> None:
        """Write down how `work` ended."""

    def start(self, on_end: Callable[[], None]) -> None:
        """Begin; `on_end` is called when all has been written down."""
        self._work = asyncio.create_task(self.work())
        self._whole = asyncio.create_task(self._run(self._work, on_end))

    async def stop(self, why: LmnbError) -> None:
        """Stop the work, unless it is done, and return at the end."""
        assert self._work is not None
        self._why = why
        self._work.cancel()
        await self.end()

    async def end(self) -> None:
        """Return at the end."""
        assert self._whole is not None
        await asyncio.wait({self._whole})

    async def _run(self, work: asyncio.Task[None], on_end: Callable[[], None]) -> None:
        await asyncio.wait({work})
        error: LmnbError | None = None
        if work.cancelled():
            error = self._why or ServerError("The work was stopped.")
        elif (fault := work.exception()) is not None:
            error = fault if isinstance(fault, LmnbError) else _own_fault(fault)
        try:
            await self.finish(error)
        except Exception:
            logger.exception("The end of work in the background could not be written down")
        self.log.end()
        on_end()


class Background:
    """The jobs that are running. They count as requests in flight."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._jobs: dict[str, Job] = {}

    def ensure_room(self) -> None:
        """Raise `TooManyJobs` if no other job can be started now."""
        if len(self._jobs) >= MOST:
            raise TooManyJobs(
                f"{MOST} responses are being made in the background already.",
                hint="Wait for some of them, or send a batch.",
            )

    def start(self, id_: str, job: Job) -> None:
        """Run a job, which is found under `id_` until it has ended."""

        def ended() -> None:
            del self._jobs[id_]
            self._activity.active -= 1
            self._activity.last = time.monotonic()

        self._jobs[id_] = job
        self._activity.active += 1
        job.start(ended)

    def find(self, id_: str) -> Job | None:
        """The job of that id, unless it has ended."""
        return self._jobs.get(id_)

    async def close(self) -> None:
        """Stop all jobs, and let them write that down."""
        why = ServerError("The server ended before the work was done.")
        await asyncio.gather(*(job.stop(why) for job in list(self._jobs.values())))


def _own_fault(fault: BaseException) -> LmnbError:
    logger.error("Work in the background ended with a fault of the server", exc_info=fault)
    return LmnbError("The server failed in mid-answer.")
