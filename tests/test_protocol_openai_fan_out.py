"""Several generations merged: order, sharing of the prompt, failure, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from openai_synthetic import finished

from lmnb.chat.conversation import Request
from lmnb.chat.events import Event, Loading, Prompt, TextDelta
from lmnb.errors import EngineCrashed
from lmnb.server.openai.fan_out import collect, fan_out


def requests(*names: str) -> list[Request]:
    return [Request(model=name, prompt="") for name in names]


class Script:
    """A generation that says its model's name, slowly, and notes what happens to it."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        name = request.model
        self.log.append(f"start {name}")
        try:
            yield Loading(name, 1.0)
            await asyncio.sleep(0)
            if name == "broken":
                raise EngineCrashed("The process crashed.")
            yield Prompt(5, 10, 0)
            await asyncio.sleep(0)
            self.log.append(f"read {name}")
            yield Prompt(10, 10, 0)
            await asyncio.sleep(0)
            if name == "endless":
                await asyncio.Event().wait()
            yield TextDelta(name)
            yield finished()
        finally:
            self.log.append(f"end {name}")


def test_answers_keep_their_places() -> None:
    async def run() -> list[str]:
        groups = [requests("a", "b"), requests("c")]
        return [answer.text for answer in await collect(fan_out(Script(), groups), 3)]

    assert asyncio.run(run()) == ["a", "b", "c"]


def test_the_first_reads_the_prompt_for_the_others() -> None:
    script = Script()
    asyncio.run(collect(fan_out(script, [requests("a", "b", "c")]), 3))
    assert script.log.index("read a") < script.log.index("start b")
    assert script.log.index("read a") < script.log.index("start c")
    assert script.log.index("start c") < script.log.index("end b")


def test_one_failure_ends_all() -> None:
    script = Script()

    async def run() -> None:
        await collect(fan_out(script, [requests("endless"), requests("broken", "never")]), 3)

    with pytest.raises(EngineCrashed):
        asyncio.run(run())
    assert sorted(script.log[-2:]) == ["end broken", "end endless"]
    assert "start never" not in script.log


def test_closing_cancels_all() -> None:
    script = Script()

    async def run() -> None:
        events = fan_out(script, [requests("endless", "endless")])
        async for _, event in events:
            if isinstance(event, Prompt) and event.done == event.total:
                break
        await events.aclose()
        assert script.log.count("start endless") == script.log.count("end endless")
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
