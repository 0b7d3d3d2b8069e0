"""Downloads from a Hub and from plain addresses, over real HTTP, with a network that fails."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub, Repository
from gguf_bytes import small_model

from lmnb.engine.projector import find_projector
from lmnb.errors import (
    ChecksumMismatch,
    DownloadFailed,
    GatedRepository,
    InvalidModel,
    NoNetwork,
    NoSpace,
)
from lmnb.models.catalog import Catalog
from lmnb.models.download import get
from lmnb.models.events import Done, DownloadEvent, Note, Progress, Started
from lmnb.models.record import read_record
from lmnb.models.sources import transfer
from lmnb.models.sources.reference import HubReference, parse_hub
from lmnb.models.sources.transfer import Transfer

Q4, Q8 = small_model(1, file_type=15), small_model(2, kilobytes=500, file_type=7)
NAME = "maker/Nice-Model-GGUF"
FILE = "Nice-Model-Q4_K_M.gguf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server:
        server.repositories[NAME] = Repository(
            {
                "README.md": b"hello",
                "Nice-Model-Q8_0.gguf": Q8,
                FILE: Q4,
            }
        )
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(transfer, "BACKOFF", 0.0)
        yield server


@pytest.fixture(autouse=True)
def no_other_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "no-home"))


async def _fetch(
    home: Path, model: str | None, quantization: str | None = None
) -> list[DownloadEvent]:
    return [event async for event in get(home, model, quantization)]


def fetch(home: Path, model: str | None, quantization: str | None = None) -> list[DownloadEvent]:
    return asyncio.run(_fetch(home, model, quantization))


def files(home: Path) -> list[str]:
    """All files under the home's models, by name."""
    return sorted(path.name for path in home.rglob("*") if path.is_file())


def notes(events: list[DownloadEvent]) -> str:
    return " ".join(event.text for event in events if isinstance(event, Note))


def test_the_preferred_quantization_with_its_record(hub: FakeHub, tmp_path: Path) -> None:
    events = fetch(tmp_path, NAME)

    done = events[-1]
    path = tmp_path / "models" / NAME / FILE
    assert done == Done(key="maker/nice-model", path=str(path), size_bytes=len(Q4))
    assert path.read_bytes() == Q4
    [started] = [event for event in events if isinstance(event, Started)]
    assert started == Started(model=NAME, files=(FILE,), total=len(Q4), done=0)
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert (last.done, last.total) == (len(Q4), len(Q4))
    assert "Taking Q4_K_M" in notes(events)
    record = read_record(path)
    assert record is not None
    assert (record.source, record.revision, record.license) == ("hub", COMMIT, "mit")
    assert record.sha256 == hashlib.sha256(Q4).hexdigest()
    assert record.origin == f"{hub.url}/{NAME}"
    assert files(tmp_path) == [FILE, FILE + ".json"]


def test_a_second_time_nothing_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    fetch(tmp_path, NAME)
    events = fetch(tmp_path, f"hf.co/{NAME}:q4_k_m")
    assert len(hub.transfers()) == 1
    assert "already downloaded" in notes(events)
    assert isinstance(events[-1], Done)


def test_a_damaged_file_is_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    fetch(tmp_path, NAME)
    path = tmp_path / "models" / NAME / FILE
    path.write_bytes(Q4[:1000])
    fetch(tmp_path, NAME)
    assert path.read_bytes() == Q4


def test_a_second_quantization_becomes_a_variant(hub: FakeHub, tmp_path: Path) -> None:
    fetch(tmp_path, f"{NAME}@Q8_0")
    done = fetch(tmp_path, NAME)[-1]
    assert isinstance(done, Done)
    assert done.key == "maker/nice-model"
    entries = Catalog(tmp_path).scan()
    assert [entry.key for entry in entries] == ["maker/nice-model", "maker/nice-model@q8_0"]
    assert entries[0].variants == ("maker/nice-model@q4_k_m", "maker/nice-model@q8_0")


def test_an_unknown_quantization_lists_those_there_are(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"no Q2_K\. It has Q4_K_M \(\d+ kB\), Q8_0") as info:
        fetch(tmp_path, NAME, "q2_k")
    assert info.value.param == "quantization"
    assert not hub.transfers()


def test_a_dropped_connection_goes_on_where_it_stopped(hub: FakeHub, tmp_path: Path) -> None:
    hub.drops = [100_000, 50_000, None]
    events = fetch(tmp_path, NAME)
    assert [one.range for one in hub.transfers()] == [None, 100_000, 150_000]
    assert (tmp_path / "models" / NAME / FILE).read_bytes() == Q4
    assert "The connection was lost at 100 kB; trying again." in notes(events)


def test_an_interrupted_download_is_resumed_by_the_next(hub: FakeHub, tmp_path: Path) -> None:
    hub.drops = [120_000, 0]
    with pytest.raises(NoNetwork, match=r"120 kB are kept.*goes on where it stopped"):
        fetch(tmp_path, NAME)
    assert files(tmp_path) == [FILE + ".part", FILE + ".part.json"]
    assert Catalog(tmp_path).scan() == []

    hub.seen.clear()
    hub.drops = [None]
    events = fetch(tmp_path, NAME)
    assert [one.range for one in hub.transfers()] == [120_000]
    [started] = [event for event in events if isinstance(event, Started)]
    assert started.done == 120_000
    assert "Resuming" in notes(events)
    assert (tmp_path / "models" / NAME / FILE).read_bytes() == Q4
    assert files(tmp_path) == [FILE, FILE + ".json"]


def test_a_new_version_on_the_hub_is_not_mixed_with_an_old_part(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.drops = [120_000, 0]
    with pytest.raises(NoNetwork):
        fetch(tmp_path, NAME)
    changed = small_model(99, file_type=15)
    hub.repositories[NAME].files[FILE] = changed
    hub.drops = [None]
    fetch(tmp_path, NAME)
    assert (tmp_path / "models" / NAME / FILE).read_bytes() == changed


def test_a_server_that_cannot_resume(hub: FakeHub, tmp_path: Path) -> None:
    hub.drops = [100_000, None]
    hub.ranges = False
    events = fetch(tmp_path, NAME)
    assert "cannot resume: starting again" in notes(events)
    assert (tmp_path / "models" / NAME / FILE).read_bytes() == Q4


def test_passing_trouble_of_the_server(hub: FakeHub, tmp_path: Path) -> None:
    hub.status = [503, 429]
    fetch(tmp_path, NAME)
    assert (tmp_path / "models" / NAME / FILE).read_bytes() == Q4


def test_a_wrong_checksum_leaves_nothing(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories[NAME].corrupt[FILE] = small_model(77, file_type=15)
    with pytest.raises(ChecksumMismatch, match=r"wrong SHA-256, so it was removed\. Run it again"):
        fetch(tmp_path, NAME)
    assert files(tmp_path) == []


def test_closing_cancels_and_keeps_what_can_be_resumed(hub: FakeHub, tmp_path: Path) -> None:
    async def cancelled() -> int:
        hub.release.clear()
        async with aclosing(get(tmp_path, NAME)) as events:
            async for event in events:
                if isinstance(event, Progress) and event.done:
                    return event.done
        raise AssertionError

    arrived = asyncio.run(cancelled())
    assert files(tmp_path) == [FILE + ".part", FILE + ".part.json"]
    assert (tmp_path / "models" / NAME / (FILE + ".part")).stat().st_size >= arrived
    hub.release.set()
    fetch(tmp_path, NAME)
    assert hub.transfers()[-1].range
    assert (tmp_path / "models" / NAME / FILE).read_bytes() == Q4


def test_a_cancelled_task_stops_at_once(hub: FakeHub, tmp_path: Path) -> None:
    async def cancelled() -> None:
        hub.release.clear()
        task = asyncio.create_task(_fetch(tmp_path, NAME))
        await asyncio.to_thread(hub.started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert FILE not in files(tmp_path)


def test_two_at_once_are_one_transfer(hub: FakeHub, tmp_path: Path) -> None:
    async def both() -> tuple[list[DownloadEvent], list[DownloadEvent]]:
        return await asyncio.gather(_fetch(tmp_path, NAME), _fetch(tmp_path, NAME))

    first, second = asyncio.run(both())
    assert len(hub.transfers()) == 1
    assert first[-1] == second[-1]
    assert "waiting" in notes(second)


def test_split_files_are_one_model(hub: FakeHub, tmp_path: Path) -> None:
    names = [f"Q4_K_M/Big-Q4_K_M-0000{n}-of-00002.gguf" for n in (1, 2)]
    parts = dict(zip(names, (Q4, Q8), strict=True))
    hub.repositories["maker/Big"] = Repository({**parts, "Q8_0/Big-Q8_0.gguf": Q8})
    hub.drops = [None, 70_000, None]
    events = fetch(tmp_path, "maker/big".replace("big", "Big"))
    folder = tmp_path / "models" / "maker" / "Big"
    assert [(folder / name).read_bytes() for name in names] == [Q4, Q8]
    assert events[-1] == Done(
        key="maker/big", path=str(folder / names[0]), size_bytes=len(Q4) + len(Q8)
    )
    counts = [event.done for event in events if isinstance(event, Progress)]
    assert counts == sorted(counts)
    assert counts[-1] == len(Q4) + len(Q8)


def test_the_projector_comes_along(hub: FakeHub, tmp_path: Path) -> None:
    """Beside the model, where it is looked for, and in the quantization that suits it best."""
    sees = "Eye/Sees-Q4_K_M.gguf"
    found = {"mmproj-Sees-F32.gguf": Q8, "mmproj-Sees-f16.gguf": Q8, "mmproj-Sees-Q8_0.gguf": Q4}
    hub.repositories["maker/Sees"] = Repository({sees: Q4, **found})
    events = fetch(tmp_path, "maker/Sees")
    folder = tmp_path / "models" / "maker" / "Sees" / "Eye"
    projector = find_projector(folder / "Sees-Q4_K_M.gguf")
    assert projector == folder / "mmproj-Sees-f16.gguf"
    assert projector.read_bytes() == Q8
    [started] = [event for event in events if isinstance(event, Started)]
    assert started.total == len(Q4) + len(Q8)
    assert events[-1] == Done(
        key="maker/sees", path=str(folder / "Sees-Q4_K_M.gguf"), size_bytes=len(Q4)
    )
    assert [entry.key for entry in asyncio.run(Catalog(tmp_path).entries())] == ["maker/sees"]
    # Of one that was fetched without it, only the projector is missing.
    projector.unlink()
    before = len(hub.transfers())
    fetch(tmp_path, "maker/Sees")
    assert [one.path.rpartition("/")[2] for one in hub.transfers()[before:]] == [projector.name]


def test_the_projector_of_another_model_stays_where_it_is(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["maker/Two"] = Repository(
        {"One-Q4_K_M.gguf": Q4, "Other-Q4_K_M.gguf": Q4, "mmproj-Other-f16.gguf": Q8}
    )
    fetch(tmp_path, "maker/Two/One-Q4_K_M.gguf")
    assert files(tmp_path) == ["One-Q4_K_M.gguf", "One-Q4_K_M.gguf.json"]
    fetch(tmp_path, "maker/Two/Other-Q4_K_M.gguf")
    assert "mmproj-Other-f16.gguf" in files(tmp_path)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository(hub: FakeHub, tmp_path: Path, status: int) -> None:
    hub.repositories[NAME].gated = status
    with pytest.raises(
        GatedRepository, match=r"is gated.*Accept them at .*hf auth login.*HF_TOKEN"
    ):
        fetch(tmp_path, NAME)
    assert [name for name in files(tmp_path) if name.endswith(".gguf")] == []


def test_a_missing_or_private_repository(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(
        DownloadFailed, match=r"no repository maker/nothing on the Hub, or it is pr"
    ):
        fetch(tmp_path, "maker/nothing")
    assert files(tmp_path) == []


def test_a_repository_without_gguf(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["maker/torch"] = Repository({"model.safetensors": b"x"})
    with pytest.raises(DownloadFailed, match=r"no GGUF files.*ends in -GGUF"):
        fetch(tmp_path, "maker/torch")


def test_a_repository_with_several_models(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["maker/zoo"] = Repository({"a-Q4_K_M.gguf": Q4, "b-Q4_K_M.gguf": Q4})
    with pytest.raises(DownloadFailed, match=r"several models: .*maker/zoo/a-Q4_K_M\.gguf"):
        fetch(tmp_path, "maker/zoo")
    done = fetch(tmp_path, "maker/zoo/b-Q4_K_M.gguf")[-1]
    assert isinstance(done, Done)


def test_a_repository_cannot_write_elsewhere(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["maker/evil"] = Repository({"../../../evil-Q4_K_M.gguf": Q4})
    with pytest.raises(DownloadFailed, match="outside of itself"):
        fetch(tmp_path / "home", "maker/evil")
    assert files(tmp_path) == []


def test_the_token_goes_to_the_hub_only(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(tmp_path, NAME)
    hub_requests = [one for one in hub.seen if one not in hub.transfers()]
    assert {one.authorization for one in hub_requests} == {"Bearer hf_secret"}
    assert {one.authorization for one in hub.transfers()} == {None}


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NoNetwork, match=r"127\.0\.0\.1:9.*could not be reached.*HF_ENDPOINT"):
        fetch(tmp_path, NAME)
    assert files(tmp_path) == []


def test_no_network_but_downloaded_before(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(tmp_path, NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    events = fetch(tmp_path, NAME)
    assert "from an earlier download" in notes(events)
    assert isinstance(events[-1], Done)


def test_room_is_checked_before_anything_is_fetched(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(NoSpace, match=r"too little room: \d+ kB are needed .* 1\.0 kB are free"):
        fetch(tmp_path, NAME)
    assert not hub.transfers()


def test_a_disk_that_becomes_full(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Transfer, "_flush", full)
    with pytest.raises(NoSpace, match=r"is full\. Free some space"):
        fetch(tmp_path, NAME)
    assert files(tmp_path) == []


def test_a_file_that_is_no_gguf(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["maker/fake"] = Repository({"fake-Q4_K_M.gguf": b"<html>" * 1000})
    with pytest.raises(InvalidModel, match=r"fake-Q4_K_M\.gguf: This is not a GGUF file"):
        fetch(tmp_path, "maker/fake")
    assert files(tmp_path) == []


def test_a_plain_address(hub: FakeHub, tmp_path: Path) -> None:
    hub.plain["thing-Q4_K_M.gguf"] = Q4
    address = f"{hub.storage}/plain/thing-Q4_K_M.gguf?download=1"
    hub.drops = [100_000, None]
    done = fetch(tmp_path, address)[-1]
    path = tmp_path / "models" / "localhost" / "thing" / "thing-Q4_K_M.gguf"
    assert done == Done(key="localhost/thing", path=str(path), size_bytes=len(Q4))
    assert path.read_bytes() == Q4
    record = read_record(path)
    assert record is not None
    assert record.sha256 == hashlib.sha256(Q4).hexdigest()
    assert "already" in notes(fetch(tmp_path, address))


def test_a_plain_address_resumes_the_same_version_only(hub: FakeHub, tmp_path: Path) -> None:
    address = f"{hub.storage}/plain/thing.gguf"
    hub.plain["thing.gguf"] = Q4
    hub.drops = [100_000, 0]
    with pytest.raises(NoNetwork):
        fetch(tmp_path, address)
    hub.seen.clear()
    hub.drops = [None]
    hub.plain["thing.gguf"] = Q8
    done = fetch(tmp_path, address)[-1]
    assert [one.range for one in hub.transfers()] == [100_000]
    assert isinstance(done, Done)
    assert Path(done.path).read_bytes() == Q8


def test_a_plain_address_of_nothing(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="has no such file"):
        fetch(tmp_path, f"{hub.storage}/plain/none.gguf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", HubReference(owner="a", name="b")),
        ("a/b@q8_0", HubReference(owner="a", name="b", quantization="q8_0")),
        ("hf.co/a/b:Q8_0", HubReference(owner="a", name="b", quantization="Q8_0")),
        ("https://huggingface.co/a/b", HubReference(owner="a", name="b")),
        (
            "https://huggingface.co/a/b/tree/main/UD-Q4_K_XL",
            HubReference(owner="a", name="b", quantization="UD-Q4_K_XL"),
        ),
        ("https://hf.co/a/b/tree/v2", HubReference(owner="a", name="b", revision="v2")),
        (
            "https://huggingface.co/a/b/resolve/main/sub/x%20y.gguf?download=true",
            HubReference(owner="a", name="b", file="sub/x y.gguf"),
        ),
        (
            "https://huggingface.co/a/b/blob/abc/x.gguf",
            HubReference(owner="a", name="b", revision="abc", file="x.gguf"),
        ),
        ("a/b/x.gguf", HubReference(owner="a", name="b", file="x.gguf")),
        ("https://example.com/a/b", None),
        ("name", None),
    ],
)
def test_forms_of_references(text: str, expected: HubReference | None) -> None:
    assert parse_hub(text) == expected


def test_a_refused_token(hub: FakeHub, tmp_path: Path) -> None:
    hub.status = [403]  # The storage's answer, not the Hub's: no terms to accept.
    with pytest.raises(GatedRepository, match=r"refuses access to .*\(403\)\. If your token may"):
        fetch(tmp_path, NAME)


def test_files_that_only_xet_serves(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmnb.models.sources.hub._MOST_BYTES", 1000)
    with pytest.raises(DownloadFailed, match=rf"larger than 50 GB.*`hf download {NAME} {FILE}`"):
        fetch(tmp_path, NAME)
