"""Batches on a server that is killed, and on disks and models that fail."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_requests import COMPLETIONS, content, ended, line, start
from made_models.scripted import Answer, scripted
from server_home import ServerHome, wait_for
from starlette.types import Message, Receive, Scope, Send

from lmnb.server.anthropic.batch_form import AnthropicForm
from lmnb.server.batches import runner as runners
from lmnb.server.batches.batch import Batch, Drafts, Line, Result, Written
from lmnb.server.batches.runner import Runner
from lmnb.server.batches.store import BatchStore
from lmnb.server.database import Database
from lmnb.server.errors import REQUEST_ID
from lmnb.server.files import Files

COUNT = 60


def quick_model(home: ServerHome) -> str:
    """A model in a home that takes some milliseconds for an answer."""
    path = home.path / "models" / "tests" / "quick" / "quick.gguf"
    path.parent.mkdir(parents=True)
    scripted(path, [Answer("Yes, that is so. " * 20)])
    return "tests/quick"


def requests(model: str) -> list[dict[str, Any]]:
    return [
        line(f"line-{n}", {"model": model, "prompt": f"{n}", "max_tokens": 40}, COMPLETIONS)
        for n in range(COUNT)
    ]


def answered(home: ServerHome) -> dict[str, str]:
    """Lines that have an answer, with the ids of the requests that gave it."""
    with sqlite3.connect(home.path / "lmnb.db") as database:
        rows = database.execute("SELECT custom_id, request_id FROM batch_lines WHERE status = 200")
        return dict(rows.fetchall())


def test_a_killed_server_goes_on_and_runs_no_line_twice(fresh_home: ServerHome) -> None:
    model = quick_model(fresh_home)
    client = fresh_home.attach()
    sdk, anthropic = client.openai(max_retries=0), client.anthropic(max_retries=0)
    batch = start(sdk, requests(model), COMPLETIONS)
    params: Any = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    behind = anthropic.messages.batches.create(requests=[{"custom_id": "one", "params": params}])
    done = anthropic.messages.batches.create(requests=[{"custom_id": "two", "params": params}])
    anthropic.messages.batches.cancel(done.id)

    def some() -> bool:
        counts = sdk.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed >= 3

    wait_for(some, "some answers")
    fresh_home.kill()
    before = answered(fresh_home)
    assert 3 <= len(before) < COUNT
    fresh_home.wait_until_empty()

    client = fresh_home.attach()
    sdk = client.openai(max_retries=0)
    after = ended(sdk, batch.id)
    assert after.status == "completed"
    assert after.request_counts is not None
    assert after.request_counts.completed == after.request_counts.total == COUNT
    output = content(sdk, after.output_file_id)
    assert [one["custom_id"] for one in output] == [f"line-{n}" for n in range(COUNT)]
    ids = {one["custom_id"]: one["response"]["request_id"] for one in output}
    assert {name: ids[name] for name in before} == before
    assert len(set(ids.values())) == COUNT

    anthropic = client.anthropic(max_retries=0)

    def behind_ended() -> bool:
        return anthropic.messages.batches.retrieve(behind.id).processing_status == "ended"

    wait_for(behind_ended, "the batch behind it")
    [one] = anthropic.messages.batches.results(behind.id)
    assert one.result.type == "succeeded"
    [one] = anthropic.messages.batches.results(done.id)
    assert one.result.type == "canceled"
    assert answered(fresh_home) == {}
    assert not list((fresh_home.path / "batches").glob("*.requests"))


def test_a_server_that_is_told_to_end_goes_on_later(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    sdk = client.openai(max_retries=0)
    batch = start(sdk, requests(quick_model(fresh_home)), COMPLETIONS)
    wait_for(lambda: any(row["active"] for row in client.ps()), "the batch to run")
    assert client.handshake()["busy"]
    client.shutdown()
    fresh_home.wait_until_empty()
    assert len(answered(fresh_home)) < COUNT
    sdk = fresh_home.attach().openai(max_retries=0)
    assert len(content(sdk, ended(sdk, batch.id).output_file_id)) == COUNT


# --- without a server ------------------------------------------------------------------


class App:
    """Answers a request with its body and the next of the statuses it is made with, then 200."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[REQUEST_ID] = f"req_{len(self.bodies)}"
        body = (await receive())["body"]
        self.bodies.append(body)
        status = self.statuses.pop(0) if self.statuses else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class Place:
    """A folder with a database, as a server has them."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "lmnb.db")
        self.files = Files(self.database, folder / "files")
        self.store = BatchStore(self.database, folder / "batches")

    def add_batch(self, id_: str, count: int) -> Batch:
        """A batch with its lines, which is yet to be given to a runner."""
        self.add_lines(id_, count)
        return Batch(
            id=id_, protocol="anthropic", endpoint="/v1/messages", status="in_progress", total=count
        )

    def runner(self, form: AnthropicForm | None = None) -> Runner:
        return Runner(
            self.store, self.files, {"anthropic": form or AnthropicForm()}, lambda _path: 2
        )

    def add_lines(self, id_: str, count: int) -> None:
        with self.files.writing() as draft:
            lines = []
            for n in range(count):
                lines.append(Line(n, f"{n}", draft.size, len(b'{"n":%d}' % n)))
                draft.write(b'{"n":%d}' % n)
            self.store.add_lines(id_, lines, draft)

    def run(self, app: App, form: AnthropicForm | None = None) -> Batch:
        """Run a batch of five requests to its end."""
        batch = self.add_batch("b", 5)

        async def run() -> None:
            runner = self.runner(form)
            await runner.start(app)
            await runner.add(batch)
            await idle(runner)
            await runner.stop()

        asyncio.run(asyncio.wait_for(run(), 30))
        return self.store.find("b", "anthropic")

    def results(self, id_: str = "b") -> list[tuple[str, str]]:
        lines = self.store.written(id_).read_bytes().splitlines()
        return [(one["custom_id"], one["result"]["type"]) for one in map(json.loads, lines)]


async def idle(runner: Runner) -> None:
    while runner.busy:
        await asyncio.sleep(0.005)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(runners, "_PAUSE", 0.01)
    found = Place(tmp_path)
    yield found
    found.database.close()


def test_requests_whose_model_was_unloaded_are_sent_again(place: Place) -> None:
    app = App(409, 500, 409)
    batch = place.run(app)
    assert len(app.bodies) == 7
    assert (batch.succeeded, batch.failed) == (4, 1)
    assert sorted({*app.bodies}) == [b'{"n":%d}' % n for n in range(5)]


class Gate(App):
    """Answers when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, self.held(send))

    def held(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            await self.opened.wait()
            await send(message)

        return sending


async def overtaken(place: Place, app: Gate, long: Batch, short: Batch) -> tuple[Runner, int]:
    """A short batch has come while a long one ran; how many requests were under way by then."""
    runner = place.runner()
    await runner.start(app)
    await runner.add(long)
    while not app.bodies:
        await asyncio.sleep(0.005)
    await runner.add(short)
    begun = len(app.bodies)
    app.opened.set()
    return runner, begun


def test_a_long_batch_gives_way_to_a_short_one(place: Place) -> None:
    long, short = place.add_batch("long", 300), place.add_batch("short", 3)
    app = Gate()

    async def run() -> None:
        runner, begun = await overtaken(place, app, long, short)
        await idle(runner)
        await runner.stop()
        assert place.store.find("short", "anthropic").status == "completed"
        short_ones = [b'{"n":%d}' % n for n in range(3)]
        assert app.bodies[begun : begun + 3] == short_ones

    asyncio.run(asyncio.wait_for(run(), 30))
    assert len(app.bodies) == 303
    for id_, count in (("long", 300), ("short", 3)):
        ended = place.store.find(id_, "anthropic")
        assert (ended.status, ended.succeeded) == ("completed", count)
        assert place.results(id_) == [(f"{n}", "succeeded") for n in range(count)]


def test_a_batch_that_has_given_way_can_be_cancelled(place: Place) -> None:
    long, short = place.add_batch("long", 300), place.add_batch("short", 30)
    app = Gate()

    async def run() -> None:
        runner, begun = await overtaken(place, app, long, short)
        while len(app.bodies) == begun:
            await asyncio.sleep(0)
        app.opened.clear()
        await runner.cancel("long", "anthropic")
        while place.store.find("long", "anthropic").is_open:
            await asyncio.sleep(0.005)
        assert place.store.find("short", "anthropic").is_open
        app.opened.set()
        await idle(runner)
        await runner.stop()

    asyncio.run(asyncio.wait_for(run(), 30))
    assert place.store.find("long", "anthropic").status == "cancelled"
    assert [kind for _, kind in place.results("long")].count("canceled") >= 290
    assert place.results("short") == [(f"{n}", "succeeded") for n in range(30)]


def test_batches_go_on_when_the_disk_does(place: Place, monkeypatch: Any) -> None:
    read, failures = place.store.open, iter([sqlite3.OperationalError("disk I/O error")])

    def fails_once() -> list[Batch]:
        for error in failures:
            raise error
        return read()

    async def run() -> None:
        runner = place.runner()
        await runner.start(App())
        monkeypatch.setattr(place.store, "open", fails_once)
        await runner.add(place.add_batch("b", 5))
        await idle(runner)
        await runner.stop()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert place.store.find("b", "anthropic").status == "completed"


def test_a_model_that_is_always_unloaded_is_an_error(place: Place) -> None:
    app = App(*[409] * 100)
    assert place.run(app).failed == 5
    assert len(app.bodies) == 15


class FailsOnce(AnthropicForm):
    """The disk fails while the results are written for the first time."""

    failed = False

    def write(self, batch: Batch, results: Iterator[Result], drafts: Drafts) -> Written:
        written = super().write(batch, results, drafts)
        if not self.failed:
            self.failed = True
            raise OSError(28, "No space left on device")
        return written


def test_a_disk_that_was_full_costs_no_answer(place: Place) -> None:
    app = App()
    batch = place.run(app, FailsOnce())
    assert batch.status == "completed"
    assert len(app.bodies) == 5
    assert place.results() == [(f"{n}", "succeeded") for n in range(5)]


def test_requests_that_are_gone_end_the_batch(place: Place, monkeypatch: Any) -> None:
    monkeypatch.setattr(place.store, "requests", lambda _id: place.store.written("gone"))
    monkeypatch.setattr(
        place,
        "add_lines",
        lambda *_: place.database.execute(
            "INSERT INTO batch_lines (batch, line, custom_id, start, size) VALUES ('b', 0, 'a', 0, 9)"
        ),
    )
    batch = place.run(App())
    assert batch.status == "failed"
    assert batch.errors[0].code == "server_error"


def test_what_a_kill_leaves_of_batches_is_swept(tmp_path: Path, place: Place) -> None:
    """Of one that had just ended, of one that was never made; an open one keeps its lines."""
    place.run(App())
    for id_ in ("b", "never", "open"):
        place.add_lines(id_, 3)
    place.store.add(
        Batch(id="open", protocol="anthropic", endpoint="/v1/messages", status="in_progress")
    )
    (tmp_path / "batches" / ".ipynb_checkpoints").mkdir()
    store = BatchStore(place.database, tmp_path / "batches")
    (tmp_path / "batches" / ".ipynb_checkpoints").rmdir()
    assert place.database.execute("SELECT DISTINCT batch FROM batch_lines") == [("open",)]
    kept = {path.name for path in (tmp_path / "batches").iterdir()}
    assert kept == {"open.requests", "b.results"}
    store.delete("b")
    assert {path.name for path in (tmp_path / "batches").iterdir()} == {"open.requests"}
