"""Many streams at once whose clients come and go: nothing leaks, no answers are mixed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
import pytest
from made_models.scripted import MARKERS
from own_server import serving
from server_home import CHAT, ServerHome, wait_for
from tellers import MODEL, STORIES, WAYS, told, write_model

from lmnb.config import load_settings
from lmnb.server.app import public_app
from lmnb.server.process import make_state

STREAMS = 64
SHARE = 0.15
"""Of the CPU time of server and workers, at most so much may be the server's."""


@dataclass
class Storm:
    """Clients that ask, read, and leave when they like. `share` is what the real model is asked."""

    http: httpx2.AsyncClient
    seed: int = 0
    share: float = 0.0
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def blow(self, seconds: float) -> None:
        """All clients, until that time is over."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._client(number, end) for number in range(STREAMS)))

    async def _client(self, number: int, end: float) -> None:
        draw = random.Random(f"{self.seed} {number}")
        while time.monotonic() < end:
            real = draw.random() < self.share
            marker = draw.choice(MARKERS)
            words = "word " * draw.choice((1, 20, 300))
            leaves = draw.choice(("never", "never", "in mid-answer", "early"))
            asking = self._ask(CHAT if real else MODEL, f"{words}{marker}", leaves, draw)
            text = await asking
            story = STORIES[marker]
            self.seen[f"{'real' if real else 'told'}, {leaves}"] += 1
            if not real and not (text == story if leaves == "never" else story.startswith(text)):
                self.wrong.append(f"{leaves}: {text!r} instead of {story!r}")

    async def _ask(self, model: str, prompt: str, leaves: str, draw: random.Random) -> str:
        """The text that was read before the client left."""
        way = draw.choice(WAYS)
        body = {"model": model, "stream": True, "temperature": 0} | way.body(prompt)
        if model == CHAT:
            body |= {"max_tokens" if "response" not in way.path else "max_output_tokens": 48}
        text, most = "", draw.randrange(1, 8) if leaves == "in mid-answer" else 10**9
        seconds = draw.random() * 0.5 if leaves == "early" else 300.0
        try:
            async with asyncio.timeout(seconds):
                async with self.http.stream("POST", way.path, json=body) as response:
                    assert response.status_code == 200, await response.aread()
                    async for event in told(response):
                        text += way.text(event)
                        most -= 1
                        if not most:
                            break
        except TimeoutError:
            assert leaves == "early", "a stream hangs"
        return text


# --- the tests ------------------------------------------------------------------------


@pytest.mark.full
def test_a_storm_leaves_nothing_behind(tmp_path: Path) -> None:
    """In this process, where tasks can be counted: no task, no sequence, no cell is left over."""
    folder = tmp_path / "models" / "maker" / "teller"
    folder.mkdir(parents=True)
    write_model(folder)
    settings = load_settings(tmp_path)

    async def run() -> None:
        state = make_state(settings)
        try:
            instance = await state.models.load(MODEL)
            before = len(asyncio.all_tasks())
            async with serving(public_app(state)) as http:
                storm = Storm(http)
                await storm.blow(15)
                await http.aclose()
                assert not storm.wrong
                assert set(storm.seen) == {
                    f"told, {how}" for how in ("never", "in mid-answer", "early")
                }
                async with asyncio.timeout(20):
                    while instance.active or (await instance.worker.ping()).running:
                        await asyncio.sleep(0.02)
            pong = await instance.worker.ping()
            assert (pong.running, pong.waiting) == (0, 0)
            assert pong.cache_tokens <= instance.config.parallel * instance.config.context_length  # type: ignore[operator]
            async with asyncio.timeout(20):
                while len(asyncio.all_tasks()) > before:
                    await asyncio.sleep(0.02)
            assert state.activity.active == 0
        finally:
            await state.models.close()
            await state.renderer.close()
            state.database.close()

    asyncio.run(run())


@dataclass
class Figures:
    """What a process takes: seconds of CPU, bytes, open files."""

    cpu: float
    memory: int
    files: int

    @classmethod
    def of(cls, process: psutil.Process) -> Figures:
        with process.oneshot():
            times = process.cpu_times()
            return cls(times.user + times.system, process.memory_info().rss, process.num_fds())


@pytest.mark.full
def test_a_minute_of_64_streams(
    fresh_home: ServerHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real server with a real and a scripted model: memory and files stay, the CPU is the models'."""
    path = write_model(tmp_path)
    client = fresh_home.attach()
    # Without prefixes in host memory, which would grow up to their budget.
    fresh_home.lmnb("load", str(path), "--identifier", MODEL, "--cache-ram", "0")
    fresh_home.lmnb("load", CHAT, "--cache-ram", "0")
    server = psutil.Process(fresh_home.pid)

    def storm(seconds: float, seed: int, share: float) -> Storm:
        async def run() -> Storm:
            transport = httpx2.AsyncHTTPTransport(
                uds=client.socket, limits=httpx2.Limits(max_connections=None)
            )
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://local", timeout=None
            ) as http:
                found = Storm(http, seed, share)
                await found.blow(seconds)
                return found

        found = asyncio.run(run())
        wait_for(lambda: all(row["state"] == "idle" for row in client.ps()), "the models to rest")
        return found

    def figures() -> tuple[Figures, list[Figures]]:
        return Figures.of(server), [Figures.of(worker) for worker in fresh_home.workers()]

    storm(15, 1, 0.5)  # caches and pools fill
    own, workers = figures()
    weather = storm(60, 2, 0.5)
    own_after, workers_after = figures()
    assert not weather.wrong
    assert len(weather.seen) == 6
    spent = own_after.cpu - own.cpu
    theirs = sum(b.cpu - a.cpu for a, b in zip(workers, workers_after, strict=True))
    share = spent / (spent + theirs)
    with capsys.disabled():
        print(f"\n{dict(weather.seen)}; the server's share of the CPU: {share:.1%}")  # noqa: T201
        print(own, own_after, workers, workers_after, sep="\n")  # noqa: T201
    assert own_after.files <= own.files + 4
    for before, after in zip(workers, workers_after, strict=True):
        assert after.files <= before.files
        assert after.memory - before.memory < 64 << 20
    assert own_after.memory - own.memory < 32 << 20
    assert share < SHARE
