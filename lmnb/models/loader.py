"""Carries plans out: a process, a model in it, an instance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import msgspec

from lmnb.engine.client import Room, Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import Kind
from lmnb.engine.protocol import Memory
from lmnb.errors import EngineCrashed, LmnbError, ModelLoadFailed, ModelUnloaded
from lmnb.models.clock import Clock
from lmnb.models.crashes import Crashes
from lmnb.models.ending import Ending
from lmnb.models.idling import Idling
from lmnb.models.instance import Instance
from lmnb.models.loading import Load, OnProgress, Plan
from lmnb.models.planning import Planner
from lmnb.models.registry import Registry
from lmnb.models.tasks import Tasks

_MAX_LOG = 1 << 20  # Bytes of a worker's log.


class StartWorker(Protocol):
    """`Worker.start`, or what stands in for it."""

    def __call__(
        self,
        path: Path,
        config: LoadConfig,
        *,
        log: Path | None,
        on_progress: OnProgress | None,
        room: Room | None,
    ) -> Coroutine[Any, Any, Worker]: ...


class Loader:
    """Begins loads and cancels them. Workers' logs go into the folder `logs`."""

    def __init__(
        self,
        registry: Registry,
        planner: Planner,
        crashes: Crashes,
        ending: Ending,
        idling: Idling,
        tasks: Tasks,
        *,
        start: StartWorker,
        clock: Clock,
        logs: Path,
    ) -> None:
        self._registry = registry
        self._planner = planner
        self._crashes = crashes
        self._ending = ending
        self._idling = idling
        self._tasks = tasks
        self._start = start
        self._clock = clock
        self._logs = logs
        self._serial = 0
        self._closed = False

    def close(self) -> None:
        """Begin no load any more."""
        self._closed = True

    def begin(self, plan: Plan) -> Load:
        """Begin a load, which everyone finds from now on. Its id is the plan's, or a free one."""
        if self._closed:
            raise ModelUnloaded("The server is shutting down.")
        self._serial += 1
        plan = replace(plan, id=self._registry.free_id(plan.id))
        load = Load(plan, self._serial, self.abandon)
        self._registry.loads[plan.id] = load
        load.task = self._tasks.spawn(self._run(load))
        return load

    def abandon(self, load: Load) -> asyncio.Task[None]:
        """Cancel a load. It is forgotten at once, so that nobody joins it any more."""
        self._drop(load)
        load.fail(ModelUnloaded(f"The load of {load.id} was cancelled."))
        assert load.task is not None
        load.task.cancel()
        return self._ending.add(load.task)

    # --- inside ------------------------------------------------------------------

    async def _run(self, load: Load) -> None:
        plan, began = load.plan, time.monotonic()
        try:
            worker = await self._start_worker(load)
        except LmnbError as error:
            if isinstance(error, EngineCrashed):
                self._crashes.record(plan.entry, error, answered=False)
            self._fail(load, error)
        except Exception as error:  # noqa: BLE001  Whatever it is, nobody may wait for ever.
            self._fail(load, ModelLoadFailed(f"{plan.entry.key} could not be loaded: {error!r}."))
        else:
            self._add(load, worker, time.monotonic() - began)
        # A failed load no longer stands behind others, and a new instance does.
        self._idling.evict(plan.entry.kind)

    async def _start_worker(self, load: Load) -> Worker:
        plan = load.plan
        draft = await self._planner.draft(plan.config.draft_model)
        config = msgspec.structs.replace(plan.config, draft_model=str(draft) if draft else None)
        log = await asyncio.to_thread(self._log_file, plan.id)
        await self._ending.settled()  # those that have crashed are counted then
        self._crashes.check(plan.entry)
        room = self._room(plan.entry.kind) if plan.jit else None
        return await self._start(
            plan.entry.path, config, log=log, on_progress=load.report, room=room
        )

    def _room(self, kind: Kind) -> Room | None:
        """What a load by request takes the place of. It goes once the load is known to fit then."""
        leaving = self._idling.evictable(kind)
        if not leaving:
            return None
        memory = Memory(
            host=sum(one.worker.memory for one in leaving),
            gpu=sum(one.worker.info.estimate.gpu for one in leaving),
        )

        async def make() -> None:
            self._idling.evict(kind)
            await self._ending.settled()

        return Room(memory, make)

    def _add(self, load: Load, worker: Worker, seconds: float) -> None:
        self._drop(load)
        plan = load.plan  # which may have changed since the load began
        instance = Instance(
            id=plan.id,
            entry=plan.entry,
            worker=worker,
            clock=self._clock,
            requested=plan.config,
            jit=plan.jit,
            ttl=plan.ttl,
            serial=load.serial,
            load_seconds=seconds,
            last_used=self._clock.now(),
            warnings=_warnings(plan, worker),
        )
        self._registry.instances[plan.id] = instance
        self._registry.crashed.pop(plan.id, None)
        load.finish(instance)
        self._idling.renew(instance)
        self._ending.watch(instance)

    def _fail(self, load: Load, error: LmnbError) -> None:
        # What cannot be loaded as it was is looked up afresh the next time.
        self._registry.crashed.pop(load.id, None)
        self._drop(load)
        load.fail(error)

    def _drop(self, load: Load) -> None:
        if self._registry.loads.get(load.id) is load:
            del self._registry.loads[load.id]

    def _log_file(self, instance_id: str) -> Path:
        """A worker's own log, begun anew when it has become long."""
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in instance_id)
        path = self._logs / f"model-{safe}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _MAX_LOG:
            path.replace(path.with_name(path.name + ".1"))
        return path


def _warnings(plan: Plan, worker: Worker) -> list[str]:
    wanted, trained = plan.config.context_length, worker.info.trained_context_length
    if not wanted or not trained or wanted <= trained:
        return []
    text = (
        f"The context of {wanted} tokens is longer than the {trained} the model was trained for: "
        "answers may become poor."
    )
    return [text]
