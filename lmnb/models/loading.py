"""A load in progress, and everyone who waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from lmnb.engine.config import LoadConfig
from lmnb.errors import LmnbError
from lmnb.models.entry import ModelEntry
from lmnb.models.instance import Instance, satisfies

_log = logging.getLogger(__name__)

OnProgress: TypeAlias = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to load, under which id. `jit` and `ttl` become the instance's."""

    id: str
    entry: ModelEntry
    config: LoadConfig
    jit: bool
    ttl: float | None


@dataclass(eq=False)
class _Waiter:
    future: asyncio.Future[Instance]
    on_progress: OnProgress | None
    uses: bool


class Load:
    """One load, shared by all who want its model.

    It goes on as long as one of them waits; when the last one is cancelled, `abandon` is called.

    request_ttl
        The TTL that the last request to wait for it gave, if one has.
    """

    def __init__(self, plan: Plan, serial: int, abandon: Callable[[Load], object]) -> None:
        self.plan = plan
        self.serial = serial
        self.progress = 0.0
        self.request_ttl: float | None = None
        self.task: asyncio.Task[None] | None = None
        self._abandon = abandon
        self._waiters: list[_Waiter] = []

    @property
    def id(self) -> str:
        """The id of the instance to be."""
        return self.plan.id

    @property
    def entry(self) -> ModelEntry:
        """The model that is loading."""
        return self.plan.entry

    @property
    def jit(self) -> bool:
        """Whether it is a request's, as far as is known by now."""
        return self.plan.jit

    def satisfies(self, wanted: LoadConfig) -> bool:
        """Whether every option of `wanted` is one that it loads with."""
        return satisfies(wanted, self.plan.config)

    @property
    def has_owner(self) -> bool:
        """Whether somebody asked for the load explicitly, and still waits."""
        return any(not waiter.uses for waiter in self._waiters)

    def report(self, progress: float) -> None:
        """Tell everyone how far it is (0 to 1)."""
        self.progress = progress
        for waiter in self._waiters:
            self._tell(waiter)

    def finish(self, instance: Instance) -> None:
        """Hand the instance to everyone; those who use it count as active from now on."""
        for waiter in self._take_waiters():
            if waiter.uses:
                instance.active += 1
            waiter.future.set_result(instance)

    def fail(self, error: LmnbError) -> None:
        """Tell everyone. Each gets a copy, since raising an error writes into it."""
        for waiter in self._take_waiters():
            waiter.future.set_exception(LmnbError.from_dict(error.to_dict()))

    async def wait(
        self, on_progress: OnProgress | None, *, uses: bool, release: Callable[[Instance], None]
    ) -> Instance:
        """Wait for the instance. `uses`: it comes back counted as active.

        `release` is called with an instance that came too late for a caller who was cancelled.
        """
        future: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(future, on_progress, uses)
        self._waiters.append(waiter)
        self._tell(waiter)
        try:
            return await future
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                if not self._waiters:
                    self._abandon(self)
            elif uses and not future.cancelled() and future.exception() is None:
                release(future.result())
            raise

    def _take_waiters(self) -> list[_Waiter]:
        waiters, self._waiters = self._waiters, []
        return [waiter for waiter in waiters if not waiter.future.done()]

    def _tell(self, waiter: _Waiter) -> None:
        if waiter.on_progress is None:
            return
        try:
            waiter.on_progress(self.progress)
        except Exception:  # noqa: BLE001  It must not fail the others' load.
            waiter.on_progress = None
            _log.exception("A listener to the progress of a load failed")
