"""TTLs through the protocols, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from made_models.scripted import MARKERS
from manager_scenes import MovingClock
from own_server import serving
from tellers import MODEL, WAYS, told, write_model

from lmnb.config import load_settings
from lmnb.models.instance import Instance
from lmnb.server.app import public_app
from lmnb.server.control.form import row
from lmnb.server.process import make_state
from lmnb.server.state import State


class Scene(NamedTuple):
    state: State
    clock: MovingClock
    http: httpx2.AsyncClient

    @property
    def instance(self) -> Instance:
        [instance] = self.state.models.loaded()
        return instance

    async def ask(self, path: str, body: dict[str, Any]) -> None:
        response = await self.http.post(path, json={"model": MODEL, "temperature": 0, **body})
        assert response.status_code == 200, response.text
        await self.idle()

    async def idle(self) -> None:
        """The request's end is noticed on the server a moment after its answer is read."""
        async with asyncio.timeout(20):
            while self.instance.active:
                await asyncio.sleep(0.01)

    async def after(self, seconds: float) -> str:
        """What the list of models says then."""
        self.clock.advance(seconds)
        async with asyncio.timeout(20):
            while self.state.models.leaving():
                await asyncio.sleep(0.01)
        answer = await self.http.get(f"/api/v0/models/{MODEL}")
        found: str = answer.json()["state"]
        return found


def play(home: Path, scene: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        async with _scene(home) as found:
            await scene(found)

    asyncio.run(main())


@asynccontextmanager
async def _scene(home: Path) -> AsyncIterator[Scene]:
    folder = home / "models" / MODEL
    folder.mkdir(parents=True)
    write_model(folder)
    clock = MovingClock()
    state = make_state(load_settings(home), clock=clock)
    try:
        async with serving(public_app(state)) as http:
            yield Scene(state, clock, http)
    finally:
        await state.models.close()
        await state.renderer.close()
        state.database.close()


def test_the_ttl_of_every_protocol(tmp_path: Path) -> None:
    """The last one holds, from the end of its request on, and `ps` says how much of it is left."""

    async def scene(scene: Scene) -> None:
        ways = [(way.path, way.body(MARKERS[0])) for way in WAYS]
        ways += [("/api/v0/chat/completions", ways[0][1]), ("/api/v1/chat", {"input": MARKERS[0]})]
        for number, (path, body) in enumerate(ways):
            ttl = 60 + number
            await scene.ask(path, body | {"ttl": ttl})
            assert await scene.after(ttl - 1) == "loaded", path
            assert row(scene.instance)["ttl_left"] == 1
        await scene.ask(*ways[0])  # without one of its own
        assert await scene.after(64) == "loaded"
        assert await scene.after(1) == "not-loaded"

    play(tmp_path, scene)


def test_an_answer_that_takes_longer_than_the_ttl(tmp_path: Path) -> None:
    async def scene(scene: Scene) -> None:
        # Without a marker the model finds no end.
        body = {"model": MODEL, "prompt": "On and on", "stream": True, "ttl": 10}
        async with scene.http.stream("POST", "/v1/completions", json=body) as response:
            events = told(response)
            await anext(events)
            for _ in range(3):
                assert await scene.after(1000) == "loaded"
                await anext(events)
            shown = row(scene.instance)
            assert (shown["state"], shown["ttl_left"]) == ("busy", 10)
        await scene.idle()
        assert await scene.after(9) == "loaded"
        assert await scene.after(1) == "not-loaded"

    play(tmp_path, scene)


@pytest.mark.parametrize("wait", [False, True])
def test_unloading_what_is_answering(tmp_path: Path, *, wait: bool) -> None:
    """At once, the answer ends with an error; after it, or when its client has left, without."""

    async def scene(scene: Scene) -> None:
        body = {"model": MODEL, "prompt": "On and on", "stream": True}
        path = "/api/v1/models/unload"
        async with scene.http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            unload = {"instance_id": MODEL, "wait": wait}
            unloading = asyncio.create_task(scene.http.post(path, json=unload))
            if not wait:
                assert "The model was unloaded" in "".join([line async for line in lines])
            else:
                async with asyncio.timeout(20):
                    while not scene.state.models.leaving():
                        await asyncio.sleep(0.01)
                await anext(lines)
                assert not unloading.done()
        assert (await unloading).json() == {"instance_id": MODEL}
        assert scene.state.models.loaded() == scene.state.models.leaving() == []

    play(tmp_path, scene)


def test_a_load_that_does_not_fit_says_so_to_all_who_wait(tmp_path: Path) -> None:
    async def scene(scene: Scene) -> None:
        body = {"model": MODEL, "input": MARKERS[0], "context_length": 1_000_000_000}
        answers = await asyncio.gather(
            *(scene.http.post("/api/v1/chat", json=body) for _ in range(3))
        )
        for answer in answers:
            assert "The model would need" in answer.json()["error"]["message"], answer.text
        assert scene.state.models.loaded() == []
        assert scene.state.models.loading() == []
        await scene.ask("/v1/completions", {"prompt": MARKERS[0]})

    play(tmp_path, scene)
