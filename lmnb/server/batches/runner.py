"""Runs batches, one at a time, the one with the fewest requests left first.

So a long one is not in the way of short ones, and models are not loaded in turns. As many requests
are under way as the engine can compute together, and a few more, so that it never waits for the
next. They go through the server's own app at low priority: whatever else is asked of a model goes
first. Each answer is stored as it comes. After a restart the lines without one go on.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from starlette.types import ASGIApp

from lmnb.errors import InvalidRequest, LmnbError
from lmnb.server.batches.batch import Batch, Checked, Form, LineError, Status
from lmnb.server.batches.run import Run
from lmnb.server.batches.store import BatchStore
from lmnb.server.database import Execute
from lmnb.server.errors import DiskFull
from lmnb.server.files import Files

_log = logging.getLogger(__name__)

_PAUSE = 30.0
"""Seconds until work is tried again that the disk did not allow."""


class CannotCancel(InvalidRequest):
    """The batch has ended, or is about to."""

    code = "batch_not_cancellable"
    status = 409


class Runner:
    """The batches of the server, and the tasks that work on them.

    Parameters
    ----------
    slots
        How many requests to a path can be computed together now.
    """

    def __init__(
        self,
        store: BatchStore,
        files: Files,
        forms: Mapping[str, Form],
        slots: Callable[[str], int],
    ) -> None:
        self.store = store
        self._files = files
        self._forms = forms
        self._slots = slots
        self._tasks: set[asyncio.Task[object]] = set()
        self._open: set[str] = set()
        self._held: set[str] = set()
        """Those that are being checked or closed."""
        self._current: Run | None = None
        self._deciding = asyncio.Lock()
        """Held while a status is changed together with who works on the batch."""
        self._news = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether a batch has something left to do."""
        return bool(self._open)

    async def start(self, app: ASGIApp) -> None:
        """Go on with what was left open; from now on requests are sent to `app`."""
        for batch in await asyncio.to_thread(self.store.open):
            self._take(batch)
        self._spawn(self._work(app))

    async def stop(self) -> None:
        """End what is under way. It goes on when the server is started again."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def add(self, batch: Batch) -> None:
        """Take a new batch. It is kept when this returns.

        One whose status is `validating` is checked by its protocol's form first; of any other
        the lines must be in the store.
        """
        self._open.add(batch.id)
        try:
            await asyncio.to_thread(self.store.add, batch)
        except BaseException:
            self._open.discard(batch.id)
            raise
        self._take(batch)

    async def cancel(self, id: str, protocol: str) -> Batch:  # noqa: A002 - the field's name
        """Stop what is running of a batch, and run no more of it.

        Raises
        ------
        NotFound
            There is no such batch.
        CannotCancel
            It has ended otherwise, or all its answers are there.
        """
        await asyncio.to_thread(self.store.find, id, protocol)
        async with self._deciding:
            batch = await asyncio.to_thread(self.store.update, id, _cancelled)
            if self._current is not None and self._current.batch.id == id:
                self._current.cancel()
            elif batch.is_open and id not in self._held:
                self._hold(id, partial(self._close, id))
        return batch

    def _take(self, batch: Batch) -> None:
        self._open.add(batch.id)
        if batch.status == "validating":
            self._hold(batch.id, partial(self._check, batch))
        elif batch.status == "in_progress":
            self._ready(batch)
        else:
            self._hold(batch.id, partial(self._close, batch.id))

    # --- checking --------------------------------------------------------------------

    async def _check(self, batch: Batch) -> None:
        with self._files.writing() as requests:
            checked = await self._forms[batch.protocol].check(batch, requests)
            if not checked.errors:
                lines, id_ = checked.lines, batch.id
                await asyncio.to_thread(self.store.add_lines, id_, lines, requests)
        async with self._deciding:
            batch = await asyncio.to_thread(
                self.store.update, batch.id, lambda known: _checked(known, checked)
            )
            if batch.status == "in_progress":
                self._held.discard(batch.id)
                self._ready(batch)
        if batch.status == "cancelling":
            await self._close(batch.id)
        elif not batch.is_open:
            self._ended(batch)

    # --- running ---------------------------------------------------------------------

    async def _work(self, app: ASGIApp) -> None:
        while True:
            try:
                run = await self._choose(app)
            except sqlite3.Error as error:
                _log.warning("Batches wait, as the disk fails: %s", error)
                await asyncio.sleep(_PAUSE)
                continue
            if run is None:
                await self._news.wait()
            elif await self._insist(run.batch.id, run.all):
                if run.gave_way:
                    self._current = None  # from here on, `cancel` has to close it
                else:
                    await self._insist(run.batch.id, partial(self._close, run.batch.id))

    async def _choose(self, app: ASGIApp) -> Run | None:
        """The run of the batch with the fewest requests left, which is the current one now."""
        async with self._deciding:
            more = True
            while more:  # one that came while the others were read may be shorter
                self._news.clear()
                batches = await asyncio.to_thread(self.store.open)
                more = self._news.is_set()
            waiting = [one for one in batches if one.status == "in_progress"]
            first = min(waiting, key=lambda one: one.left, default=None)
            self._current = Run(first, self.store, app, self._slots) if first else None
            return self._current

    def _ready(self, batch: Batch) -> None:
        """Have a batch run, at once if it is shorter than what is left of the current one."""
        self._news.set()
        if self._current is not None and batch.left < self._current.batch.left:
            self._current.give_way()

    # --- the end ---------------------------------------------------------------------

    async def _close(self, id_: str) -> None:
        batch = await asyncio.to_thread(self.store.update, id_, _finalizing)
        if batch.is_open:
            batch = await asyncio.to_thread(self._write, batch)
        await asyncio.to_thread(self.store.clear, id_)
        self._ended(batch)

    def _write(self, batch: Batch) -> Batch:
        """Write the results down, and in one transaction what they are and that the batch has ended."""
        form, results = self._forms[batch.protocol], self.store.results(batch.id)
        with ExitStack() as stack:
            written = form.write(batch, results, lambda: stack.enter_context(self._files.writing()))
            for draft, file in written.files:
                self._files.keep(draft, file)
            if written.results is not None:
                written.results.move(self.store.written(batch.id))

            def insert(execute: Execute) -> None:
                for _, file in written.files:
                    self._files.insert(execute, file)

            return self.store.update(
                batch.id, lambda known: _closed(known, written.changes), insert
            )

    def _ended(self, batch: Batch) -> None:
        self._open.discard(batch.id)
        self._held.discard(batch.id)
        _log.info(
            "Batch %s %s: %d of %d requests answered, %d with errors",
            batch.id,
            batch.status,
            batch.succeeded + batch.failed,
            batch.total,
            batch.failed,
        )

    # --- tasks -----------------------------------------------------------------------

    def _hold(self, id_: str, work: Callable[[], Awaitable[None]]) -> None:
        self._held.add(id_)
        self._spawn(self._insist(id_, work))

    async def _insist(self, id_: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Do the work on a batch; whether it could be. What the disk refuses is tried again."""
        while True:
            try:
                await work()
            except FileNotFoundError:
                _log.exception("The requests of batch %s are gone", id_)
                await self._fail(id_, "Files of this batch were removed from the server's folder.")
                return False
            except (OSError, sqlite3.Error, DiskFull) as error:
                _log.warning("Batch %s waits, as the disk fails: %s", id_, error)
                await asyncio.sleep(_PAUSE)
            except Exception:  # noqa: BLE001 - whatever it is, the batch must end
                _log.exception("Batch %s failed", id_)
                await self._fail(id_, "The server failed; its log says why.")
                return False
            else:
                return True

    async def _fail(self, id_: str, why: str) -> None:
        errors = (LineError(code="server_error", message=why),)
        try:
            batch = await asyncio.to_thread(
                self.store.update,
                id_,
                lambda known: known.but(status="failed", errors=errors, ended_at=time.time()),
            )
        except (sqlite3.Error, LmnbError):  # not even that; it is tried again
            await asyncio.sleep(_PAUSE)
        else:
            self._ended(batch)

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _checked(known: Batch, checked: Checked) -> Batch:
    found = known.but(total=len(checked.lines), model=checked.model)
    if known.status != "validating":
        return found
    if checked.errors:
        return found.but(status="failed", errors=checked.errors, ended_at=time.time())
    return found.but(status="in_progress", in_progress_at=time.time())


def _cancelled(known: Batch) -> Batch:
    if known.status in {"cancelling", "cancelled"}:
        return known
    if known.status not in {"validating", "in_progress"}:
        raise CannotCancel(f"Cannot cancel a batch with status '{known.status}'.")
    return known.but(status="cancelling", cancelling_at=time.time())


def _finalizing(known: Batch) -> Batch:
    if known.status == "cancelling" or not known.is_open:
        return known
    return known.but(status="finalizing", finalizing_at=time.time())


def _closed(known: Batch, changes: dict[str, Any]) -> Batch:
    status: Status = "cancelled" if known.status == "cancelling" else "completed"
    return known.but(status=status, ended_at=time.time(), **changes)
