"""Work that goes on without its client, without a server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lmnb.errors import LmnbError
from lmnb.server import background
from lmnb.server.background import Background, Job, TooManyJobs
from lmnb.server.openai.responses_background import begin
from lmnb.server.state import State
from lmnb.server.tracking import Activity


class Endless(Job):
    ended: LmnbError | None = None

    async def work(self) -> None:
        await asyncio.Event().wait()

    async def finish(self, error: LmnbError | None) -> None:
        await asyncio.sleep(0)
        self.ended = error


def test_only_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MOST", 2)

    async def run() -> None:
        activity = Activity()
        jobs = Background(activity)
        for id_ in ("one", "two"):
            jobs.ensure_room()
            jobs.start(id_, Endless())
        with pytest.raises(TooManyJobs, match="2 responses"):
            jobs.ensure_room()
        nothing: Any = None
        with pytest.raises(TooManyJobs):
            await begin(cast("State", SimpleNamespace(background=jobs)), nothing, nothing)
        one = jobs.find("one")
        assert isinstance(one, Endless)
        why = LmnbError("enough")
        await one.stop(why)
        assert one.ended is why
        assert jobs.find("one") is None
        jobs.ensure_room()
        assert activity.active == 1
        await jobs.close()
        assert activity.active == 0

    asyncio.run(run())
