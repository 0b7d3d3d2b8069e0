"""The manager with real workers, on a model of a few thousand weights."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import made_models
import numpy as np
import psutil
import pytest
from gguf_bytes import small_model
from tiny_bert import write_model

from lmnb.engine.client import Worker
from lmnb.engine.config import LoadConfig
from lmnb.errors import EngineCrashed, InvalidModel, LmnbError, ModelLoadFailed, ModelUnloaded
from lmnb.models.catalog import Catalog
from lmnb.models.convert import convert_bert
from lmnb.models.instances import Manager


@dataclass
class Settings:
    jit_loading: bool = True
    jit_ttl: float = 3600.0
    auto_evict: bool = True
    default_context_length: int | None = None


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two embedding models and one that llama.cpp cannot load."""
    source = write_model(tmp_path / "source")
    for name in ("one", "two"):
        folder = tmp_path / "models" / "maker" / name
        folder.mkdir(parents=True)
        convert_bert(source, folder / f"{name}-F32.gguf", name=name, file_type="F32")
    (tmp_path / "models" / "maker" / "odd").mkdir()
    (tmp_path / "models" / "maker" / "odd" / "odd-Q4_0.gguf").write_bytes(small_model())
    return tmp_path


@asynccontextmanager
async def opened(home: Path) -> AsyncGenerator[Manager, None]:
    manager = Manager(Catalog(home, places=()), Settings())
    try:
        yield manager
    finally:
        await manager.close()


def run(home: Path, scene: Callable[[Manager], Awaitable[None]]) -> None:
    async def main() -> None:
        async with opened(home) as manager:
            await scene(manager)

    asyncio.run(main())
    assert workers() == []


def workers() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "lmnb.engine.worker" in child.cmdline()
    ]


async def embed(manager: Manager, name: str = "maker/one") -> bytes:
    async with manager.lease(name, "embedding") as lease:
        return (await lease.instance.worker.embed(["the cat sat"])).vectors


def test_concurrent_requests_on_one_process(home: Path) -> None:
    async def scene(manager: Manager) -> None:
        vectors = await asyncio.gather(*(embed(manager) for _ in range(8)))
        first = np.frombuffer(vectors[0], np.float32)
        for vector in vectors:  # sums come out a little differently in passes of other sizes
            np.testing.assert_allclose(np.frombuffer(vector, np.float32), first, atol=1e-5)
        assert len(workers()) == 1
        [instance] = manager.loaded()
        assert instance.config.context_length
        assert (home / "log" / "model-maker_one.log").exists()

    run(home, scene)


def test_killed_workers_come_back_and_others_do_not_notice(home: Path) -> None:
    async def scene(manager: Manager) -> None:
        await manager.load("maker/one")
        await manager.load("maker/two")
        before = await embed(manager)
        other = manager.loaded()[1].worker.pid
        async with manager.lease("maker/one", "embedding") as lease:
            worker = lease.instance.worker
            os.kill(worker.pid, signal.SIGKILL)
            with pytest.raises(EngineCrashed, match="killed"):
                await worker.embed(["the cat sat"])
        assert await worker.wait_closed() is not None
        assert await embed(manager) == before
        assert {one.id for one in manager.loaded()} == {"maker/one", "maker/two"}
        assert other in {one.worker.pid for one in manager.loaded()}

    run(home, scene)


def test_a_request_right_after_a_crash_loads_again(home: Path) -> None:
    """However close it comes: the error of the crash is one request's, never the next one's."""

    async def scene(manager: Manager) -> None:
        await embed(manager)
        for _ in range(3):
            async with manager.lease("maker/one", "embedding") as lease:
                os.kill(lease.instance.worker.pid, signal.SIGKILL)
                with pytest.raises(EngineCrashed):
                    await lease.instance.worker.embed(["the cat"])
            await embed(manager)

    run(home, scene)


def test_unloading_ends_what_is_running(home: Path) -> None:
    async def scene(manager: Manager) -> None:
        async def many() -> None:
            async with manager.lease("maker/one", "embedding") as lease:
                while True:
                    await lease.instance.worker.embed(["the cat sat on the mat"] * 50)

        task = asyncio.create_task(many())
        while not (manager.loaded() and manager.loaded()[0].active):
            await asyncio.sleep(0.01)
        await manager.unload("maker/one")
        with pytest.raises(ModelUnloaded):
            await task
        assert workers() == []

    run(home, scene)


def test_cancelling_a_load_ends_its_process(home: Path) -> None:
    async def scene(manager: Manager) -> None:
        task = asyncio.create_task(embed(manager))
        while not workers():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(500):
            if not workers():
                break
            await asyncio.sleep(0.01)
        assert workers() == []
        assert manager.loaded() == []
        await embed(manager)

    run(home, scene)


@pytest.mark.parametrize("steps", range(8))
def test_a_load_can_be_cancelled_at_any_step(home: Path, steps: int) -> None:
    """Also before the process is connected: no zombie, nothing that is still open."""

    async def scene(_manager: Manager) -> None:
        before = psutil.Process().children()  # Servers of other tests.
        start = Worker.start(home / "models" / "maker" / "one" / "one-F32.gguf", LoadConfig())
        task = asyncio.create_task(start)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert psutil.Process().children() == before

    run(home, scene)
    gc.collect()  # pytest makes an error of what is found open


def test_what_llama_cpp_refuses_is_an_invalid_model(home: Path) -> None:
    async def scene(manager: Manager) -> None:
        with pytest.raises(InvalidModel) as info:
            await manager.load("maker/odd")
        assert isinstance(info.value, LmnbError)
        assert manager.loaded() == []

    run(home, scene)


def test_eviction_gives_the_memory_back_first(home: Path) -> None:
    async def scene(manager: Manager) -> None:
        await embed(manager, "maker/one")
        await embed(manager, "maker/two")
        assert [one.id for one in manager.loaded()] == ["maker/two"]
        assert len(workers()) == 1

    run(home, scene)


def test_what_does_not_fit_is_refused_before_anything_is_evicted(home: Path) -> None:
    async def scene(manager: Manager) -> None:
        chat = LoadConfig(context_length=1 << 30)
        async with manager.lease("maker/small", options=LoadConfig(context_length=256)):
            pass
        with pytest.raises(ModelLoadFailed, match="would be free without the models it replaces"):
            async with manager.lease("maker/huge", options=chat):
                pass
        assert [one.id for one in manager.loaded()] == ["maker/small"]
        assert [one.pid for one in workers()] == [manager.loaded()[0].worker.pid]

    for name in ("small", "huge"):
        folder = home / "models" / "maker" / name
        folder.mkdir()
        made_models.llama(folder / f"{name}-F32.gguf", context=512)
    run(home, scene)
