"""Models that keep crashing rest; requests that had no part in a crash are tried again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from gguf_bytes import small_model

from lmnb.errors import EngineCrashed, KeepsCrashing
from lmnb.models.catalog import Catalog
from lmnb.models.crashes import MOST, PAUSE, WINDOW, Crashes
from lmnb.models.entry import ModelEntry
from lmnb.models.retries import Tries


@dataclass
class Clock:
    time: float = 0.0

    def __call__(self) -> float:
        return self.time


class Case:
    def __init__(self, entry: ModelEntry) -> None:
        self.entry = entry
        self.clock = Clock()
        self.crashes = Crashes(now=self.clock)

    def crash(self, times: int = 1, *, answered: bool = False) -> None:
        for _ in range(times):
            error = EngineCrashed("It burst.", hint="Its log: x.log")
            self.crashes.record(self.entry, error, answered=answered)

    def rests(self) -> bool:
        try:
            self.crashes.check(self.entry)
        except KeepsCrashing:
            return True
        return False


@pytest.fixture
def case(tmp_path: Path) -> Case:
    folder = tmp_path / "models" / "maker" / "a"
    folder.mkdir(parents=True)
    (folder / "a-Q4_0.gguf").write_bytes(small_model(kilobytes=1))
    return Case(asyncio.run(Catalog(tmp_path, places=()).resolve("maker/a")))


def test_a_model_that_keeps_crashing_rests(case: Case) -> None:
    case.crash(MOST - 1)
    assert not case.rests()
    case.crash()
    assert case.rests()
    case.clock.time += PAUSE - 1
    assert case.rests()
    [(row, left)] = case.crashes.resting()
    assert (row.entry, row.count, left) == (case.entry, MOST, 1.0)
    case.clock.time += 1
    assert not case.rests()
    assert case.crashes.resting() == []


def test_after_the_rest_there_is_one_try(case: Case) -> None:
    case.crash(MOST)
    case.clock.time += PAUSE
    case.crash()
    assert case.rests()


def test_an_answer_in_between_begins_anew(case: Case) -> None:
    for _ in range(10):
        case.crash(MOST - 1)
        case.crash(answered=True)
        assert not case.rests()
    case.crash(MOST - 1)
    assert case.rests()


def test_crashes_far_apart_do_not_count_together(case: Case) -> None:
    for _ in range(10):
        case.crash()
        case.clock.time += WINDOW
    assert not case.rests()


def test_loading_explicitly_begins_anew(case: Case) -> None:
    case.crash(MOST)
    case.crashes.forget(case.entry)
    assert not case.rests()


def test_the_error_says_what_and_what_to_do(case: Case) -> None:
    case.crash(MOST)
    with pytest.raises(KeepsCrashing) as caught:
        case.crashes.check(case.entry)
    assert "maker/a has crashed 3 times in a row" in caught.value.message
    assert "5 minutes" in caught.value.message
    assert "It burst." in caught.value.message
    assert "lmnb load maker/a" in str(caught.value.hint)
    assert "x.log" in str(caught.value.hint)
    assert caught.value.status == 400


# --- tries --------------------------------------------------------------------------------


def died(*, suspect: bool | None) -> EngineCrashed:
    error = EngineCrashed("It burst.")
    error.suspect = suspect
    return error


def test_a_bystander_is_tried_again_several_times() -> None:
    tries = Tries()
    assert [tries.again(died(suspect=False)) for _ in range(6)] == [True] * 4 + [False] * 2


def test_a_suspect_is_tried_once_more() -> None:
    tries = Tries()
    assert tries.again(died(suspect=False))
    assert tries.again(died(suspect=True))
    assert tries.again(died(suspect=False))
    assert not tries.again(died(suspect=True))


def test_what_has_begun_or_failed_by_itself_is_not_tried_again() -> None:
    assert not Tries().again(died(suspect=None))
    tries = Tries()
    tries.begun = True
    assert not tries.again(died(suspect=False))


def test_suspects_are_tried_one_after_the_other() -> None:
    order: list[str] = []

    async def request(name: str, *, suspect: bool, lock: asyncio.Lock) -> None:
        tries = Tries()
        tries.use("maker/a", lock)
        assert tries.again(died(suspect=suspect))
        async with tries.apart():
            order.append(f"{name} begins")
            for _ in range(5):
                await asyncio.sleep(0)
            order.append(f"{name} ends")

    async def main() -> None:
        lock = asyncio.Lock()
        await asyncio.gather(
            request("one", suspect=True, lock=lock),
            request("two", suspect=True, lock=lock),
            request("bystander", suspect=False, lock=lock),
        )

    asyncio.run(main())
    assert order.index("one ends") < order.index("two begins")
    assert order.index("bystander begins") < order.index("one ends")
