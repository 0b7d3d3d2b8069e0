"""How instances end: unloaded at once, unloaded when their answers are done, or by a crash."""

from __future__ import annotations

import asyncio

from lmnb.errors import EngineCrashed
from lmnb.models.crashes import Crashes
from lmnb.models.instance import Instance
from lmnb.models.loading import Plan
from lmnb.models.registry import Registry
from lmnb.models.tasks import Tasks


class Ending:
    """Takes instances out of use, and sees their processes off.

    Of one that crashed it is remembered how it was loaded, so that the next request for its id or
    its model loads it again in the same way.
    """

    def __init__(self, registry: Registry, crashes: Crashes, tasks: Tasks) -> None:
        self._registry = registry
        self._crashes = crashes
        self._tasks = tasks
        self._ends: set[asyncio.Task[None]] = set()

    def watch(self, instance: Instance) -> None:
        """Notice from now on when the instance's process ends by itself."""
        instance.watch = self._tasks.spawn(self._watch(instance))

    def retire(self, instance: Instance) -> asyncio.Task[None]:
        """Take an instance out of use and end its process. Requests that use it fail."""
        self._take_out(instance)
        return self.add(self._tasks.spawn(self._stop(instance)))

    def leave(self, instance: Instance) -> asyncio.Task[None]:
        """Take an instance out of use, and end its process once no request uses it any more."""
        self._take_out(instance)
        return self._tasks.spawn(self._leave(instance))

    def bury_dead(self) -> None:
        """A request may come before `watch` has told of the end of a process."""
        for instance in list(self._registry.instances.values()):
            if not instance.worker.is_alive:
                self._bury(instance)

    def add(self, end: asyncio.Task[None]) -> asyncio.Task[None]:
        """Have `settled` wait for this, too: a process is ending, and gives its memory back."""
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        return end

    async def settled(self) -> None:
        """Return when all processes that are ending have given their memory back."""
        while self._ends:
            await asyncio.wait(self._ends)

    # --- inside ------------------------------------------------------------------

    def _take_out(self, instance: Instance) -> None:
        if self._registry.instances.get(instance.id) is instance:
            del self._registry.instances[instance.id]
            self._registry.leaving.append(instance)
        instance.unloading = True
        instance.stop_timer()

    async def _stop(self, instance: Instance) -> None:
        try:
            await instance.worker.stop()
        finally:
            if instance in self._registry.leaving:
                self._registry.leaving.remove(instance)

    async def _leave(self, instance: Instance) -> None:
        while instance.active:
            instance.unused.clear()
            await instance.unused.wait()
        await self.retire(instance)

    async def _watch(self, instance: Instance) -> None:
        error = await instance.worker.wait_closed()
        if isinstance(error, EngineCrashed):
            answered = instance.worker.answered > 0
            self._crashes.record(instance.entry, error, answered=answered)
        self._bury(instance)

    def _bury(self, instance: Instance) -> None:
        """Forget an instance whose process died by itself, but not how to load it again."""
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
        instance.stop_timer()
        if instance.watch is not None and not instance.watch.done():
            self.add(instance.watch)
