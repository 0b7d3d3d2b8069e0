"""The worker as a process: loading, errors, death in both directions."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from lmnb.engine.client import Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import Sampling, Segment
from lmnb.engine.protocol import Delta, End, Generate, Progress
from lmnb.errors import (
    EngineCrashed,
    InvalidModel,
    InvalidRequest,
    ModelLoadFailed,
    ModelUnloaded,
    NotSupported,
)

SMALL = LoadConfig(context_length=2048, parallel=4)


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(main())  # type: ignore[arg-type]


@asynccontextmanager
async def started(path: Path, config: LoadConfig = SMALL) -> AsyncIterator[Worker]:
    worker = await Worker.start(path, config)
    try:
        yield worker
    finally:
        await worker.stop()
        assert not psutil.pid_exists(worker.pid)


def text(words: str, **options: object) -> Generate:
    segments = (Segment(words, special=True),)
    return Generate(id=0, segments=segments, sampling=Sampling(temperature=0), **options)  # type: ignore[arg-type]


async def answer(worker: Worker, command: Generate) -> tuple[str, End]:
    found = ""
    async for update in worker.generate(command):
        if isinstance(update, Delta):
            found += update.text
        elif isinstance(update, End):
            return found, update
    raise AssertionError("no end")


def test_load_generate_tokenize_ping(chat_model_path: Path) -> None:
    async def main() -> None:
        progress: list[float] = []
        worker = await Worker.start(chat_model_path, SMALL, on_progress=progress.append)
        assert progress == sorted(progress)
        assert progress[-1] == 1
        info = worker.info
        assert (info.kind, info.architecture, info.context_length) == ("llm", "llama", 2048)
        assert info.chat_templates["default"]
        assert info.memory > 50e6
        assert info.config.flash_attention is not None, "on a CPU it is known"
        found, end = await answer(worker, text("Count: 1, 2, 3,", max_tokens=6))
        assert found.startswith(" 4, 5")
        assert end.output_tokens == 6
        tokens = await worker.tokenize([Segment("Count: 1, 2, 3,")])
        assert len(tokens) == end.prompt_tokens
        pong = await worker.ping()
        assert (pong.running, pong.waiting) == (0, 0)
        assert pong.cache_tokens >= end.prompt_tokens
        with pytest.raises(NotSupported):
            await worker.embed(["a"])
        await worker.stop()
        with pytest.raises(ModelUnloaded):
            await worker.ping()

    run(main)


def test_a_request_that_is_left_frees_the_engine_in_mid_prefill(chat_model_path: Path) -> None:
    async def main() -> None:
        async with started(chat_model_path, LoadConfig(context_length=8192)) as worker:
            updates = worker.generate(text("hello world " * 3000))
            first = await anext(updates)
            assert isinstance(first, Progress)
            assert first.done < first.total
            await updates.aclose()
            while (pong := await worker.ping()).running:
                await asyncio.sleep(0.001)
            # Some slices were read, the rest was not.
            assert pong.cache_tokens < first.total / 2

    run(main)


def test_a_killed_worker_ends_its_requests_with_the_cause(chat_model_path: Path) -> None:
    async def main() -> None:
        worker = await Worker.start(chat_model_path, SMALL)
        updates = worker.generate(text("Once upon a time", max_tokens=1000))
        await anext(updates)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(EngineCrashed, match="memory"):
            async for _ in updates:
                pass
        with pytest.raises(EngineCrashed):
            await answer(worker, text("hello"))
        assert isinstance(await worker.wait_closed(), EngineCrashed)

    run(main)


def test_a_crash_of_native_code_is_named(chat_model_path: Path) -> None:
    async def main() -> None:
        worker = await Worker.start(chat_model_path, SMALL)
        os.kill(worker.pid, signal.SIGSEGV)
        error = await worker.wait_closed()
        assert isinstance(error, EngineCrashed)
        assert "SIGSEGV" in str(error)

    run(main)


def test_unloading_fails_running_requests_as_unloaded(chat_model_path: Path) -> None:
    async def main() -> None:
        worker = await Worker.start(chat_model_path, SMALL)
        updates = worker.generate(text("Once upon a time", max_tokens=1000))
        await anext(updates)
        await worker.stop()
        with pytest.raises(ModelUnloaded):
            async for _ in updates:
                pass
        assert await worker.wait_closed() is None

    run(main)


def test_a_stopped_worker_can_still_be_unloaded(
    chat_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmnb.engine.client._STOP_SECONDS", 0.2)

    async def main() -> None:
        worker = await Worker.start(chat_model_path, SMALL)
        os.kill(worker.pid, signal.SIGSTOP)
        await worker.stop()
        assert not psutil.pid_exists(worker.pid)

    run(main)


@pytest.mark.parametrize("length", [0, 3, 24, 5_000, 90_000_000])
def test_a_truncated_file_is_an_error(chat_model_path: Path, tmp_path: Path, length: int) -> None:
    _expect_invalid(tmp_path / "cut.gguf", chat_model_path.read_bytes()[:length])


def test_random_bytes_are_an_error(tmp_path: Path) -> None:
    _expect_invalid(tmp_path / "random.gguf", np.random.default_rng(0).bytes(100_000))
    _expect_invalid(tmp_path / "magic.gguf", b"GGUF" + np.random.default_rng(1).bytes(100_000))


def test_an_unknown_architecture_is_named(chat_model_path: Path, tmp_path: Path) -> None:
    data = chat_model_path.read_bytes()
    # The key's length, the key, the type of its value (string), and a value of the same length.
    old = b"general.architecture\x08\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00llama"
    assert old in data
    _expect_invalid(tmp_path / "zebra.gguf", data.replace(old, old[:-5] + b"zebra"), match="zebra")


def _expect_invalid(path: Path, data: bytes, match: str | None = None) -> None:
    path.write_bytes(data)

    async def main() -> None:
        with pytest.raises(InvalidModel, match=match) as caught:
            await Worker.start(path, SMALL)
        assert "Traceback" not in str(caught.value)

    run(main)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"context_length": 0}, "context_length"),
        ({"context_length": -5}, "context_length"),
        ({"parallel": 100_000}, "parallel"),
        ({"eval_batch_size": -1}, "eval_batch_size"),
        ({"cache_type_k": "f17"}, "cache_type_k"),
        ({"num_experts": 4}, "num_experts"),
        ({"threads": 0}, "threads"),
        ({"gpu_layers": -5}, "gpu_layers"),
    ],
)
def test_wrong_options_are_named(
    chat_model_path: Path, options: dict[str, object], named: str
) -> None:
    async def main() -> None:
        with pytest.raises(InvalidRequest, match=named):
            await Worker.start(chat_model_path, LoadConfig(**options))  # type: ignore[arg-type]

    run(main)


def test_a_context_beyond_memory_is_an_error_not_a_crash(chat_model_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ModelLoadFailed, match="GB of memory"):
            await Worker.start(chat_model_path, LoadConfig(context_length=1 << 30))

    run(main)


def test_cancelling_a_load_ends_the_process(chat_model_path: Path) -> None:
    async def main() -> None:
        before = {child.pid for child in psutil.Process().children()}
        load = asyncio.create_task(Worker.start(chat_model_path, SMALL))
        await asyncio.sleep(0.2)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        for _ in range(200):
            if {child.pid for child in psutil.Process().children()} <= before:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the worker is still there")

    run(main)


def test_no_worker_survives_its_server(chat_model_path: Path) -> None:
    """The parent is killed while the worker is busy."""
    script = f"""
        import asyncio, pathlib
        from lmnb.engine.client import Worker
        from lmnb.engine.protocol import Generate, LoadConfig, Segment

        async def main():
            worker = await Worker.start(pathlib.Path({str(chat_model_path)!r}), LoadConfig())
            print(worker.pid, flush=True)
            async for _ in worker.generate(Generate(id=0, segments=(Segment("hello " * 7000),))):
                pass

        asyncio.run(main())
    """
    code = textwrap.dedent(script)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([worker], timeout=5)[1] == []


def test_embeddings(embedding_model_path: Path) -> None:
    async def main() -> None:
        async with started(embedding_model_path, LoadConfig()) as worker:
            texts = [
                "A cat sat on the mat.",
                "x",
                "Stocks fell sharply today.",
                "The cat sits on the rug.",
                "A long text about nothing much. " * 40,
            ]
            together = await worker.embed(texts)
            vectors = np.frombuffer(together.vectors, "<f4").reshape(5, together.dimensions)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
            for row, words in enumerate(texts):
                alone = np.frombuffer((await worker.embed([words])).vectors, "<f4")
                assert alone @ vectors[row] > 0.9999
            assert vectors[0] @ vectors[3] > 0.4 > vectors[0] @ vectors[2]
            many = await worker.embed([f"text number {n}" for n in range(300)])
            assert len(many.tokens) == 300
            assert np.isfinite(np.frombuffer(many.vectors, "<f4")).all()
            with pytest.raises(InvalidRequest, match="at most 512"):
                await worker.embed(["word " * 600])
            assert (await worker.embed(["word " * 600], truncate=True)).tokens == (512,)
            with pytest.raises(InvalidRequest, match="Input 1"):
                await worker.embed(["a", ()])
            with pytest.raises(NotSupported):
                await answer(worker, text("hello"))

    run(main)
