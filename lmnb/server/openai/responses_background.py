"""Responses in the background: they go on without their client.

An unfinished one lives in memory. It is announced to the store before its client hears of it, so
that a server that finds the announcement when it starts says that the response failed. It is not
made again: nobody may be waiting for it any more, and a client that is can ask again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from lmnb.errors import Cancelled, LmnbError
from lmnb.server.background import Job
from lmnb.server.mcp.steps import Step
from lmnb.server.openai.responses_events import ErrorEvent, Lifecycle
from lmnb.server.openai.responses_objects import ResponseError, ResponseObject
from lmnb.server.openai.responses_prepare import Source
from lmnb.server.openai.responses_run import Run, as_frame
from lmnb.server.sse import Frames
from lmnb.server.state import State
from lmnb.server.store import NewResponse


class BackgroundRun(Job):
    """A response that is being made. `log` has the frames of its stream, by sequence number."""

    def __init__(self, run: Run, events: AsyncGenerator[Step, None]) -> None:
        super().__init__()
        self.run = run
        self._events = events
        for news in run.start():
            self.log.write(as_frame(news))

    async def work(self) -> None:
        """Make the response."""
        async with aclosing(self._events):
            async for event in self._events:
                for news in self.run.answer.feed(event):
                    self.log.write(as_frame(news))

    async def finish(self, error: LmnbError | None) -> None:
        """Store it, and only then tell whoever listens."""
        answer = self.run.answer
        if answer.is_running:
            if isinstance(error, Cancelled):
                answer.cancel()
            else:
                answer.fail(error or LmnbError("The answer has no end."))
        last = as_frame(answer.end())
        await self.run.save([*self.log.frames, last])
        self.log.write(last)

    def lost(self) -> NewResponse:
        """What is stored of it if the server ends without a chance to say so."""
        error = ResponseError("server_error", "The server ended before the response was complete.")
        failed = msgspec.structs.replace(self.run.answer.response, status="failed", error=error)
        last = Lifecycle("response.failed", len(self.log.frames), failed)
        return msgspec.structs.replace(
            self.run.stored([*self.log.frames, as_frame(last)]), body=msgspec.to_builtins(failed)
        )

    async def snapshot(self) -> ResponseObject:
        """The response as it is now. One that has just been completed is stored first."""
        if not self.run.answer.is_running:
            await self.end()
        return self.run.answer.snapshot()

    async def cancel(self) -> ResponseObject:
        """Stop it at once, unless it is done."""
        await self.stop(Cancelled("The response was cancelled."))
        return self.run.answer.response


async def begin(state: State, run: Run, source: Source) -> BackgroundRun:
    """Begin a response in the background; it is not lost from now on.

    Raises
    ------
    InvalidRequest, ModelNotFound
        It cannot be made.
    TooManyJobs
        It cannot be made now.
    """
    state.background.ensure_room()
    await source.check()
    job = BackgroundRun(run, source.events())
    await state.responses.announce(job.lost())
    state.background.start(run.answer.response.id, job)
    return job


def find(state: State, id_: str) -> BackgroundRun | None:
    """The response of that id, if it is being made."""
    job = state.background.find(id_)
    return job if isinstance(job, BackgroundRun) else None


async def replay(stored: list[bytes], after: int) -> Frames:
    """The frames after the one of the sequence number `after`; at least how it ended.

    A response that was lost with its server ends earlier than its client remembers.
    """
    for data in stored[after + 1 :] or stored[-1:]:
        yield data


async def follow(job: BackgroundRun, after: int) -> Frames:
    """The same for a response that is being made, to its end."""
    async with aclosing(job.log.follow(after + 1)) as frames:
        async for data in frames:
            yield data


def on_error(error: LmnbError) -> bytes:
    """Says why a stream ends here, though its response goes on."""
    return as_frame(ErrorEvent(error.code, str(error), error.param))
