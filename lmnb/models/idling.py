"""When instances that nobody uses are unloaded: TTLs and auto-evict.

The rules are LM Studio's (developer docs, "Idle TTL and Auto-Evict"), with what they leave open:

- The TTL runs while no request uses the instance and starts anew with each one.
- With auto-evict, a load by request first unloads idle instances that were loaded by request, unless
  it cannot be done or would not fit without them either; one that is still busy goes as soon as it is idle. One language model and one embedding model count
  separately: retrieval needs both in every question, and each would evict the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmnb.engine.gguf import Kind
from lmnb.models.clock import Clock
from lmnb.models.instance import Instance
from lmnb.models.planning import ManagerSettings
from lmnb.models.registry import Registry


class Idling:
    """Counts who uses an instance, and has it retired when nobody has for long enough."""

    def __init__(
        self,
        registry: Registry,
        settings: ManagerSettings,
        clock: Clock,
        retire: Callable[[Instance], Any],
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._retire = retire

    def use(self, instance: Instance) -> None:
        """A request begins to use it."""
        instance.active += 1
        instance.stop_timer()

    def release(self, instance: Instance) -> None:
        """A request has ended."""
        instance.active -= 1
        if instance.active:
            return
        instance.last_used = self._clock.now()
        instance.unused.set()
        self.renew(instance)
        self.evict(instance.entry.kind)

    def renew(self, instance: Instance) -> None:
        """Begin its TTL anew, if it is idle and has one."""
        instance.stop_timer()
        if instance.ttl is None or instance.active or instance.unloading:
            return
        instance.expires = self._clock.now() + instance.ttl
        instance.timer = self._clock.call_later(instance.ttl, lambda: self._expire(instance))

    def evict(self, kind: Kind) -> None:
        """Unload what is `evictable`."""
        for one in self.evictable(kind):
            self._retire(one)

    def evictable(self, kind: Kind) -> list[Instance]:
        """With auto-evict: idle instances loaded by request, except the newest, or those before a load."""
        if not self._settings.auto_evict:
            return []
        older = self._registry.jit_of(kind)[:-1]
        return [one for one in older if isinstance(one, Instance) and not one.active]

    def _expire(self, instance: Instance) -> None:
        if not instance.active and not instance.unloading:
            self._retire(instance)
