"""Requests whose worker dies under them: retried on the next one, or told the cause."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import made_models
import msgspec
import numpy as np
import psutil
import pytest
from faulty_worker import POISON
from numpy.typing import NDArray
from tiny_bert import write_model

from lmnb.chat.conversation import Request, SamplingOptions
from lmnb.chat.documents.reader import Reader
from lmnb.chat.events import Finished, Loading, Prompt, TextDelta
from lmnb.config import load_settings
from lmnb.errors import EngineCrashed, KeepsCrashing
from lmnb.models.catalog import Catalog
from lmnb.models.convert import convert_bert
from lmnb.models.instances import Manager
from lmnb.server.generation import fold, generate
from lmnb.server.journal import Journal
from lmnb.server.metrics import Metrics
from lmnb.server.reading import count_tokens, embed
from lmnb.server.state import State

MODEL = "maker/made"


@dataclass
class Settings:
    jit_loading: bool = True
    jit_ttl: float = 3600.0
    auto_evict: bool = True
    default_context_length: int | None = None


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A language model and an embedding model, both tiny."""
    folder = tmp_path / "models" / "maker"
    (folder / "made").mkdir(parents=True)
    (folder / "small").mkdir()
    made_models.llama(folder / "made" / "made-F32.gguf")
    source = write_model(tmp_path / "source")
    convert_bert(source, folder / "small" / "small-F32.gguf", name="small", file_type="F32")
    return tmp_path


Scene = Callable[[State], Coroutine[Any, Any, None]]


def play(home: Path, scene: Scene) -> None:
    async def main() -> None:
        manager = Manager(Catalog(home, places=()), Settings())
        fields = {
            "models": manager,
            "endpoints": SimpleNamespace(links=[]),
            "renderer": None,
            "documents": Reader(),
            "metrics": Metrics(manager.loaded, list),
            "journal": Journal(load_settings(home)),
            "priority": 0,
        }
        state = cast("State", SimpleNamespace(**fields))
        try:
            await scene(state)
            assert consistent(manager)
        finally:
            await manager.close()

    asyncio.run(main())
    assert workers() == []


def consistent(manager: Manager) -> bool:
    """Nobody uses anything, nothing is loading, and each worker belongs to an instance."""
    loaded = manager.loaded()
    idle = all(one.active == 0 and one.worker.is_alive for one in loaded)
    pids = sorted(one.worker.pid for one in loaded)
    return idle and not manager.loading() and sorted(one.pid for one in workers()) == pids


def workers() -> list[psutil.Process]:
    modules = {"lmnb.engine.worker", "faulty_worker"}
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and modules & set(child.cmdline())
    ]


def asking(*prompt: int, most: int = 8) -> Request:
    return Request(
        model=MODEL,
        messages=(),
        prompt=prompt,
        sampling=SamplingOptions(temperature=0),
        max_tokens=most,
    )


async def answer(state: State, request: Request) -> str:
    text = ""
    async with aclosing(generate(state, request)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                text += event.text
    return text


async def kill(state: State, number: int = signal.SIGKILL) -> None:
    [instance] = state.models.loaded()
    os.kill(instance.worker.pid, number)


def test_who_waits_is_answered_by_the_next_worker_and_who_was_answered_is_told(home: Path) -> None:
    async def scene(state: State) -> None:
        right = await answer(state, asking(1, 2, 3))
        events = generate(state, asking(9, 9, most=4000))
        async for event in events:
            if isinstance(event, TextDelta):
                break
        waiting = [asyncio.create_task(answer(state, asking(1, 2, 3))) for _ in range(20)]
        while state.models.loaded()[0].active < 21:
            await asyncio.sleep(0)
        await kill(state)
        with pytest.raises(EngineCrashed, match="killed"):
            async for _ in events:
                pass
        assert await asyncio.gather(*waiting) == [right] * 20

    play(home, scene)


def test_the_load_is_shown_again(home: Path) -> None:
    async def scene(state: State) -> None:
        await answer(state, asking(1))
        await kill(state, signal.SIGSTOP)
        kinds: list[type] = []

        async def watch() -> None:
            async for event in generate(state, asking(1, 2, 3)):
                if not kinds or kinds[-1] is not type(event):
                    kinds.append(type(event))
                if isinstance(event, Finished):
                    assert event.timings.load is not None

        task = asyncio.create_task(watch())
        while state.models.loaded()[0].active == 0:
            await asyncio.sleep(0)
        await kill(state)
        await task
        assert kinds == [Loading, Prompt, TextDelta, Finished]

    play(home, scene)


def test_embeddings_and_counts_are_done_again(home: Path) -> None:
    async def scene(state: State) -> None:
        async def vectors() -> NDArray[np.float32]:
            result = await embed(state, "maker/small", ["the cat sat"])
            return np.frombuffer(result.vectors, "<f4")

        before = await vectors()
        await kill(state, signal.SIGSTOP)
        again = [asyncio.create_task(vectors()) for _ in range(3)]
        while state.models.loaded()[0].active < 3:
            await asyncio.sleep(0)
        await kill(state)
        # Together they make another batch than alone, so the last bits may differ.
        np.testing.assert_allclose(await asyncio.gather(*again), [before] * 3, atol=1e-4)

        await answer(state, asking(1))  # Of a model that is not loaded, the vocabulary is asked.
        counted = await count_tokens(state, Request(model=MODEL, messages=(), prompt="hello"))
        [small, llm] = state.models.loaded()
        os.kill(llm.worker.pid, signal.SIGSTOP)
        task = asyncio.create_task(
            count_tokens(state, Request(model=MODEL, messages=(), prompt="hello"))
        )
        while not llm.active:
            await asyncio.sleep(0)
        os.kill(llm.worker.pid, signal.SIGKILL)
        assert await task == counted == 5
        assert small.worker.is_alive

    play(home, scene)


@pytest.mark.parametrize("fault", ["assertion", "segfault"])
def test_a_poisonous_request_ends_with_the_cause_and_the_others_with_answers(
    home: Path, faulty: Callable[[str], None], fault: str
) -> None:
    async def scene(state: State) -> None:
        right = await answer(state, asking(1, 2, 3))
        poisonous = asyncio.create_task(answer(state, asking(5, POISON, POISON)))
        others = [asyncio.create_task(answer(state, asking(1, 2, 3))) for _ in range(8)]
        results = await asyncio.gather(poisonous, *others, return_exceptions=True)
        assert isinstance(results[0], EngineCrashed)
        assert not isinstance(results[0], KeepsCrashing)
        assert {"assertion": "n_poison", "segfault": "SIGSEGV"}[fault] in results[0].message
        assert results[1:] == [right] * 8
        assert await answer(state, asking(1, 2, 3)) == right

    faulty(fault)
    play(home, scene)


def test_a_model_that_keeps_crashing_is_left_alone_until_it_is_loaded(
    home: Path, faulty: Callable[[str], None]
) -> None:
    async def scene(state: State) -> None:
        with pytest.raises(EngineCrashed, match="n_poison"):
            await answer(state, asking(POISON, POISON))
        with pytest.raises(KeepsCrashing, match=r"3 times in a row.*n_poison"):
            await answer(state, asking(POISON, POISON))
        with pytest.raises(KeepsCrashing, match=r"lmnb load maker/made"):
            await answer(state, asking(1, 2, 3))
        assert workers() == []
        await state.models.load(MODEL)
        assert await answer(state, asking(1, 2, 3))

    faulty("assertion")
    play(home, scene)


def test_a_crash_while_loading_is_everybodys_error(
    home: Path, faulty: Callable[[str], None]
) -> None:
    async def scene(state: State) -> None:
        for _ in range(3):
            waiting = (answer(state, asking(1, 2, 3)) for _ in range(4))
            for error in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(error, EngineCrashed)
                assert "SIGSEGV" in error.message
                assert "model-maker_made.log" in str(error.hint)
        with pytest.raises(KeepsCrashing, match="SIGSEGV"):
            await answer(state, asking(1, 2, 3))

    faulty("loading")
    play(home, scene)


# --- at random ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random(home: Path, seed: int) -> None:
    play(home, lambda state: _random_kills(state, seed))


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3, 50))
def test_many_kills_at_random(home: Path, seed: int) -> None:
    play(home, lambda state: _random_kills(state, seed))


async def sure_answer(state: State, prompt: tuple[int, ...]) -> tuple[str, bool]:
    """The answer, and whether no token of it was so near that another batch might bring another."""
    request = msgspec.structs.replace(asking(*prompt), logprobs=2)
    answer = await fold(generate(state, request))
    margins = [token.top[0][2] - token.top[1][2] for token in answer.logprobs]
    return answer.text, min(margins) > 0.05


async def _random_kills(state: State, seed: int) -> None:
    dice = random.Random(seed)
    right: dict[tuple[int, ...], str] = {}
    while len(right) < 4:
        prompt = tuple(dice.randrange(256) for _ in range(dice.choice((3, 50, 800))))
        text, clear = await sure_answer(state, prompt)
        if clear:
            right[prompt] = text
    prompts = list(right)

    blamed: list[bool] = []

    async def client() -> None:
        await asyncio.sleep(dice.random() * 3)
        prompt = dice.choice(prompts)
        told = False
        events = generate(state, asking(*prompt))
        text = ""
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, TextDelta):
                        told = True
                        text += event.text
                    if dice.random() < 0.02:
                        return
        except KeepsCrashing:
            return
        except EngineCrashed as error:
            # None: it died while loading. False: the request had no part in it.
            blamed.append(told or error.suspect is not False)
            return
        assert text == right[prompt]

    async def killer() -> None:
        for _ in range(3):
            await asyncio.sleep(dice.random() * 1.5)
            for process in workers():
                with suppress(ProcessLookupError):
                    number = dice.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT))
                    os.kill(process.pid, number)

    tasks: list[Awaitable[None]] = [client() for _ in range(30)]
    await asyncio.gather(killer(), *tasks)
    assert all(blamed)
    with suppress(KeepsCrashing):
        await answer(state, asking(*prompts[0]))
