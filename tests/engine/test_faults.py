"""What goes wrong inside a worker becomes an error with its cause, for those it concerns."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import gguf
import made_models
import numpy as np
import psutil
import pytest
from faulty_worker import PATIENCE, POISON

from lmnb.engine.client import Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import Sampling
from lmnb.engine.protocol import Delta, End, Generate
from lmnb.errors import (
    EngineCrashed,
    EngineStuck,
    LmnbError,
    ModelLoadFailed,
    NumericError,
)

SMALL = LoadConfig(context_length=2048, parallel=4)


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(main())  # type: ignore[arg-type]


@asynccontextmanager
async def started(path: Path, log: Path | None = None) -> AsyncIterator[Worker]:
    worker = await Worker.start(path, SMALL, log=log)
    try:
        yield worker
    finally:
        await worker.stop()
        assert not psutil.pid_exists(worker.pid)


def tokens(*ids: int, most: int = 4) -> Generate:
    return Generate(id=0, tokens=ids, sampling=Sampling(temperature=0), max_tokens=most)


async def answer(worker: Worker, command: Generate) -> str:
    found = ""
    async for update in worker.generate(command):
        if isinstance(update, Delta):
            found += update.text
        elif isinstance(update, End):
            return found
    raise AssertionError("no end")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("assertion", r"GGML_ASSERT\(n_poison == 0\) failed"),
        ("segfault", "crashed in string_at .*SIGSEGV: invalid memory access"),
        ("exception", r"ran out of memory \(std::bad_alloc\)"),
        ("python", "something unforeseen"),
        ("memory", "ran out of memory"),
        ("kill", "killed"),
        ("hang", "A forward pass over 3 tokens had not ended after"),
    ],
)
def test_a_dead_worker_names_the_cause_and_the_suspect(
    chat_model_path: Path,
    faulty: Callable[[str], None],
    tmp_path: Path,
    fault: str,
    words: str,
) -> None:
    async def main() -> None:
        log = tmp_path / "model.log"
        async with started(chat_model_path, log) as worker:
            bystander = worker.generate(tokens(100, 101, most=1500))
            while not isinstance(await anext(bystander), Delta):
                pass
            with pytest.raises(EngineCrashed, match=words) as guilty:
                await answer(worker, tokens(5, POISON, POISON))
            assert guilty.value.suspect
            assert str(log) in str(guilty.value.hint)
            with pytest.raises(EngineCrashed, match=words) as innocent:
                async for _ in bystander:
                    pass
            assert innocent.value.suspect is False
            with pytest.raises(EngineCrashed, match=words) as late:
                await worker.ping()
            assert late.value.suspect is False
            assert isinstance(await worker.wait_closed(), EngineCrashed)

    faulty(fault)
    run(main)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("crawl", EngineStuck, "A forward pass over 3 tokens had not ended after"),
        ("allocation", EngineCrashed, "not enough memory"),
    ],
)
def test_a_pass_that_fails_is_its_requests_failure_only(
    chat_model_path: Path,
    faulty: Callable[[str], None],
    fault: str,
    kind: type[EngineCrashed],
    words: str,
) -> None:
    async def main() -> None:
        async with started(chat_model_path) as worker:
            before = await answer(worker, tokens(100, 101))
            for _ in range(2):
                with pytest.raises(kind, match=words) as caught:
                    await answer(worker, tokens(5, POISON, POISON))
                assert caught.value.suspect is None
                assert await answer(worker, tokens(100, 101)) == before
            assert worker.is_alive
            # Three times in a row, and it is the process that is broken.
            for _ in range(3):
                with pytest.raises(kind, match=words) as caught:
                    await answer(worker, tokens(5, POISON, POISON))
            assert caught.value.suspect
            assert isinstance(await worker.wait_closed(), kind)

    faulty(fault)
    run(main)


@pytest.mark.parametrize(
    ("megabytes", "words"),
    [(40, "enough memory to load the model"), (400, "enough memory for 32768 tokens of context")],
    ids=["weights", "context"],
)
def test_memory_that_runs_out_while_loading(
    chat_model_path: Path, faulty: Callable[[str], None], megabytes: int, words: str
) -> None:
    async def main() -> None:
        with pytest.raises(LmnbError, match=words) as caught:
            await Worker.start(chat_model_path, LoadConfig(context_length=8192, parallel=4))
        assert isinstance(caught.value, ModelLoadFailed | EngineCrashed), repr(caught.value)
        assert caught.value.hint

    faulty(f"limited:{megabytes}")
    run(main)


def damaged(path: Path, value: float) -> Path:
    """The same model with a row of its token embeddings, that of `POISON`, set to `value`."""
    with path.open("r+b") as file:
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        table = tensors["token_embd.weight"]
        row = table.data[POISON].nbytes
        file.seek(int(table.data_offset) + POISON * row)
        file.write(np.full(row // 4, value, np.float32).tobytes())
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("make", [made_models.llama, made_models.gemma3, made_models.mamba])
def test_values_that_are_no_numbers_are_one_requests_failure(
    tmp_path: Path, make: Callable[[Path], Path], value: float
) -> None:
    async def main() -> None:
        async with started(damaged(make(tmp_path / "made.gguf"), value)) as worker:
            right = [await answer(worker, tokens(1, 2, n)) for n in range(4)]
            for _ in range(3):
                results = await asyncio.gather(
                    answer(worker, tokens(1, 2, POISON, 3)),
                    *(answer(worker, tokens(1, 2, n)) for n in range(4)),
                    return_exceptions=True,
                )
                assert isinstance(results[0], NumericError)
                assert results[1:] == right
            # What was computed of it is nobody's prefix.
            with pytest.raises(NumericError):
                await answer(worker, tokens(1, 2, POISON, 3, 4, 5))

    run(main)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_one_requests_failure(tmp_path: Path, value: float) -> None:
    async def main() -> None:
        model = damaged(made_models.llama(tmp_path / "made.gguf", pooling=1), value)
        async with started(model) as worker:
            right = (await worker.embed([(1, 2, 3)])).vectors
            with pytest.raises(NumericError):
                await worker.embed([(1, 2, 3), (1, POISON, 3)])
            assert (await worker.embed([(1, 2, 3)])).vectors == right

    run(main)


def test_a_stopped_process_is_no_stuck_one(
    chat_model_path: Path, faulty: Callable[[str], None]
) -> None:
    async def main() -> None:
        async with started(chat_model_path) as worker:
            alone = await answer(worker, tokens(100, 101, most=60))
            updates = worker.generate(tokens(100, 101, most=60))
            found = ""
            async for update in updates:
                if isinstance(update, Delta):
                    if not found:
                        os.kill(worker.pid, signal.SIGSTOP)
                        await asyncio.sleep(3 * PATIENCE)
                        os.kill(worker.pid, signal.SIGCONT)
                    found += update.text
            assert found == alone

    faulty("hang")
    run(main)


def test_the_oom_killer_is_shown_the_worker_first(chat_model_path: Path) -> None:
    score = Path("/proc/self/oom_score_adj")
    if not score.exists():
        pytest.skip("Linux only")

    def scores(pid: int) -> tuple[int, int]:
        return int(score.read_text()), int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    async def main() -> None:
        async with started(chat_model_path) as worker:
            ours, theirs = await asyncio.to_thread(scores, worker.pid)
            assert theirs > ours or theirs == 1000

    run(main)
