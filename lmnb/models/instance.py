"""A loaded model."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Literal

from lmnb.engine.client import Worker
from lmnb.engine.protocol import LoadConfig
from lmnb.models.entry import ModelEntry


@dataclass(eq=False, kw_only=True)
class Instance:
    """A model in a worker process.

    id
        The key of the model, `key:2` for a second instance of it, or what the user chose.
    requested
        The configuration that was asked for; `config` is what became of it.
    jit
        Loaded by a request, rather than explicitly.
    ttl
        Seconds of idleness after which it is unloaded; None is never.
    active
        Requests that use it now. An instance in use is never idle.
    last_used
        Unix time at which it last became idle, or was loaded.
    watch
        Waits for the end of the worker.
    load_seconds
        How long the load took; `warnings` are sentences for the user about it.
    """

    id: str
    entry: ModelEntry
    worker: Worker
    requested: LoadConfig
    jit: bool
    ttl: float | None
    serial: int
    load_seconds: float
    warnings: list[str] = field(default_factory=list)
    active: int = 0
    last_used: float = field(default_factory=time.time)
    unloading: bool = False
    timer: asyncio.TimerHandle | None = None
    watch: asyncio.Task[None] | None = None

    @property
    def config(self) -> LoadConfig:
        """The configuration in force, every field set."""
        return self.worker.info.config

    @property
    def state(self) -> Literal["idle", "busy", "unloading"]:
        """What it is doing."""
        if self.unloading:
            return "unloading"
        return "busy" if self.active else "idle"

    @property
    def ttl_left(self) -> float | None:
        """Seconds until it is unloaded; the whole TTL while it is in use; None without a TTL."""
        if self.ttl is None or self.active:
            return self.ttl
        return max(self.ttl - (time.time() - self.last_used), 0.0)

    def satisfies(self, wanted: LoadConfig) -> bool:
        """Whether every option of `wanted` is what this instance was loaded with."""
        return satisfies(wanted, self.requested, self.config)


def satisfies(wanted: LoadConfig, *given: LoadConfig) -> bool:
    """Whether each option that is set in `wanted` has that value in one of `given`."""
    return all(
        value is None or any(getattr(config, name) == value for config in given)
        for name in LoadConfig.__struct_fields__
        for value in (getattr(wanted, name),)
    )
