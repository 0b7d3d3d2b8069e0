"""Scenes with the manager of instances: workers that do as they are told, time that is told to pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
from gguf_bytes import make_gguf, small_model

from lmnb.engine.client import Room, Worker
from lmnb.engine.config import Estimate, LoadConfig, ModelInfo
from lmnb.engine.protocol import Memory
from lmnb.errors import EngineCrashed, LmnbError, ModelLoadFailed
from lmnb.models.catalog import Catalog
from lmnb.models.instances import Manager
from lmnb.models.loading import OnProgress

HOUR = 3600.0


@dataclass
class Settings:
    jit_loading: bool = True
    jit_ttl: float = HOUR
    auto_evict: bool = True
    default_context_length: int | None = None


class StandIn:
    """A worker without a process."""

    def __init__(self, path: Path, config: LoadConfig) -> None:
        filled = msgspec.structs.replace(
            LoadConfig(context_length=4096, parallel=4, eval_batch_size=512),
            **{k: v for k, v in msgspec.structs.asdict(config).items() if v is not None},
        )
        self.path = path
        self.info = ModelInfo(
            architecture="llama",
            kind="llm",
            context_length=filled.context_length or 0,
            trained_context_length=2048,
            vocab_size=1,
            embedding_length=1,
            layers=1,
            gpu_layers=0,
            devices=(),
            device="cpu",
            chat_templates={},
            bos_text="",
            eos_text="",
            adds_bos=False,
            sampling={},
            config=filled,
            estimate=Estimate(
                weights=0,
                cache=0,
                compute=0,
                other=0,
                gpu=0,
                free=0,
                gpu_free=0,
                context_length=4096,
                parallel=4,
                gpu_layers=0,
                experts_on_cpu=0,
            ),
            memory=0,
            load_seconds=0.0,
            system_info="",
        )
        self.stopped = False
        self.memory = 1000
        self.answered = 1
        self._closed: asyncio.Future[LmnbError | None] = asyncio.get_running_loop().create_future()

    @property
    def is_alive(self) -> bool:
        return not self._closed.done()

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.stopped = True
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> LmnbError | None:
        return await asyncio.shield(self._closed)

    async def crash(self) -> None:
        self._closed.set_result(EngineCrashed("It was killed."))
        for _ in range(5):
            await asyncio.sleep(0)


@dataclass
class Starter:
    """`Worker.start`, that waits for `gate` and tells what was asked of it.

    What it `refuses` would not fit, whatever makes room; an `error` comes after that.
    """

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[tuple[str, LoadConfig]] = field(default_factory=list)
    workers: list[StandIn] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    error: Exception | None = None
    refuses: bool = False
    promised: Memory | None = None
    alive_at_start: list[int] = field(default_factory=list)
    report: OnProgress | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    async def __call__(
        self,
        path: Path,
        config: LoadConfig,
        *,
        log: Path | None,
        on_progress: OnProgress | None,
        room: Room | None,
    ) -> Worker:
        assert log is not None
        assert log.parent.is_dir()
        self.begun.append((path.parent.name, config))
        self.promised = room.memory if room else None
        if self.refuses:
            raise ModelLoadFailed("It does not fit.")
        if room is not None:
            await room.make()
        self.alive_at_start.append(sum(not one.stopped for one in self.workers))
        self.report = on_progress
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(path.parent.name)
            raise
        if self.error:
            raise self.error
        worker = StandIn(path, config)
        self.workers.append(worker)
        return cast("Worker", worker)


class MovingClock:
    """Stands still, but for `advance`, which calls what is due at its very second."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[MovedTimer] = []

    def now(self) -> float:
        return self._now

    def call_later(self, seconds: float, callback: Callable[[], object]) -> MovedTimer:
        timer = MovedTimer(self._now + seconds, callback)
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self._now + seconds
        while due := [one for one in self._timers if one.at <= end and not one.is_over]:
            timer = min(due, key=lambda one: one.at)
            self._now, timer.is_over = timer.at, True
            timer.callback()
        self._now = end


@dataclass
class MovedTimer:
    at: float
    callback: Callable[[], object]
    is_over: bool = False

    def cancel(self) -> None:
        self.is_over = True


@dataclass
class Case:
    manager: Manager
    starter: Starter
    settings: Settings
    clock: MovingClock

    def ids(self) -> list[str]:
        return [one.id for one in self.manager.loaded()]

    def stopped(self) -> list[bool]:
        """Whether the workers have been ended, in the order in which they were started."""
        return [one.stopped for one in self.starter.workers]

    async def use(self, name: str | None, **options: float) -> None:
        async with self.manager.lease(name, **options):  # type: ignore[arg-type]
            pass
        await settle()

    async def after(self, seconds: float) -> list[str]:
        """What is still loaded then."""
        self.clock.advance(seconds)
        await settle()
        return self.ids()


async def settle() -> None:
    """Let everything that can happen happen; work in threads too, since there is one thread."""
    for _ in range(10):
        await asyncio.to_thread(int)
        await asyncio.sleep(0)


Play = Callable[[Callable[[Case], Awaitable[None]]], None]


def player(tmp_path: Path) -> Play:
    """Runs a scene with three language models (a, b, c) and an embedding model (e)."""
    for name in ("a", "b", "c"):
        folder = tmp_path / "models" / "maker" / name
        folder.mkdir(parents=True)
        (folder / "x-Q4_0.gguf").write_bytes(small_model(kilobytes=1))
    (tmp_path / "models" / "maker" / "e").mkdir()
    (tmp_path / "models" / "maker" / "e" / "e-F16.gguf").write_bytes(
        make_gguf({"general.architecture": "bert"})
    )

    def run(scene: Callable[[Case], Awaitable[None]]) -> None:
        async def main() -> None:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
            settings, starter, clock = Settings(), Starter(), MovingClock()
            catalog = Catalog(tmp_path, places=())
            manager = Manager(catalog, settings, start=starter, clock=clock)
            await scene(Case(manager, starter, settings, clock))
            starter.gate.set()
            await manager.close()
            assert manager.loaded() == []
            assert manager.loading() == []
            assert manager.leaving() == []
            assert all(worker.stopped for worker in starter.workers if not worker._closed.done())

        asyncio.run(main())

    return run
