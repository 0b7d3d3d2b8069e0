"""Which models are loaded: just in time, explicitly, how long they stay, what happens on a crash.

The rules are LM Studio's (developer docs, "Idle TTL and Auto-Evict"), with what they leave open:

- A request for a model that is not loaded loads it, unless that is switched off. Such an instance
  has the default TTL unless the request gives one. `load` is explicit: no TTL unless given.
- The TTL runs while no request uses the instance and starts anew with each one.
- With auto-evict, a load by request first unloads idle instances that were loaded by request; one
  that is still busy goes as soon as it is idle. One language model and one embedding model count
  separately: retrieval needs both in every question, and each would evict the other.
- An explicit load of a model that a request has loaded with fitting options keeps that instance.
  Another explicit load of the same model makes a second one, `key:2`.
- When a worker dies, its instance is forgotten, but not how it was loaded: the next request for its
  id or its model loads it again in the same way, unless the model keeps crashing (`crashes`).

Everything here runs on the server's event loop; between two awaits nothing else changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec

from lmnb.engine.client import Worker
from lmnb.engine.gguf import Kind
from lmnb.engine.protocol import LoadConfig
from lmnb.errors import EngineCrashed, LmnbError, ModelLoadFailed, ModelUnloaded
from lmnb.models.catalog import Catalog
from lmnb.models.crashes import Crashes
from lmnb.models.entry import ModelEntry
from lmnb.models.instance import Instance, satisfies
from lmnb.models.loading import Load, OnProgress, Plan
from lmnb.models.planning import ManagerSettings, Planner, check_kind, check_ttl
from lmnb.models.registry import Registry

_log = logging.getLogger(__name__)

_MAX_LOG = 1 << 20  # Bytes of a worker's log.


class StartWorker(Protocol):
    """`Worker.start`, or what stands in for it."""

    def __call__(
        self, path: Path, config: LoadConfig, *, log: Path | None, on_progress: OnProgress | None
    ) -> Coroutine[Any, Any, Worker]: ...


@dataclass(frozen=True)
class Lease:
    """The right to use an instance: it is busy, so never idle, until the lease ends.

    `load_seconds` is how long the caller waited for a load; None if the model was loaded.
    """

    instance: Instance
    load_seconds: float | None


class Manager:
    """All instances and loads of the server."""

    def __init__(
        self,
        catalog: Catalog,
        settings: ManagerSettings,
        *,
        start: StartWorker = Worker.start,
        crashes: Crashes | None = None,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._start = start
        self._planner = Planner(catalog, settings)
        self._registry = Registry()
        self.crashes = crashes or Crashes()
        self._dying: set[asyncio.Task[None]] = set()
        self._suspects: dict[Path, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._serial = 0
        self._closed = False

    def loaded(self) -> list[Instance]:
        """Instances that can be used, in the order in which they were loaded."""
        return list(self._registry.instances.values())

    def loading(self) -> list[Load]:
        """Loads in progress."""
        return list(self._registry.loads.values())

    def suspects(self, entry: ModelEntry) -> asyncio.Lock:
        """Held by a request that may have crashed the model while it is tried again; see `retries`."""
        return self._suspects.setdefault(entry.path, asyncio.Lock())

    @contextlib.asynccontextmanager
    async def lease(
        self,
        name: str | None,
        kind: Kind = "llm",
        *,
        ttl: float | None = None,
        options: LoadConfig | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Lease, None]:
        """Use a model for a while, loading it if need be.

        Parameters
        ----------
        name
            An instance's id or a model's name. None is the loaded model of that kind that was used
            last, else the default one.
        kind
            What it is needed for.
        ttl, options
            Seconds of idleness and load options. They apply only if this call loads the model.
        on_progress
            Called with 0 to 1 while it loads.

        Raises
        ------
        ModelNotFound
            There is no such model, or it is not loaded and loading on demand is off.
        NotSupported
            The model is of the other kind.
        InvalidModel, ModelLoadFailed, EngineCrashed
            It cannot be loaded.
        KeepsCrashing
            It has crashed too often of late.
        """
        check_ttl(ttl)
        began = time.monotonic()
        instance, waited = await self._acquire(name, kind, ttl, options, on_progress)
        try:
            yield Lease(instance, time.monotonic() - began if waited else None)
        finally:
            self._release(instance)

    async def check(self, name: str, kind: Kind) -> None:
        """Raise what `lease` would raise for such a name, as far as that can be told in advance.

        Raises
        ------
        ModelNotFound, NotSupported
            As for `lease`.
        """
        found = self._registry.by_id(name)
        check_kind(found.entry if found else await self._planner.entry(name, kind), kind)

    async def load(
        self,
        name: str,
        config: LoadConfig | None = None,
        *,
        identifier: str | None = None,
        ttl: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Instance:
        """Load a model explicitly, however often it has crashed. Cancelling cancels the load.

        Parameters
        ----------
        identifier
            The id of the instance; default the model's key.
        ttl
            Seconds of idleness after which it is unloaded; default never.

        Raises
        ------
        ModelNotFound, InvalidRequest, InvalidModel, ModelLoadFailed, EngineCrashed
            As for `lease`; the identifier is taken or empty.
        """
        check_ttl(ttl)
        entry = await self._catalog.resolve(name)
        self._bury_dead()
        if identifier is not None:
            self._registry.check_identifier(identifier)
        config = config or LoadConfig()
        if instance := self._keep(entry, config, identifier, ttl):
            return instance
        self.crashes.forget(entry)
        plan = self._planner.explicit(entry, config, identifier, ttl)
        load = self._adopt(plan, identifier) or self._begin(plan)
        try:
            return await load.wait(on_progress, uses=False, release=self._release)
        except asyncio.CancelledError:
            if not load.has_owner:
                # Requests wait for it still: from now on it is their load.
                load.plan = replace(load.plan, jit=True, ttl=self._planner.jit_ttl)
            raise

    async def draft(self, name: str | None) -> Path | None:
        """The file of the draft model of that name.

        Raises
        ------
        ModelNotFound, InvalidModel
            There is no such model.
        """
        return await self._planner.draft(name)

    async def plan(self, name: str, config: LoadConfig) -> Plan:
        """What `load` would do with these; nothing is loaded."""
        if config.draft_model:
            path = await self.draft(config.draft_model)
            config = msgspec.structs.replace(config, draft_model=str(path))
        return self._planner.explicit(await self._catalog.resolve(name), config, None, None)

    async def unloaded(self, name: str | None, kind: Kind = "llm") -> ModelEntry | None:
        """The model that a lease of these would have to load; None if it is there, or on its way.

        Raises
        ------
        ModelNotFound, NotSupported
            As for `lease`.
        """
        found = await self._find(name, kind, None, None)
        return found.entry if isinstance(found, Plan) else None

    async def unload(self, instance_id: str) -> None:
        """Unload an instance, or cancel its load. Requests that use it get `ModelUnloaded`.

        `instance_id` is an id, or the name of a model that is loaded once.
        """
        found = self._registry.named(instance_id)
        if isinstance(found, Load):
            self._abandon(found)
        elif isinstance(found, Instance):
            await asyncio.wait({self._retire(found)})
        elif self._registry.crashed.pop(instance_id, None) is None:
            raise self._registry.not_loaded(instance_id)

    async def unload_all(self) -> None:
        """Unload every instance and cancel every load."""
        self._registry.crashed.clear()
        for load in self.loading():
            self._abandon(load)
        stopping = {self._retire(instance) for instance in self.loaded()}
        if stopping:
            await asyncio.wait(stopping)

    async def close(self) -> None:
        """Unload everything and load nothing any more."""
        self._closed = True
        await self.unload_all()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- finding ------------------------------------------------------------------

    async def _acquire(
        self,
        name: str | None,
        kind: Kind,
        ttl: float | None,
        options: LoadConfig | None,
        on_progress: OnProgress | None,
    ) -> tuple[Instance, bool]:
        """An instance that counts as used, and whether there was a load to wait for."""
        found = await self._find(name, kind, ttl, options)
        if isinstance(found, Instance):
            self._use(found)
            return found, False
        load = self._begin(found) if isinstance(found, Plan) else found
        return await load.wait(on_progress, uses=True, release=self._release), True

    async def _find(
        self, name: str | None, kind: Kind, ttl: float | None, options: LoadConfig | None
    ) -> Instance | Load | Plan:
        """What there is of that name, or what would have to be loaded."""
        self._bury_dead()
        found = self._registry.by_id(name) if name else self._registry.latest(kind)
        if found is None:
            entry = await self._planner.entry(name, kind)
            self._bury_dead()
            found = self._registry.of_model(entry)
            if found is None:
                check_kind(entry, kind)
                found = self._planner.for_request(entry, ttl, options)
        check_kind(found.entry, kind)
        return found

    def _keep(
        self, entry: ModelEntry, config: LoadConfig, identifier: str | None, ttl: float | None
    ) -> Instance | None:
        """Make an instance that a request loaded an explicit one, if it is what is wanted."""
        for instance in self.loaded():
            same = instance.jit and instance.entry.path == entry.path
            if same and identifier in {None, instance.id} and instance.satisfies(config):
                instance.jit, instance.ttl = False, ttl
                self._restart_timer(instance)
                return instance
        return None

    def _adopt(self, plan: Plan, identifier: str | None) -> Load | None:
        """The same for a load that a request has begun."""
        for load in self._registry.loads.values():
            same = load.plan.jit and load.entry.path == plan.entry.path
            if same and identifier is None and satisfies(plan.config, load.plan.config):
                load.plan = replace(load.plan, jit=False, ttl=plan.ttl)
                return load
        return None

    # --- loading ------------------------------------------------------------------

    def _begin(self, plan: Plan) -> Load:
        if self._closed:
            raise ModelUnloaded("The server is shutting down.")
        self._serial += 1
        plan = replace(plan, id=self._registry.free_id(plan.id))
        load = Load(plan, self._serial, self._abandon)
        self._registry.loads[plan.id] = load
        load.task = self._spawn(self._run(load))
        return load

    async def _run(self, load: Load) -> None:
        plan, began = load.plan, time.monotonic()
        try:
            await self._after_crashes(plan.entry)
            if plan.jit:
                await self._make_room(plan.entry.kind)
            log = await asyncio.to_thread(self._log_file, plan.id)
            draft = await self.draft(plan.config.draft_model)
            config = msgspec.structs.replace(plan.config, draft_model=str(draft) if draft else None)
            worker = await self._start(plan.entry.path, config, log=log, on_progress=load.report)
        except LmnbError as error:
            if isinstance(error, EngineCrashed):
                self.crashes.record(plan.entry, error, answered=False)
            self._fail(load, error)
        except Exception as error:  # noqa: BLE001  Whatever it is, nobody may wait for ever.
            self._fail(load, ModelLoadFailed(f"{plan.entry.key} could not be loaded: {error!r}."))
        else:
            self._drop(load)
            self._add(load, worker, time.monotonic() - began)
        # A failed load no longer stands behind others, and a new instance does.
        self._evict_idle(plan.entry.kind)

    async def _after_crashes(self, entry: ModelEntry) -> None:
        """Wait until crashed processes have given their memory back, then see whether to go on."""
        while self._dying:
            await asyncio.wait(self._dying)
        self.crashes.check(entry)

    async def _make_room(self, kind: Kind) -> None:
        stopping = self._evict_idle(kind)
        if stopping:
            await asyncio.wait(stopping)

    def _add(self, load: Load, worker: Worker, seconds: float) -> None:
        plan = load.plan
        instance = Instance(
            id=plan.id,
            entry=plan.entry,
            worker=worker,
            requested=plan.config,
            jit=plan.jit,
            ttl=plan.ttl,
            serial=load.serial,
            load_seconds=seconds,
            warnings=_warnings(plan, worker),
        )
        self._registry.instances[plan.id] = instance
        self._registry.crashed.pop(plan.id, None)
        load.finish(instance)
        self._restart_timer(instance)
        instance.watch = self._spawn(self._watch(instance))

    def _fail(self, load: Load, error: LmnbError) -> None:
        # What cannot be loaded as it was is looked up afresh the next time.
        self._registry.crashed.pop(load.id, None)
        self._drop(load)
        load.fail(error)

    def _drop(self, load: Load) -> None:
        if self._registry.loads.get(load.id) is load:
            del self._registry.loads[load.id]

    def _abandon(self, load: Load) -> None:
        """Cancel a load. It is forgotten at once, so that nobody joins it any more."""
        self._drop(load)
        load.fail(ModelUnloaded(f"The load of {load.id} was cancelled."))
        if load.task is not None:
            load.task.cancel()

    def _log_file(self, instance_id: str) -> Path:
        """A worker's own log, begun anew when it has become long."""
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in instance_id)
        path = self._catalog.home / "log" / f"model-{safe}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _MAX_LOG:
            path.replace(path.with_name(path.name + ".1"))
        return path

    # --- living and dying -----------------------------------------------------------

    def _use(self, instance: Instance) -> None:
        instance.active += 1
        self._restart_timer(instance)

    def _release(self, instance: Instance) -> None:
        instance.active -= 1
        if instance.active == 0:
            instance.last_used = time.time()
            self._restart_timer(instance)
            self._evict_idle(instance.entry.kind)

    def _restart_timer(self, instance: Instance) -> None:
        """The timer runs only while the instance is idle and can be used."""
        if instance.timer is not None:
            instance.timer.cancel()
            instance.timer = None
        if instance.ttl is not None and not instance.active and not instance.unloading:
            loop = asyncio.get_running_loop()
            instance.timer = loop.call_later(instance.ttl, self._expire, instance)

    def _expire(self, instance: Instance) -> None:
        if not instance.active and not instance.unloading:
            self._retire(instance)

    def _evict_idle(self, kind: Kind) -> set[asyncio.Task[None]]:
        """With auto-evict: unload idle instances loaded by request, except the newest."""
        if not self._settings.auto_evict:
            return set()
        older = self._registry.jit_of(kind)[:-1]
        return {
            self._retire(one) for one in older if isinstance(one, Instance) and one.state == "idle"
        }

    def _retire(self, instance: Instance) -> asyncio.Task[None]:
        """Take an instance out of use and end its worker."""
        if self._registry.instances.get(instance.id) is instance:
            del self._registry.instances[instance.id]
        instance.unloading = True
        self._restart_timer(instance)
        return self._spawn(instance.worker.stop())

    async def _watch(self, instance: Instance) -> None:
        error = await instance.worker.wait_closed()
        if isinstance(error, EngineCrashed):
            answered = instance.worker.answered > 0
            self.crashes.record(instance.entry, error, answered=answered)
        self._bury(instance)

    def _bury(self, instance: Instance) -> None:
        """Forget an instance whose worker died by itself, but not how to load it again."""
        if instance.unloading:
            return
        self._registry.crashed[instance.id] = Plan(
            id=instance.id,
            entry=instance.entry,
            config=instance.requested,
            jit=instance.jit,
            ttl=instance.ttl,
        )
        del self._registry.instances[instance.id]
        instance.unloading = True
        self._restart_timer(instance)
        if instance.watch is not None and not instance.watch.done():
            self._dying.add(instance.watch)
            instance.watch.add_done_callback(self._dying.discard)

    def _bury_dead(self) -> None:
        """A request may come before `_watch` has heard of the end of a worker."""
        for instance in self.loaded():
            if not instance.worker.is_alive:
                self._bury(instance)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("A worker could not be ended or watched", exc_info=error)


def _warnings(plan: Plan, worker: Worker) -> list[str]:
    wanted, trained = plan.config.context_length, worker.info.trained_context_length
    if not wanted or not trained or wanted <= trained:
        return []
    text = (
        f"The context of {wanted} tokens is longer than the {trained} the model was trained for: "
        "answers may become poor."
    )
    return [text]
