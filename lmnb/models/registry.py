"""What is loaded, loading, leaving, and what was loaded when its worker crashed; and finding it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from lmnb.engine.gguf import Kind
from lmnb.errors import InvalidRequest, ModelNotFound
from lmnb.models.entry import ModelEntry
from lmnb.models.instance import Instance
from lmnb.models.loading import Load, Plan

Present: TypeAlias = Instance | Load
Known: TypeAlias = Instance | Load | Plan

_LONGEST = 200
"""Characters of an id that somebody chooses. It is part of the name of a file."""


class Registry:
    """Instances, loads and the plans of crashed instances, each by id.

    `leaving` are instances that are out of use, and whose processes have not ended yet.
    """

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.loads: dict[str, Load] = {}
        self.crashed: dict[str, Plan] = {}
        self.leaving: list[Instance] = []

    def by_id(self, name: str) -> Known | None:
        """What carries that very id, whatever its case; a crashed instance last."""
        wanted = name.strip().casefold()
        for key, known in self._all():
            if key.casefold() == wanted:
                return known
        return None

    def of_model(self, entry: ModelEntry) -> Known | None:
        """An instance of the model, the least busy one; or a load; or how it was loaded."""
        same = [known for _, known in self._all() if known.entry.path == entry.path]
        instances = [one for one in same if isinstance(one, Instance)]
        if instances:
            return min(instances, key=lambda one: (one.active, one.serial))
        return same[0] if same else None

    def latest(self, kind: Kind) -> Present | None:
        """The instance of that kind that is in use or was used last; or the newest load."""
        instances = [one for one in self.instances.values() if one.entry.kind == kind]
        if instances:
            return max(instances, key=lambda one: (one.active > 0, one.last_used))
        loads = [load for load in self.loads.values() if load.entry.kind == kind]
        return loads[-1] if loads else None

    def named(self, name: str) -> Present | None:
        """The instance or load of that id, or of that model if there is only one."""
        found = self.by_id(name)
        if isinstance(found, Instance | Load):
            return found
        wanted = name.strip().casefold()
        present = (one for _, one in self._all() if not isinstance(one, Plan))
        same = [one for one in present if wanted in _spellings(one.entry)]
        if len(same) > 1:
            raise ModelNotFound(
                f"{name!r} is loaded more than once: {', '.join(one.id for one in same)}.",
                hint="Name one of them.",
                param="instance_id",
            )
        return same[0] if same else None

    def leaving_as(self, name: str) -> Instance | None:
        """The instance that is leaving and had that id."""
        wanted = name.strip().casefold()
        return next((one for one in self.leaving if one.id.casefold() == wanted), None)

    def jit_of(self, kind: Kind) -> list[Present]:
        """Instances and loads of that kind that requests brought about, the newest last."""
        instances: list[Present] = [one for one in self.instances.values() if one.jit]
        loads: list[Present] = [one for one in self.loads.values() if one.jit]
        same = [one for one in [*instances, *loads] if one.entry.kind == kind]
        return sorted(same, key=lambda one: one.serial)

    def free_id(self, wanted: str) -> str:
        """`wanted`, or `wanted:2` and so on if it is taken."""
        name, number = wanted, 1
        while name in self.instances or name in self.loads:
            number += 1
            name = f"{wanted}:{number}"
        return name

    def check_identifier(self, identifier: str) -> None:
        """Raise `InvalidRequest` if no new instance can have that id."""
        if not identifier.strip():
            raise InvalidRequest("The identifier is empty.", param="identifier")
        if not identifier.isprintable() or len(identifier) > _LONGEST:
            raise InvalidRequest(
                f"An identifier is one line of at most {_LONGEST} printable characters.",
                param="identifier",
            )
        if identifier in self.instances or identifier in self.loads:
            raise InvalidRequest(
                f"An instance {identifier!r} is already loaded.",
                hint="Unload it first, or choose another identifier.",
                param="identifier",
            )

    def not_loaded(self, name: str) -> ModelNotFound:
        """The error for a name that nothing loaded has."""
        ids = ", ".join([*self.instances, *self.loads])
        return ModelNotFound(
            f"No model {name!r} is loaded. " + (f"Loaded: {ids}." if ids else "Nothing is loaded."),
            param="instance_id",
        )

    def _all(self) -> Iterator[tuple[str, Known]]:
        yield from self.instances.items()
        yield from self.loads.items()
        yield from self.crashed.items()


def _spellings(entry: ModelEntry) -> set[str]:
    names = {entry.key, entry.variant, entry.base_key}
    return {name.casefold() for one in names for name in (one, one.rpartition("/")[2])}
