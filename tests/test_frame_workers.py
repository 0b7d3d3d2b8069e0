"""`executor=`: tables over the workers of a Dask cluster, two processes with homes of their own.

Each stands for a machine: it starts an lmnb server of its own. The model is a made one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_models.scripted import MARKERS, Answer, scripted
from server_home import EMBEDDING, ServerHome, link_models, wait_for

from lmnb import attaching
from lmnb.errors import ConfigError, InvalidRequest, ModelNotFound, ServerError
from lmnb.frame.run import Rows

distributed = pytest.importorskip("distributed", reason="needs lmnb[dask]")

YES, LONG = MARKERS[:2]
MODEL, OTHER, ABSENT = "tests/spread", "tests/differs", "tests/absent"
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}: "


def model(home: Path, name: str, said: str) -> None:
    path = home / "models" / name / "model.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        scripted(
            path, [Answer(said), Answer("yes", YES), Answer("on " * 60, LONG)], template=TEMPLATE
        )


@pytest.fixture(scope="module")
def homes(
    home: Path, models_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Path]]:
    """Of two machines that have one model as this one has it, and another file by a name it has."""
    found = [tmp_path_factory.mktemp(f"machine-{n}") for n in "ab"]
    for one in (home, *found):
        model(one, MODEL, "Fine.")
        model(one, OTHER, "Here." if one == home else "There.")
    model(home, ABSENT, "Only here.")
    for one in found:
        link_models(models_cache, one)
    try:
        yield found
    finally:
        for one in found:
            ServerHome(one).close()


@pytest.fixture(scope="module")
def cluster(
    homes: list[Path], server: ServerHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A Dask client of two worker processes, one for each machine."""
    server.attach()
    scratch = str(tmp_path_factory.mktemp("dask"))
    nannies = {
        n: {
            "cls": distributed.Nanny,
            "options": {
                "nthreads": 1,
                "env": {"LMNB_HOME": str(one)},
                "local_directory": scratch,
                "dashboard": False,
            },
        }
        for n, one in enumerate(homes)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"dashboard": False, "host": "127.0.0.1", "port": 0},
    }
    with ExitStack() as stack:
        made = stack.enter_context(distributed.SpecCluster(nannies, scheduler))
        client = stack.enter_context(distributed.Client(made))
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture(autouse=True)
def empty_cache(home: Path) -> Iterator[None]:
    yield
    for path in (home / "cache").glob("tables.db*"):
        path.unlink()


def answered(home: Path) -> int:
    """Requests that models of a home have answered."""
    found = attaching.find(home)
    if found is None:
        return 0
    lines = [one for one in found.http.get("/metrics").text.splitlines() if "requests_total" in one]
    paths = ("chat/completions", "embeddings")
    return sum(int(float(one.rpartition(" ")[2])) for one in lines if any(p in one for p in paths))


def ask(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    found: pd.DataFrame = frame.lm.map("{text}", **{"model": MODEL, "progress": False, **options})
    return found


def test_a_run_over_workers_is_as_one_here(
    cluster: Any, homes: list[Path], server: ServerHome
) -> None:
    texts = [f"{YES if n % 3 == 0 else ''} row {n}" for n in range(24)]
    frame = pd.DataFrame({"text": [*texts, None, "x" * 99_000, texts[0]]}, index=range(30, 3, -1))
    server.attach().unload(all=True)
    here, there = answered(server.path), list(map(answered, homes))
    spread = ask(frame, executor=cluster)
    assert answered(server.path) == here  # this machine was left alone
    assert all(answered(one) > before for one, before in zip(homes, there, strict=True))
    assert server.attach().ps() == []
    again = ask(frame.iloc[:25], executor=cluster)
    assert again.attrs["lmnb"]["cached"] == 24
    local = ask(frame, cache=False)
    pd.testing.assert_frame_equal(spread, local)
    assert spread.attrs["lmnb"] == local.attrs["lmnb"]
    assert spread.attrs["lmnb"]["error"] == 1


def test_a_worker_that_is_lost_loses_and_doubles_no_row(
    cluster: Any, homes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame({"text": [f"row {n}" for n in range(80)]})

    def alive() -> set[int]:
        return set(cluster.run(os.getpid, on_error="ignore").values())

    victim = min(alive())
    added: list[bytes] = []
    add = Rows.add

    def adding(rows: Rows, key: bytes, value: Any) -> None:
        if not added:
            os.kill(victim, signal.SIGKILL)
        added.append(key)
        add(rows, key, value)

    monkeypatch.setattr(Rows, "add", adding)
    found = ask(frame, executor=cluster)
    assert found["out"].tolist() == ["Fine."] * 80
    assert found.attrs["lmnb"]["ok"] == 80
    assert len(added) == len(set(added)) == 80
    wait_for(lambda: len(alive() - {victim}) == 2, "another worker in its place")
    before = list(map(answered, homes))
    assert ask(frame, executor=cluster).attrs["lmnb"]["cached"] == 80
    assert list(map(answered, homes)) == before


def test_an_interrupt_keeps_what_has_come(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"text": [f"row {n}" for n in range(24)]})
    add, count = Rows.add, 0

    def adding(rows: Rows, key: bytes, value: Any) -> None:
        nonlocal count
        add(rows, key, value)
        count += 1
        if count == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "add", adding)
        with pytest.raises(KeyboardInterrupt):
            ask(frame, executor=cluster)
    assert ask(frame, executor=cluster).attrs["lmnb"]["cached"] == 5


def test_models_do_not_travel(cluster: Any) -> None:
    frame = pd.DataFrame({"text": ["a"]})
    with pytest.raises(ModelNotFound, match=r"worker.*differs is another file there"):
        ask(frame, executor=cluster, model=OTHER)
    with pytest.raises(ModelNotFound, match="worker"):
        ask(frame, executor=cluster, model=ABSENT)


def test_vectors_over_workers(cluster: Any, server: ServerHome) -> None:
    texts = pd.Series([f"text number {n}" for n in range(70)], index=range(70, 0, -1))
    before = answered(server.path)
    spread = texts.lm.embed(EMBEDDING, executor=cluster)
    assert answered(server.path) == before
    local = texts.lm.embed(EMBEDDING, cache=False)
    assert spread.index.equals(local.index)
    pairs = zip(spread, local, strict=True)
    assert min(float(one @ other) for one, other in pairs) > 0.999


def test_what_is_no_executor_is_refused(
    tmp_path: Path, server: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame({"text": ["a"]})
    with pytest.raises(InvalidRequest, match=r"dask.distributed.Client, not str"):
        ask(frame, executor="tcp://somewhere")
    with pytest.raises(InvalidRequest, match="not int"):
        frame["text"].lm.embed(EMBEDDING, executor=3)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match="needs Dask") as caught:
        ask(frame, executor="tcp://somewhere")
    assert "lmnb[dask]" in str(caught.value)


def test_a_cluster_without_workers_is_told(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "scheduler_info", lambda **_: {"workers": {}})
    with pytest.raises(ServerError, match="no workers"):
        ask(pd.DataFrame({"text": ["a"]}), executor=cluster)
