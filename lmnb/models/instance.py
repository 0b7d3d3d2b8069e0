"""A loaded model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from lmnb.engine.client import Worker
from lmnb.engine.config import LoadConfig
from lmnb.models.clock import Clock, Timer
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
    unused
        Set when `active` becomes 0.
    last_used
        When it last became idle, or was loaded, by `clock`.
    timer, expires
        Unloads it, at that time by `clock`; None while it is in use or has no TTL.
    unloading
        It has been taken out of use; no request finds it any more.
    watch
        Waits for the end of the worker.
    tokens_per_second
        How fast its last answer was written; None before the first.
    load_seconds
        How long the load took; `warnings` are sentences for the user about it.
    """

    id: str
    entry: ModelEntry
    worker: Worker
    clock: Clock
    requested: LoadConfig
    jit: bool
    ttl: float | None
    serial: int
    load_seconds: float
    last_used: float
    warnings: list[str] = field(default_factory=list)
    active: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    unloading: bool = False
    timer: Timer | None = None
    expires: float | None = None
    watch: asyncio.Task[None] | None = None
    tokens_per_second: float | None = None

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
        if self.expires is None:
            return self.ttl
        return max(self.expires - self.clock.now(), 0.0)

    def stop_timer(self) -> None:
        """Let it live until a timer is set again."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.expires = None

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
