"""Downloads as jobs: LM Studio's API, one job for all who ask, restarts."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, Repository
from gguf_bytes import small_model
from server_home import ServerHome, wait_for

from lmnb.client import Client
from lmnb.errors import Cancelled, NoNetwork
from lmnb.models.events import Done, DownloadEvent
from lmnb.server.database import Database
from lmnb.server.downloads import Downloads, Job, JobNotFound

NAME, KEY = "maker/Nice-Model-GGUF", "maker/nice-model"
MODEL = small_model(1, kilobytes=3000, file_type=15)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.repositories[NAME] = Repository({"Nice-Model-Q4_K_M.gguf": MODEL})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield hub


def begin(client: Client, status: int = 200, **body: Any) -> Any:
    answer = client.http.post("/api/v1/models/download", json={"model": NAME, **body}, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def look(client: Client, job: str) -> Any:
    return client.http.get(f"/api/v1/models/download/status/{job}").json()


def test_a_model_is_fetched_and_then_is_here(hub: FakeHub, fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    hub.release.clear()
    job = begin(client, quantization="Q4_K_M")
    assert job == {
        "job_id": job["job_id"],
        "status": "downloading",
        "total_size_bytes": len(MODEL),
        "started_at": job["started_at"],
    }
    assert job["started_at"].endswith("Z")
    assert hub.started.wait(60)
    running = look(client, job["job_id"])
    assert running["status"] == "downloading"
    assert running["downloaded_bytes"] < len(MODEL)
    assert begin(client, quantization="Q4_K_M")["job_id"] == job["job_id"], "one job for both"
    hub.release.set()
    wait_for(lambda: look(client, job["job_id"])["status"] == "completed", "the download")
    done = look(client, job["job_id"])
    assert done["downloaded_bytes"] == done["total_size_bytes"] == len(MODEL)
    assert done["completed_at"] >= done["started_at"]
    assert KEY in {row["key"] for row in client.ls()}
    assert begin(client, quantization="Q4_K_M") == {"status": "already_downloaded"}
    assert len(hub.transfers()) == 1


def test_a_killed_server_goes_on(hub: FakeHub, fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    hub.release.clear()
    job = begin(client)["job_id"]
    assert hub.started.wait(60)
    fresh_home.kill()
    hub.release.set()
    again = fresh_home.attach()
    wait_for(lambda: look(again, job)["status"] == "completed", "the download")
    assert KEY in {row["key"] for row in again.ls()}


def test_what_goes_wrong_is_told(hub: FakeHub, fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    missing = begin(client, status=400, model="maker/none")["error"]
    assert missing["type"] == "invalid_request"
    assert "maker/none" in missing["message"]
    assert begin(client, status=404, model="what is this")["error"]["type"] == "model_not_found"
    unknown = client.http.get("/api/v1/models/download/status/job_x")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["type"] == "job_not_found"
    hub.repositories[NAME].corrupt["Nice-Model-Q4_K_M.gguf"] = MODEL[:-9] + bytes(9)
    job = begin(client)["job_id"]
    wait_for(lambda: look(client, job)["status"] == "failed", "the download to fail")
    assert look(client, job)["error"]["message"]


def test_the_command_line(hub: FakeHub, fresh_home: ServerHome) -> None:
    """One job, from LM Studio's API to a terminal; what it is called there works, too."""
    client = fresh_home.attach()
    assert "There are no downloads." in fresh_home.lmnb("downloads").stderr
    hub.release.clear()
    job = begin(client)["job_id"]
    assert hub.started.wait(60)
    [row] = json.loads(fresh_home.lmnb("downloads", "--json").stdout)
    assert (row["id"], row["model"], row["status"]) == (job, NAME, "downloading")
    assert fresh_home.lmnb("downloads", "pause", job).stdout == f"{NAME} is paused.\n"
    assert look(client, job)["status"] == "paused"
    assert re.search(rf"{job} +{NAME} +paused", fresh_home.lmnb("downloads").stdout)
    refused = fresh_home.lmnb("downloads", "watch", job, check=False)
    assert "it is paused" in refused.stderr
    fresh_home.lmnb("downloads", "resume", NAME)
    with fresh_home.start("downloads", "watch", job) as watching:
        wait_for(lambda: look(client, job)["status"] == "downloading", "it to go on")
        hub.release.set()
        output, _ = watching.communicate(timeout=60)
    # It may have been done before there was anything to watch.
    assert output.startswith(f"{KEY} is ready") or look(client, job)["status"] == "completed"
    wait_for(lambda: look(client, job)["status"] == "completed", "the download")
    fresh_home.lmnb("downloads", "cancel", job)
    assert client.downloads() == []
    for wrong in (["pause"], ["ls", job], ["pause", "job_x"]):
        assert fresh_home.lmnb("downloads", *wrong, check=False).returncode == 1


# --- jobs -------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "lmnb.db")
    yield found
    found.close()


def test_pause_and_resume_and_cancel(hub: FakeHub, database: Database, tmp_path: Path) -> None:
    async def run() -> None:
        downloads = Downloads(database, tmp_path)
        hub.release.clear()
        job = await downloads.start(NAME, None, detached=True)
        following = asyncio.create_task(_last(downloads, job))
        assert await asyncio.to_thread(hub.started.wait, 20)
        await downloads.pause(job.id)
        with pytest.raises(Cancelled):
            await following
        assert (job.status, downloads.busy) == ("paused", False)
        later = Downloads(database, tmp_path)
        later.resume_all()
        assert not later.busy, "what was paused stays so"
        hub.release.set()
        again = await later.start(NAME, None, detached=True)
        assert again.id == job.id
        assert isinstance(await _last(later, again), Done)
        assert again.status == "completed"
        await later.cancel(job.id)
        with pytest.raises(JobNotFound):
            later.find(job.id)
        assert Downloads(database, tmp_path).all() == []

    asyncio.run(run())


def test_so_many_at_a_time(hub: FakeHub, database: Database, tmp_path: Path) -> None:
    """The next one begins when one ends, or when there may be more; who waits can be paused."""

    async def run() -> None:
        most = 1
        downloads = Downloads(database, tmp_path, lambda: most)
        names = [f"maker/Model-{n}-GGUF" for n in range(4)]
        for name in names:
            hub.repositories[name] = Repository({"Model-Q4_K_M.gguf": MODEL})
        hub.release.clear()
        jobs = [await downloads.start(name, None, detached=True) for name in names]
        following = [asyncio.create_task(_all(downloads, job)) for job in jobs]
        assert await asyncio.to_thread(hub.started.wait, 20)
        assert [job.is_waiting for job in jobs] == [False, True, True, True]
        await downloads.pause(jobs[1].id)
        assert not jobs[1].is_waiting
        assert len(hub.transfers()) == 1
        most = 2
        await downloads.resume(jobs[1].id)  # behind those that wait already
        again = asyncio.create_task(_last(downloads, jobs[1]))
        while len(hub.transfers()) < 2:
            await asyncio.sleep(0.01)
        assert [job.is_waiting for job in jobs] == [False, True, False, True]
        hub.release.set()
        events = await asyncio.gather(*following, return_exceptions=True)
        assert isinstance(events[1], Cancelled)
        assert isinstance(await again, Done)
        assert [job.status for job in jobs] == ["completed"] * 4
        assert isinstance(events[2], list)
        assert "waiting for one of them" in str(events[2][0])

    asyncio.run(run())


def test_changes_at_once_leave_no_job_that_says_it_runs(
    hub: FakeHub, database: Database, tmp_path: Path
) -> None:
    async def run() -> None:
        downloads = Downloads(database, tmp_path)
        hub.release.clear()
        job = await downloads.start(NAME, None, detached=True)
        changes = [downloads.pause, downloads.resume] * 5
        await asyncio.gather(*(change(job.id) for change in changes))
        assert (job.status, downloads.busy) == ("downloading", True)
        await asyncio.gather(
            downloads.cancel(job.id), downloads.pause(job.id), return_exceptions=True
        )
        assert (downloads.all(), downloads.busy) == ([], False)
        hub.release.set()

    asyncio.run(run())


def test_who_follows_last_pauses(hub: FakeHub, database: Database, tmp_path: Path) -> None:
    async def run() -> None:
        downloads = Downloads(database, tmp_path)
        hub.release.clear()
        job = await downloads.start(NAME, None, detached=False)
        first, second = (asyncio.create_task(_last(downloads, job)) for _ in range(2))
        assert await asyncio.to_thread(hub.started.wait, 20)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert downloads.busy
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert job.status == "paused"
        hub.release.set()

    asyncio.run(run())


def test_a_job_that_failed_says_so_to_whoever_comes_later(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    async def run() -> None:
        downloads = Downloads(database, tmp_path)
        job = await downloads.start(NAME, None, detached=True)
        with pytest.raises(NoNetwork):
            await _last(downloads, job)
        with pytest.raises(NoNetwork):
            await _last(Downloads(database, tmp_path), Downloads(database, tmp_path).find(job.id))

    asyncio.run(run())


async def _all(downloads: Downloads, job: Job) -> list[DownloadEvent]:
    return [event async for event in downloads.follow(job)]


async def _last(downloads: Downloads, job: Job) -> DownloadEvent:
    events = [event async for event in downloads.follow(job)]
    return events[-1]
