"""Prefixes on disk: found again by the next process, bounded, and never trusted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_models
import numpy as np
import pytest

from lmnb.config import change_setting, load_settings
from lmnb.engine import cache as cache_module
from lmnb.engine import native
from lmnb.engine.client import Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.generator import Generator
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.options import Sampling
from lmnb.engine.protocol import End, Failed, Generate, PrefixFolder, Step
from lmnb.engine.saved import Saved
from lmnb.engine.spill import Disk, fingerprint
from lmnb.server.process import _start

MAKERS = [made_models.llama, made_models.gemma3, made_models.mamba, made_models.jamba]
PROMPT = np.random.default_rng(0).integers(32, 127, 300).tolist()


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


class Process:
    """What a worker does, without the process."""

    def __init__(self, model: Path, folder: Path, *, cache_ram: int | None = None) -> None:
        config = LoadConfig(
            context_length=512,
            parallel=1,
            eval_batch_size=64,
            threads=1,
            swa_full=False,
            cache_ram=cache_ram,
        )
        self.disk = Disk(folder, 1 << 30, fingerprint(model, config))
        loaded = Model.load(str(model), read_header(model), config, on_progress=lambda _: None)
        self.generator = Generator(loaded, config, files=self.disk)

    def ask(self, prompt: list[int]) -> int:
        """How many tokens of a prompt were found."""
        command = Generate(
            id=1, tokens=tuple(prompt), sampling=Sampling(temperature=0), max_tokens=1
        )
        self.generator.submit(command, self.generator.prompt(command))
        ends: list[End] = []
        while self.generator.busy:
            for reply in self.generator.step():
                assert not isinstance(reply, Failed), reply
                ends += reply.ends if isinstance(reply, Step) else ()
        return ends[0].cached_tokens

    def end(self) -> None:
        """Rest for a while, then go."""
        while self.generator.tidy():
            pass
        self.disk.wait()
        self.generator.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made_models.llama(tmp_path / "made.gguf")


@pytest.mark.parametrize("make", MAKERS)
def test_the_next_process_goes_on_where_the_last_one_was(
    make: Callable[[Path], Path], tmp_path: Path, folder: Path
) -> None:
    path = make(tmp_path / "made.gguf")
    first = Process(path, folder)
    assert first.ask(PROMPT) == 0
    first.end()
    second = Process(path, folder)
    assert second.ask([*PROMPT, 65, 66, 67]) == len(PROMPT)
    second.end()


def test_what_memory_has_no_room_for_goes_to_disk(model: Path, folder: Path) -> None:
    process = Process(model, folder, cache_ram=200_000)
    prompts = [[number, *PROMPT] for number in range(4)]
    for prompt in prompts:
        assert process.ask(prompt) == 0
    process.disk.wait()
    assert process.generator.scheduler.cache.saved_bytes <= 200_000
    for prompt in prompts:
        assert process.ask([*prompt, 65]) == len(prompt)
        process.disk.wait()
    process.end()


def test_another_model_or_another_cache_type_finds_nothing(
    model: Path, tmp_path: Path, folder: Path
) -> None:
    process = Process(model, folder)
    process.ask(PROMPT)
    process.end()
    config = LoadConfig()
    same = fingerprint(model, config)
    assert same == fingerprint(model, LoadConfig(context_length=99, threads=3))
    assert same != fingerprint(model, LoadConfig(cache_type_k="q8_0"))
    other = made_models.llama(tmp_path / "other.gguf", seed=1)
    assert same != fingerprint(other, config)
    os.utime(model, ns=(1, 1))
    assert same != fingerprint(model, config)
    assert Process(model, folder).ask(PROMPT) == 0


@pytest.mark.parametrize("place", [0, 20, 200, 5000, -1, "cut", "empty", "gone"])
def test_a_damaged_file_is_as_good_as_none(model: Path, folder: Path, place: int | str) -> None:
    process = Process(model, folder)
    process.ask(PROMPT)
    process.end()
    (file,) = folder.iterdir()
    second = Process(model, folder)  # Some damage is seen now, some when the data is read.
    data = bytearray(file.read_bytes())
    if isinstance(place, int):
        data[place] ^= 1
    file.write_bytes(data[:1000] if place == "cut" else b"" if place == "empty" else data)
    if place == "gone":
        file.unlink()
    third = Process(model, folder)
    for late in (second, third):
        assert late.ask([*PROMPT, 65]) == 0
        assert late.ask([*PROMPT, 66]) == len(PROMPT)
        late.generator.close()


def test_the_folder_is_bounded_and_the_oldest_go(folder: Path) -> None:
    disk = Disk(folder, 5000, "f" * 32)
    kept = []
    for number in range(6):
        saved = Saved(np.full(10, number, np.int32), np.full(1000, number, np.uint8))
        assert disk.write(saved)
        disk.wait()
        assert saved.path is not None
        os.utime(saved.path, (number, number))
        kept.append(saved)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5000
    assert disk.read(kept[0]) is None
    data = disk.read(kept[5])
    assert data is not None
    assert (data == 5).all()
    assert not disk.write(Saved(np.zeros(1, np.int32), np.zeros(6000, np.uint8)))
    assert {saved.tokens[0] for saved in Disk(folder, 5000, "f" * 32).found()} == {3, 4, 5, 2}


def test_a_file_that_another_process_removed_does_not_hide_the_next_best(
    model: Path, folder: Path
) -> None:
    shorter, longer = PROMPT[:160], [*PROMPT[:140], *PROMPT[200:]]
    for prompt in (shorter, longer):
        process = Process(model, folder)
        process.ask(prompt)
        process.end()
    last = Process(model, folder)
    max(folder.iterdir(), key=lambda path: path.stat().st_size).unlink()
    assert last.ask(longer) == 140
    last.end()


def test_a_longer_turn_replaces_the_shorter(model: Path, folder: Path) -> None:
    process = Process(model, folder)
    process.ask(PROMPT)
    while process.generator.tidy():
        pass
    process.ask([*PROMPT, *PROMPT[:100]])
    process.end()
    (file,) = folder.iterdir()
    (saved,) = Disk(folder, 1 << 30, file.name[:32]).found()
    assert len(saved.tokens) == 400


def test_short_prompts_are_not_worth_a_file(model: Path, folder: Path) -> None:
    process = Process(model, folder)
    process.ask(PROMPT[: cache_module._WORTH_SAVING - 1])
    process.end()
    assert not list(folder.iterdir())


def test_what_was_not_a_number_is_not_kept(model: Path, folder: Path) -> None:
    process = Process(model, folder)
    process.ask(PROMPT)
    while process.generator.tidy():
        pass
    process.disk.wait()
    process.generator.scheduler.cache.clear()
    assert not list(folder.iterdir())
    process.end()


def test_a_worker_that_is_killed_leaves_what_it_had(model: Path, folder: Path) -> None:
    """Through the real process: it puts its slots on disk when it has rested for a while."""

    def kept(folder: Path) -> bool:
        return any(path.suffix == ".prefix" for path in folder.iterdir())

    async def ask(worker: Worker, prompt: list[int]) -> int:
        command = Generate(id=0, tokens=tuple(prompt), max_tokens=1)
        updates = [update async for update in worker.generate(command)]
        assert isinstance(updates[-1], End)
        return updates[-1].cached_tokens

    async def live(*, kill: bool, prompt: list[int]) -> int:
        prefixes = PrefixFolder(str(folder), 1 << 30)
        config = LoadConfig(context_length=512, parallel=1)
        worker = await Worker.start(model, config, prefixes=prefixes)
        try:
            cached = await ask(worker, prompt)
            for _ in range(600):
                if not kill or kept(folder):
                    return cached
                await asyncio.sleep(0.1)
            raise AssertionError("nothing was kept")
        finally:
            if kill:
                os.kill(worker.pid, signal.SIGKILL)
            await worker.stop()

    assert asyncio.run(live(kill=True, prompt=PROMPT)) == 0
    assert asyncio.run(live(kill=False, prompt=[*PROMPT, 65])) == len(PROMPT)


def test_the_setting_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def fake(path: Path, config: LoadConfig, **options: Any) -> None:
        given.append(options["prefixes"])

    monkeypatch.setattr(Worker, "start", fake)
    settings = load_settings(tmp_path)
    start = _start(settings)
    _ = start(tmp_path, LoadConfig(), log=None, on_progress=None, room=None)
    change_setting(settings, "prefix_disk", 1000)
    _ = start(tmp_path, LoadConfig(), log=None, on_progress=None, room=None)
    assert given == [None, PrefixFolder(str(tmp_path / "cache" / "prefixes"), 1000)]
