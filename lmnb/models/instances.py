"""Which models are loaded: just in time, explicitly, how long they stay, what happens on a crash.

The rules are LM Studio's (developer docs, "Idle TTL and Auto-Evict"), with what they leave open:

- A request for a model that is not loaded loads it, unless that is switched off. Such an instance
  has the default TTL unless the request gives one; that of a later request takes its place. `load`
  is explicit: no TTL unless given, and none from requests. `idling` has the rules of idleness.
- An explicit load of a model that a request has loaded with fitting options keeps that instance.
  Another explicit load of the same model makes a second one, `key:2`, as in LM Studio; people who
  load (`reuse`), in two notebooks or the same cell once more, share one that fits.
- When a worker dies, its instance is forgotten, but not how it was loaded: the next request for its
  id or its model loads it again in the same way, unless the model keeps crashing (`crashes`).

Everything here runs on the server's event loop; between two awaits nothing else changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from lmnb.engine.client import Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import Kind
from lmnb.models.catalog import Catalog
from lmnb.models.clock import Clock, SystemClock
from lmnb.models.crashes import Crashes
from lmnb.models.ending import Ending
from lmnb.models.entry import ModelEntry
from lmnb.models.idling import Idling
from lmnb.models.instance import Instance
from lmnb.models.loader import Loader, StartWorker
from lmnb.models.loading import Load, OnProgress, Plan
from lmnb.models.planning import ManagerSettings, Planner, check_kind, check_ttl
from lmnb.models.registry import Present, Registry
from lmnb.models.tasks import Tasks


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
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self._catalog = catalog
        self._planner = Planner(catalog, settings)
        self._registry = Registry()
        self._tasks = Tasks()
        self._suspects: dict[Path, asyncio.Lock] = {}
        self.crashes = Crashes(now=clock.now)
        self._ending = Ending(self._registry, self.crashes, self._tasks)
        self._idling = Idling(self._registry, settings, clock, self._ending.retire)
        self._loader = Loader(
            self._registry,
            self._planner,
            self.crashes,
            self._ending,
            self._idling,
            self._tasks,
            start=start,
            clock=clock,
            logs=catalog.home / "log",
        )

    def loaded(self) -> list[Instance]:
        """Instances that can be used, in the order in which they were loaded."""
        return list(self._registry.instances.values())

    def loading(self) -> list[Load]:
        """Loads in progress."""
        return list(self._registry.loads.values())

    def leaving(self) -> list[Instance]:
        """Instances that are being unloaded: some wait for their last answers."""
        return list(self._registry.leaving)

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
        ttl
            Seconds of idleness after which it is unloaded, from now on, if a request has loaded it.
        options
            Of a load. They apply only if this call loads the model.
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
            self._idling.release(instance)

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
        reuse: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Instance:
        """Load a model explicitly, however often it has crashed. Cancelling cancels the load.

        Parameters
        ----------
        identifier
            The id of the instance; default the model's key.
        ttl
            Seconds of idleness after which it is unloaded; default never.
        reuse
            An instance that is loaded, or loading, with these options is enough; `name` may be its
            id. It has the new `ttl` then.
        on_progress
            As for `lease`; never called if nothing has to be loaded.

        Raises
        ------
        ModelNotFound, InvalidRequest, InvalidModel, ModelLoadFailed, EngineCrashed
            As for `lease`; the identifier is taken or empty.
        """
        check_ttl(ttl)
        wanted = await self._want(name, config, identifier, reuse=reuse)
        found = self._fitting(wanted)
        if isinstance(found, Instance):
            found.jit, found.ttl = False, ttl
            self._idling.renew(found)
            return found
        if found is None and wanted.identifier is not None:
            self._registry.check_identifier(wanted.identifier)
        self.crashes.forget(wanted.entry)
        load = found or self._loader.begin(
            self._planner.explicit(wanted.entry, wanted.config, wanted.identifier, ttl)
        )
        load.plan = replace(load.plan, jit=False, ttl=ttl)
        try:
            return await load.wait(on_progress, uses=False, release=self._idling.release)
        except asyncio.CancelledError:
            if not load.has_owner:
                # Requests wait for it still: from now on it is their load.
                own = self._planner.jit_ttl if load.request_ttl is None else load.request_ttl
                load.plan = replace(load.plan, jit=True, ttl=own)
            raise

    async def find(
        self, name: str, config: LoadConfig, *, identifier: str | None = None
    ) -> Instance | None:
        """The loaded instance that `load` with `reuse` would come to, if there is one.

        Raises
        ------
        ModelNotFound
            There is no such model.
        """
        found = self._fitting(await self._want(name, config, identifier, reuse=True))
        return found if isinstance(found, Instance) else None

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
        found = await self._find(name, kind, None)
        return found.entry if isinstance(found, Plan) else None

    async def unload(self, instance_id: str, *, wait: bool = False) -> str:
        """Unload an instance, or cancel its load; its id. Its memory is free again then.

        Requests that use it get `ModelUnloaded`. With `wait` they are answered first, but no new
        ones; who stops waiting does not change that, another `unload` does.

        `instance_id` is an id, or the name of a model that is loaded once.
        """
        found = self._registry.named(instance_id) or self._registry.leaving_as(instance_id)
        if found is None:
            if self._registry.crashed.pop(instance_id, None) is None:
                raise self._registry.not_loaded(instance_id)
            return instance_id
        await asyncio.wait({self._end(found, wait=wait)})
        return found.id

    async def unload_all(self, *, wait: bool = False) -> list[str]:
        """Unload every instance and cancel every load, as `unload` does; their ids."""
        self._registry.crashed.clear()
        every: list[Present] = [*self.loaded(), *self.loading(), *self.leaving()]
        if ends := {self._end(one, wait=wait) for one in every}:
            await asyncio.wait(ends)
        return [one.id for one in every]

    async def close(self) -> None:
        """Unload everything and load nothing any more."""
        self._loader.close()
        await self.unload_all()
        await self._tasks.end()

    def _end(self, one: Present, *, wait: bool) -> asyncio.Task[None]:
        if isinstance(one, Load):
            return self._loader.abandon(one)
        return self._ending.leave(one) if wait else self._ending.retire(one)

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
        found = await self._find(name, kind, options)
        if isinstance(found, Instance):
            if ttl is not None and found.jit:
                found.ttl = ttl
            self._idling.use(found)
            return found, False
        load = self._loader.begin(found) if isinstance(found, Plan) else found
        if ttl is not None:
            load.request_ttl = ttl
            load.plan = replace(load.plan, ttl=ttl if load.jit else load.plan.ttl)
        return await load.wait(on_progress, uses=True, release=self._idling.release), True

    async def _find(
        self, name: str | None, kind: Kind, options: LoadConfig | None
    ) -> Instance | Load | Plan:
        """What there is of that name, or what would have to be loaded."""
        self._ending.bury_dead()
        found = self._registry.by_id(name) if name else self._registry.latest(kind)
        if found is None:
            entry = await self._planner.entry(name, kind)
            self._ending.bury_dead()
            found = self._registry.of_model(entry)
            if found is None:
                check_kind(entry, kind)
                found = self._planner.for_request(entry, options)
        check_kind(found.entry, kind)
        return found

    async def _want(
        self, name: str, config: LoadConfig | None, identifier: str | None, *, reuse: bool
    ) -> _Wanted:
        config = config or LoadConfig()
        self._ending.bury_dead()
        present = self._registry.by_id(name) if reuse and identifier is None else None
        if isinstance(present, Instance | Load) and present.satisfies(config):
            return _Wanted(present.entry, config, present.id, reuse)
        entry = await self._catalog.resolve(name)
        self._ending.bury_dead()
        return _Wanted(entry, config, identifier, reuse)

    def _fitting(self, wanted: _Wanted) -> Present | None:
        """What an explicit load makes do with: one that a request has begun, or with `reuse` any."""
        every: list[Present] = [*self.loaded(), *self.loading()]
        for one in every:
            same = one.entry.path == wanted.entry.path and wanted.identifier in {None, one.id}
            if same and (one.jit or wanted.reuse) and one.satisfies(wanted.config):
                return one
        return None


@dataclass(frozen=True)
class _Wanted:
    """What an explicit load is to lead to."""

    entry: ModelEntry
    config: LoadConfig
    identifier: str | None
    reuse: bool
