"""The manager of instances, against workers that do as they are told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from manager_scenes import HOUR, Case, Play, player, settle

from lmnb.engine.config import LoadConfig
from lmnb.errors import (
    EngineCrashed,
    InvalidModel,
    InvalidRequest,
    LmnbError,
    ModelLoadFailed,
    ModelNotFound,
    ModelUnloaded,
    NotSupported,
)


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path)


# --- just in time --------------------------------------------------------------------


def test_a_request_loads_the_model_once(play: Play) -> None:
    async def scene(case: Case) -> None:
        async with case.manager.lease("maker/a") as lease:
            assert lease.load_seconds is not None
            instance = lease.instance
            assert (instance.id, instance.jit, instance.ttl) == ("maker/a", True, HOUR)
            assert (instance.state, instance.active, instance.ttl_left) == ("busy", 1, HOUR)
            async with case.manager.lease("A") as second:
                assert second.instance is instance
                assert second.load_seconds is None
                assert instance.active == 2
        assert (instance.state, instance.active) == ("idle", 0)
        assert instance.ttl_left is not None
        assert HOUR - 60 < instance.ttl_left <= HOUR
        assert len(case.starter.begun) == 1

    play(scene)


def test_concurrent_requests_share_one_load_and_its_progress(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        heard: dict[str, list[float]] = {"first": [], "second": []}

        async def request(who: str) -> str:
            async with case.manager.lease("maker/a", on_progress=heard[who].append) as lease:
                await asyncio.sleep(0)
                return lease.instance.id

        first = asyncio.create_task(request("first"))
        await settle()
        assert case.starter.report
        case.starter.report(0.25)
        second = asyncio.create_task(request("second"))
        await settle()
        [load] = case.manager.loading()
        assert (load.id, load.progress) == ("maker/a", 0.25)
        case.starter.report(0.75)
        case.starter.gate.set()
        assert await first == await second == "maker/a"
        assert heard == {"first": [0.0, 0.25, 0.75], "second": [0.25, 0.75]}
        assert len(case.starter.begun) == 1

    play(scene)


def test_a_broken_listener_does_not_harm_the_load(play: Play) -> None:
    async def scene(case: Case) -> None:
        def broken(_progress: float) -> None:
            raise RuntimeError

        async with case.manager.lease("maker/a", on_progress=broken) as lease:
            assert lease.instance.state == "busy"

    play(scene)


def test_one_waiter_leaving_leaves_the_load_to_the_others(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        leaving = asyncio.create_task(case.use("maker/a"))
        staying = asyncio.create_task(case.use("maker/a"))
        await settle()
        leaving.cancel()
        await settle()
        assert leaving.cancelled()
        assert not case.starter.cancelled
        case.starter.gate.set()
        await staying
        assert case.ids() == ["maker/a"]
        assert case.manager.loaded()[0].active == 0

    play(scene)


def test_the_last_waiter_leaving_cancels_the_load(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        tasks = [asyncio.create_task(case.use("maker/a")) for _ in range(2)]
        await settle()
        for task in tasks:
            task.cancel()
        await settle()
        assert case.starter.cancelled == ["a"]
        assert case.manager.loading() == []
        case.starter.gate.set()
        await case.use("maker/a")  # And a new request begins a new load.
        assert len(case.starter.begun) == 2

    play(scene)


def test_leaving_at_the_moment_the_load_ends_keeps_the_count_right(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        task = asyncio.create_task(case.use("maker/a"))
        await settle()
        [load] = case.manager.loading()
        case.starter.gate.set()
        while case.manager.loading():  # Until the waiter's future is set, but not a step more.
            await asyncio.sleep(0)
        assert load not in case.manager.loading()
        task.cancel()
        await settle()
        [instance] = case.manager.loaded()
        assert instance.active == 0
        assert instance.timer is not None

    play(scene)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidModel("bad"), InvalidModel),
        (ModelLoadFailed("no memory"), ModelLoadFailed),
        (EngineCrashed("dead"), EngineCrashed),
        (PermissionError(13, "no"), ModelLoadFailed),
        (ValueError("bug"), ModelLoadFailed),
    ],
)
def test_a_failed_load_fails_for_everyone_and_only_once(
    play: Play, error: Exception, kind: type[LmnbError]
) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        case.starter.error = error
        tasks = [asyncio.create_task(case.use("maker/a")) for _ in range(3)]
        await settle()
        case.starter.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in results] == [kind] * 3
        assert len({id(one) for one in results}) == 3
        assert len(case.starter.begun) == 1
        case.starter.error = None
        await case.use("maker/a")
        assert case.ids() == ["maker/a"]

    play(scene)


def test_a_draft_model_is_found_by_name(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.manager.load("maker/a", LoadConfig(draft_model="maker/b"))
        [(_, config)] = case.starter.begun
        assert config.draft_model
        assert Path(config.draft_model).parent.name == "b"
        with pytest.raises(ModelNotFound) as caught:
            await case.manager.load("maker/a", LoadConfig(draft_model="maker/none"))
        assert caught.value.param == "draft_model"

    play(scene)


def test_options_count_for_the_load_they_cause(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.settings.default_context_length = 1000
        async with case.manager.lease("maker/a", options=LoadConfig(parallel=2)) as lease:
            assert lease.instance.requested.parallel == 2
        assert case.starter.begun == [("a", LoadConfig(parallel=2, context_length=1000))]
        async with case.manager.lease("maker/a", options=LoadConfig(parallel=3)) as lease:
            assert lease.instance.requested.parallel == 2

    play(scene)


def test_switched_off_only_what_is_loaded_can_be_used(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.settings.jit_loading = False
        with pytest.raises(ModelNotFound, match=r"is not loaded.*`lmnb load maker/a`"):
            await case.use("maker/a")
        await case.manager.load("maker/a")
        await case.use("maker/a")

    play(scene)


def test_a_model_of_the_other_kind(play: Play) -> None:
    async def scene(case: Case) -> None:
        with pytest.raises(NotSupported, match="maker/e is an embedding model"):
            await case.use("maker/e")
        with pytest.raises(NotSupported, match=r"no embeddings.*all-minilm-l6-v2"):
            async with case.manager.lease("maker/a", "embedding"):
                pass
        assert not case.starter.begun
        await case.manager.load("maker/e", identifier="mine")
        with pytest.raises(NotSupported):
            await case.use("mine")

    play(scene)


def test_without_a_name_it_is_what_was_used_last(play: Play) -> None:
    async def scene(case: Case) -> None:
        with pytest.raises(ModelNotFound, match="several are here: maker/a, maker/b, maker/c"):
            await case.use(None)
        async with case.manager.lease(None, "embedding") as lease:
            assert lease.instance.id == "maker/e"  # There is only this one.
        await case.manager.load("maker/a")
        await case.manager.load("maker/b")
        await case.use("maker/a")
        async with case.manager.lease(None) as lease:
            assert lease.instance.id == "maker/a"

    play(scene)


# --- explicit loads --------------------------------------------------------------------


def test_an_explicit_load_has_no_ttl_and_a_second_gets_a_number(play: Play) -> None:
    async def scene(case: Case) -> None:
        first = await case.manager.load("maker/a")
        assert (first.id, first.jit, first.ttl, first.timer) == ("maker/a", False, None, None)
        second = await case.manager.load("maker/a", ttl=HOUR)
        assert (second.id, second.ttl) == ("maker/a:2", HOUR)
        assert second.timer is not None
        third = await case.manager.load("maker/a", identifier="mine")
        assert case.ids() == ["maker/a", "maker/a:2", "mine"]
        async with case.manager.lease("mine") as lease:
            assert lease.instance is third
        async with case.manager.lease("MAKER/A:2") as lease:
            assert lease.instance is second

    play(scene)


def test_identifiers(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.manager.load("maker/a", identifier="mine")
        for wrong, words in (
            ("mine", "already loaded"),
            (" ", "is empty"),
            ("a\nb", "one line"),
            ("\x1b[2J", "printable"),
            ("x" * 201, "at most 200"),
        ):
            with pytest.raises(InvalidRequest, match=words) as info:
                await case.manager.load("maker/b", identifier=wrong)
            assert info.value.param == "identifier"
        async with case.manager.lease("maker/a") as lease:  # Its model's name finds it too.
            assert lease.instance.id == "mine"
        assert len(case.starter.begun) == 1

    play(scene)


def test_an_explicit_load_keeps_what_a_request_has_loaded(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.use("maker/a")
        kept = await case.manager.load("maker/a", LoadConfig(context_length=4096))
        assert (kept.id, kept.jit, kept.ttl, kept.timer) == ("maker/a", False, None, None)
        assert len(case.starter.begun) == 1
        other = await case.manager.load("maker/a", LoadConfig(context_length=512))
        assert other.id == "maker/a:2"

    play(scene)


def test_an_explicit_load_joins_that_of_a_request(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        request = asyncio.create_task(case.use("maker/a"))
        await settle()
        explicit = asyncio.create_task(case.manager.load("maker/a", ttl=7))
        await settle()
        request.cancel()
        await settle()
        case.starter.gate.set()
        instance = await explicit
        assert (instance.jit, instance.ttl, instance.active) == (False, 7, 0)
        assert len(case.starter.begun) == 1

    play(scene)


def test_people_who_load_the_same_share_one_instance(play: Play) -> None:
    """Two notebooks at the same moment, and the same cell once more."""

    async def scene(case: Case) -> None:
        load = case.manager.load
        wanted = LoadConfig(context_length=512)
        both = await asyncio.gather(*(load("maker/a", wanted, reuse=True) for _ in range(2)))
        again = await load("MAKER/A", wanted, ttl=9, reuse=True)
        assert both[0] is both[1] is again
        assert again.ttl == 9
        assert await load("maker/a", reuse=True) is again  # whatever its options
        assert len(case.starter.begun) == 1
        other = await load("maker/a", LoadConfig(context_length=1024), reuse=True)
        mine = await load("maker/a", wanted, identifier="mine", reuse=True)
        assert await load("mine", reuse=True) is mine
        assert await load("maker/a", wanted, identifier="mine", reuse=True) is mine
        assert [other.id, mine.id] == ["maker/a:2", "mine"]
        with pytest.raises(InvalidRequest, match="already loaded"):
            await load("maker/a", LoadConfig(context_length=1024), identifier="mine", reuse=True)

    play(scene)


def test_a_client_of_lm_studios_that_loads_twice_has_two(play: Play) -> None:
    async def scene(case: Case) -> None:
        await asyncio.gather(*(case.manager.load("maker/a") for _ in range(2)))
        assert case.ids() == ["maker/a", "maker/a:2"]

    play(scene)


def test_who_shares_a_load_may_leave(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        tasks = [asyncio.create_task(case.manager.load("maker/a", reuse=True)) for _ in range(2)]
        await settle()
        tasks[0].cancel()
        await settle()
        case.starter.gate.set()
        assert not (await tasks[1]).jit
        assert len(case.starter.begun) == 1

    play(scene)


def test_a_request_takes_over_a_load_that_its_owner_cancels(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        explicit = asyncio.create_task(case.manager.load("maker/a"))
        await settle()
        request = asyncio.create_task(case.use("maker/a"))
        await settle()
        with_ttl = asyncio.create_task(case.use("maker/a", ttl=5))
        await settle()
        explicit.cancel()
        await settle()
        case.starter.gate.set()
        await asyncio.gather(request, with_ttl)
        [instance] = case.manager.loaded()
        assert (instance.jit, instance.ttl) == (True, 5)

    play(scene)


def test_a_context_longer_than_trained_is_a_warning(play: Play) -> None:
    async def scene(case: Case) -> None:
        instance = await case.manager.load("maker/a", LoadConfig(context_length=4096))
        assert "4096 tokens is longer than the 2048" in instance.warnings[0]
        assert (await case.manager.load("maker/b", LoadConfig(context_length=2048))).warnings == []

    play(scene)


# --- unloading and crashing ------------------------------------------------------------


def test_unloading(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.manager.load("maker/a")
        assert await case.manager.unload("A") == "maker/a"
        assert case.ids() == []
        assert case.starter.workers[0].stopped
        with pytest.raises(
            ModelNotFound, match=r"No model 'maker/a' is loaded\. Nothing is loaded"
        ):
            await case.manager.unload("maker/a")
        await case.manager.load("maker/a", identifier="x")
        await case.manager.load("maker/a", identifier="y")
        with pytest.raises(ModelNotFound, match=r"loaded more than once: x, y"):
            await case.manager.unload("maker/a")
        assert await case.manager.unload_all() == ["x", "y"]
        assert case.ids() == []

    play(scene)


def test_unloading_a_busy_instance(play: Play) -> None:
    async def scene(case: Case) -> None:
        async with case.manager.lease("maker/a") as lease:
            await case.manager.unload("maker/a")
            assert lease.instance.state == "unloading"
            assert case.starter.workers[0].stopped
        assert lease.instance.timer is None

    play(scene)


def test_unloading_when_its_answers_are_done(play: Play) -> None:
    async def scene(case: Case) -> None:
        async with case.manager.lease("maker/a") as first:
            async with case.manager.lease("maker/a"):
                unloading = asyncio.create_task(case.manager.unload("maker/a", wait=True))
                await settle()
                assert case.manager.leaving() == [first.instance]
                assert case.ids() == []
            await case.use("maker/a")  # A new request gets another one.
            assert case.ids() == ["maker/a"]
            assert await case.after(HOUR) == []
            assert not unloading.done()
            assert not case.stopped()[0]
        assert await unloading == "maker/a"
        assert case.stopped()[0]
        assert case.manager.leaving() == []

    play(scene)


def test_who_waits_for_answers_may_lose_patience(play: Play) -> None:
    async def scene(case: Case) -> None:
        async with case.manager.lease("maker/a"):
            waiting = asyncio.create_task(case.manager.unload("maker/a", wait=True))
            await settle()
            waiting.cancel()
            await settle()
            assert case.ids() == []  # It goes on by itself,
            assert not case.stopped()[0]
            assert await case.manager.unload("maker/a") == "maker/a"  # until somebody insists.
            assert case.stopped()[0]
        await settle()
        assert case.manager.leaving() == []

    play(scene)


def test_a_crash_while_the_last_answers_are_given(play: Play) -> None:
    async def scene(case: Case) -> None:
        async with case.manager.lease("maker/a"):
            waiting = asyncio.create_task(case.manager.unload("maker/a", wait=True))
            await settle()
            await case.starter.workers[0].crash()
        assert await waiting == "maker/a"
        assert case.manager.leaving() == []

    play(scene)


def test_unloading_what_is_still_loading(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        request = asyncio.create_task(case.use("maker/a"))
        await settle()
        assert await case.manager.unload("maker/a") == "maker/a"
        assert case.starter.cancelled == ["a"]  # Its memory is free again.
        with pytest.raises(ModelUnloaded, match="load of maker/a was cancelled"):
            await request

    play(scene)


def test_a_crashed_instance_comes_back_as_it_was(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.settings.jit_loading = False  # Not even then: it was loaded explicitly.
        config = LoadConfig(context_length=777, parallel=3)
        await case.manager.load("maker/a", config, identifier="mine", ttl=99)
        await case.manager.load("maker/b")
        await case.starter.workers[0].crash()
        assert case.ids() == ["maker/b"]
        async with case.manager.lease("mine") as lease:
            assert lease.load_seconds is not None
            instance = lease.instance
        assert (instance.id, instance.jit, instance.ttl) == ("mine", False, 99)
        assert case.starter.begun[-1] == ("a", config)
        assert not case.starter.workers[1].stopped

        await case.starter.workers[-1].crash()
        async with case.manager.lease("maker/a") as lease:  # By the model's name as well.
            assert lease.instance.id == "mine"

    play(scene)


def test_a_crash_in_mid_request(play: Play) -> None:
    async def scene(case: Case) -> None:
        async with case.manager.lease("maker/a") as lease:
            await case.starter.workers[0].crash()
            assert case.ids() == []
            async with case.manager.lease("maker/a") as again:
                assert again.instance is not lease.instance
        assert lease.instance.timer is None
        assert case.ids() == ["maker/a"]

    play(scene)


def test_what_cannot_come_back_is_forgotten(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.manager.load("maker/a", identifier="mine")
        await case.starter.workers[0].crash()
        case.starter.error = InvalidModel("gone")
        with pytest.raises(InvalidModel):
            await case.use("mine")
        with pytest.raises(ModelNotFound, match="There is no model 'mine'"):
            await case.use("mine")

    play(scene)


def test_unloading_a_crashed_instance_forgets_it(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.manager.load("maker/a", identifier="mine")
        await case.starter.workers[0].crash()
        await case.manager.unload("mine")
        with pytest.raises(ModelNotFound):
            await case.use("mine")

    play(scene)


def test_a_crashed_id_that_somebody_else_took(play: Play) -> None:
    async def scene(case: Case) -> None:
        await case.manager.load("maker/a", identifier="mine")
        await case.starter.workers[0].crash()
        await case.manager.load("maker/b", identifier="mine")
        async with case.manager.lease("mine") as lease:
            assert lease.instance.entry.key == "maker/b"

    play(scene)


def test_after_closing_nothing_is_loaded(play: Play) -> None:
    async def scene(case: Case) -> None:
        case.starter.gate.clear()
        request = asyncio.create_task(case.use("maker/a"))
        await settle()
        await case.manager.close()
        with pytest.raises(ModelUnloaded):
            await request
        with pytest.raises(ModelUnloaded, match="shutting down"):
            await case.use("maker/b")

    play(scene)
