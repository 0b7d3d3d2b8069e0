"""TTLs and auto-evict, to the second."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from manager_scenes import HOUR, Case, Play, player, settle

from lmnb.engine.config import LoadConfig
from lmnb.engine.protocol import Memory
from lmnb.errors import InvalidRequest, ModelLoadFailed, ModelNotFound


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path)


# --- idle time -----------------------------------------------------------------------


def test_an_idle_instance_goes_at_its_second(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.use("maker/a", ttl=60)
        [instance] = case.manager.loaded()
        assert instance.ttl_left == 60
        assert await case.after(59) == ["maker/a"]
        assert instance.ttl_left == 1
        assert await case.after(1) == []
        assert case.starter.workers[0].stopped

    play(scene)


def test_the_default_ttl_is_the_setting_when_the_model_is_loaded(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.use("maker/a")
        case.settings.jit_ttl = 10
        assert await case.after(HOUR - 1) == ["maker/a"]  # It keeps what it was loaded with.
        assert await case.after(1) == []
        await case.use("maker/a")
        assert await case.after(9) == ["maker/a"]
        assert await case.after(1) == []

    play(scene)


def test_a_default_of_0_is_never_and_a_request_may_differ(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.settings.jit_ttl = 0
        await case.use("maker/a")
        assert case.manager.loaded()[0].ttl_left is None
        assert await case.after(1000 * HOUR) == ["maker/a"]
        await case.use("maker/b", ttl=5)
        assert await case.after(5) == []

    play(scene)


def test_each_request_renews_the_ttl_and_one_of_its_own_replaces_it(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.use("maker/a", ttl=60)
        [instance] = case.manager.loaded()
        for _ in range(3):
            await case.after(59)
            await case.use("maker/a")
            assert instance.ttl_left == 60
        await case.use("maker/a", ttl=10)
        assert instance.ttl_left == 10
        assert await case.after(9) == ["maker/a"]
        await case.use("maker/a", ttl=100)
        assert await case.after(99) == ["maker/a"]
        assert await case.after(1) == []
        with pytest.raises(InvalidRequest, match="ttl must be a positive"):
            await case.use("maker/a", ttl=0)

    play(scene)


def test_a_request_that_waits_for_another_ones_load_gives_its_ttl_too(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        tasks = [asyncio.create_task(case.use("maker/a", ttl=ttl)) for ttl in (60, 10)]
        await settle()
        case.starter.gate.set()
        await asyncio.gather(*tasks)
        assert await case.after(9) == ["maker/a"]
        assert await case.after(1) == []

    play(scene)


def test_a_timer_never_fires_on_a_busy_model(play: Play) -> None:
    async def scene(case: Case) -> None:
        async with case.manager.lease("maker/a", ttl=10) as long:
            async with case.manager.lease("maker/a"):
                assert await case.after(9) == ["maker/a"]
            assert await case.after(HOUR) == ["maker/a"]  # The first request is still there.
            assert (long.instance.state, long.instance.ttl_left) == ("busy", 10)
        assert await case.after(9) == ["maker/a"]
        async with case.manager.lease("maker/a"):  # It begins in the last second.
            assert await case.after(HOUR) == ["maker/a"]
        assert await case.after(10) == []

    play(scene)


def test_a_load_that_takes_longer_than_the_ttl_is_not_idle(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        task = asyncio.create_task(case.use("maker/a", ttl=10))
        await settle()
        await case.after(HOUR)
        case.starter.gate.set()
        await task
        assert await case.after(9) == ["maker/a"]
        assert await case.after(1) == []

    play(scene)


def test_explicit_loads_have_the_ttl_they_were_given(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.manager.load("maker/a")
        await case.manager.load("maker/b", ttl=60)
        await case.use("maker/a", ttl=5)
        await case.use("maker/b", ttl=5)
        assert await case.after(59) == ["maker/a", "maker/b"]
        assert await case.after(1) == ["maker/a"]
        assert await case.after(1000 * HOUR) == ["maker/a"]

    play(scene)


def test_an_explicit_load_takes_the_ttl_away_in_its_last_second(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.use("maker/a", ttl=60)
        await case.after(59)
        kept = await case.manager.load("maker/a")
        assert await case.after(HOUR) == ["maker/a"]
        assert await case.manager.load("maker/a", ttl=7, reuse=True) is kept
        assert kept.ttl_left == 7
        assert await case.after(7) == []

    play(scene)


def test_a_crashed_instance_has_no_timer_and_its_successor_the_same_ttl(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.use("maker/a", ttl=60)
        await case.starter.workers[0].crash()
        assert await case.after(50) == []
        await case.use("maker/a")
        assert await case.after(59) == ["maker/a"]  # Not at the 60th second of the first.
        assert await case.after(1) == []

    play(scene)


# --- eviction ------------------------------------------------------------------------


def test_a_load_by_request_first_unloads_the_idle_one_before_it(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.use("maker/a")
        await case.use("maker/b")
        assert case.ids() == ["maker/b"]
        assert case.starter.workers[0].stopped
        assert case.starter.alive_at_start == [0, 0]

    play(scene)


def test_a_busy_one_is_unloaded_when_it_becomes_idle(play: Play) -> None:
    async def scene(case: Case) -> None:
        async with case.manager.lease("maker/a"):
            await case.use("maker/b")
            assert case.ids() == ["maker/a", "maker/b"]
            assert not case.starter.workers[0].stopped
        await settle()
        assert case.ids() == ["maker/b"]

    play(scene)


def test_two_loads_at_once_leave_the_newer(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        tasks = [asyncio.create_task(case.use(name)) for name in ("maker/a", "maker/b")]
        await settle()
        case.starter.gate.set()
        await asyncio.gather(*tasks)
        await settle()
        assert case.ids() == ["maker/b"]

    play(scene)


def test_explicit_instances_and_the_other_kind_stay(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.manager.load("maker/a")
        async with case.manager.lease("maker/e", "embedding"):
            pass
        await case.use("maker/b")
        await case.use("maker/c")
        assert case.ids() == ["maker/a", "maker/e", "maker/c"]

    play(scene)


def test_eviction_can_be_switched_off(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.settings.auto_evict = False
        await case.use("maker/a")
        await case.use("maker/b")
        assert case.ids() == ["maker/a", "maker/b"]

    play(scene)


def test_eviction_is_of_now(play: Play) -> None:
    """The settings that are changed count at once, for what is loaded, too."""

    async def scene(case: Case) -> None:
        case.settings.auto_evict = False
        await case.use("maker/a")
        await case.use("maker/b")
        await case.manager.load("maker/c")
        case.settings.auto_evict = True
        await case.use("maker/b")
        assert case.ids() == ["maker/b", "maker/c"]

    play(scene)


def test_what_cannot_be_loaded_for_its_options_evicts_nothing(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.use("maker/a")
        with pytest.raises(ModelNotFound, match="none"):
            async with case.manager.lease("maker/b", options=LoadConfig(draft_model="none")):
                pass
        assert case.ids() == ["maker/a"]

    play(scene)


def test_what_does_not_fit_evicts_nothing(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.use("maker/a")
        case.starter.refuses = True
        with pytest.raises(ModelLoadFailed, match="does not fit"):
            await case.use("maker/b")
        await settle()
        assert case.starter.promised == Memory(host=1000)
        assert case.ids() == ["maker/a"]

    play(scene)


def test_a_load_begins_when_what_it_takes_the_place_of_is_gone(play: Play) -> None:
    """Also if that ends for another reason: its TTL, or because somebody unloads it."""

    async def scene(case: Case) -> None:
        await case.use("maker/a", ttl=60)
        case.clock.advance(60)
        await case.use("maker/b")
        unloading = asyncio.create_task(case.manager.unload("maker/b"))
        await asyncio.sleep(0)
        await case.use("maker/c")
        await unloading
        assert case.starter.alive_at_start == [0, 0, 0]

    play(scene)
