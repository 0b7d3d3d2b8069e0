"""The panel *Get* without a front end, and looking for models by command; a small server is the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_models
import pytest
from fake_hub import FakeHub, Repository
from server_home import CHAT, EMBEDDING, ServerHome, link_models, wait_for

from lmnb.client import Client
from lmnb.errors import DownloadFailed, InvalidRequest
from lmnb.notebook import models, searching
from lmnb.notebook.failures import UsageMistake
from lmnb.notebook.lm import lm
from lmnb.notebook.widgets.get import Get
from lmnb.notebook.widgets.stage import Stage

NAME, KEY = "maker/Nice-Model-GGUF", "maker/nice-model"
FILE = "Nice-Model-Q4_K_M.gguf"
HUGE = 10**13


@pytest.fixture(scope="module")
def hub(home: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture(scope="module")
def own(
    hub: FakeHub, tmp_path_factory: pytest.TempPathFactory, models_cache: Path
) -> Iterator[ServerHome]:
    """A server of its own, whose Hub is the fake one."""
    path = tmp_path_factory.mktemp("own")
    link_models(models_cache, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMNB_HOME", str(path))
        patch.setenv("HF_HOME", str(path / "huggingface"))
        found = ServerHome(path)
        yield found
        found.close()
        found.wait_until_empty()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return made_models.llama(tmp_path_factory.mktemp("made") / FILE).read_bytes()


@pytest.fixture
def client(own: ServerHome, hub: FakeHub, weights: bytes) -> Client:
    """Nothing is loaded, being fetched, or here but the built-in models; the Hub is well."""
    hub.repositories = {
        NAME: Repository({FILE: weights, "Nice-Model-Q8_0.gguf": weights}, downloads=1234),
        "maker/Other-GGUF": Repository({"Other-Q8_0.gguf": weights}),
    }
    hub.listing = None
    hub.release.set()
    client = own.attach()
    client.unload(all=True)
    for job in client.downloads():
        client.change_download(job["id"], "cancel")
    for file in (own.path / "models" / "maker").rglob("*.gguf*"):
        file.unlink()
    return client


@pytest.fixture
def panel(client: Client) -> Iterator[Any]:
    stage = Stage()
    found: Any = Get(stage)
    wait_for(lambda: found.variants.value == CHAT, "the built-in models")
    yield found
    found.close()
    stage.close()


def is_shown(widget: Any) -> bool:
    return bool(widget.layout.display != "none")


def find(panel: Any, query: str) -> None:
    panel.query.value = query  # as a front end does after Enter
    wait_for(lambda: panel.variants.value is not None and panel.variants.value != CHAT, query)


def only_row(panel: Any) -> Any:
    wait_for(lambda: len(panel.transfers.rows) == 1, "the download")
    [row] = panel.transfers.rows.values()
    return row


def test_built_in_models_are_offered_without_a_search(panel: Any, hub: FakeHub) -> None:
    assert [value for _, value in panel.results.options] == [CHAT, EMBEDDING]
    wait_for(lambda: is_shown(panel.load), "the button")
    assert not is_shown(panel.get)
    assert f"It is here, as {CHAT}." in panel.note.value
    panel.results.value = EMBEDDING
    wait_for(lambda: panel.variants.value == EMBEDDING, "the other one")
    assert not any("/api/" in one.path for one in hub.seen)


def test_from_a_search_to_a_loaded_model(
    panel: Any, client: Client, hub: FakeHub, weights: bytes
) -> None:
    find(panel, "nice model")
    assert panel.results.options == ((f"{NAME} · 1,234 downloads", NAME),)
    assert [value for _, value in panel.variants.options] == [f"{NAME}@q4_k_m", f"{NAME}@q8_0"]
    assert panel.variants.options[0][0] == f"Q4_K_M · {len(weights) / 1000:.0f} kB · ✓ fits"
    assert "to download, about 501 MB of memory" in panel.note.value
    assert "Its licence is mit." in panel.note.value
    assert is_shown(panel.get)
    assert not is_shown(panel.load)

    hub.release.clear()
    panel.get.click()
    row = only_row(panel)
    assert row.head.value == f"<b>{NAME}@q4_k_m</b>"
    wait_for(lambda: 0 < row.bar.value < 1, "the first half")
    wait_for(lambda: "50% · " in row.line.value, "the figures")
    assert is_shown(row.pause)
    assert not any(is_shown(one) for one in (row.resume, row.load, row.clear))
    row.pause.click()
    wait_for(lambda: row.line.value.startswith("paused at "), "the pause")
    assert not is_shown(row.pause)
    row.resume.click()
    wait_for(lambda: is_shown(row.pause), "it to go on")
    hub.release.set()
    wait_for(lambda: row.line.value.startswith("is here: "), "the end")
    assert not is_shown(row.bar)
    wait_for(lambda: panel.variants.options[0][0].endswith("here"), "the news above")
    wait_for(lambda: is_shown(panel.load), "the other button")
    assert not is_shown(panel.get)

    row.load.click()
    wait_for(lambda: f"{KEY} is loaded (" in panel.loading.done.value, "the load")
    wait_for(lambda: row.line.value.endswith(", and loaded"), "the row")
    assert [one["id"] for one in client.ps()] == [KEY]
    assert not is_shown(row.load)
    assert models.choose(client) == KEY  # cells of this notebook ask it from now on
    panel.load.click()
    wait_for(lambda: "is loaded already" in panel.loading.done.value, "the second load")
    row.clear.click()
    wait_for(lambda: not panel.transfers.rows, "the row to go")
    assert row.root.comm is None
    assert KEY in {one["key"] for one in client.ls()}


def test_downloads_of_others_are_shown(panel: Any, client: Client, hub: FakeHub) -> None:
    hub.release.clear()
    body = {"model": NAME, "quantization": "Q8_0"}
    assert client.http.post("/api/v1/models/download", json=body).status_code == 200
    row = only_row(panel)
    wait_for(lambda: row.head.value == f"<b>{NAME}@Q8_0</b>", "its name")
    row.cancel.click()
    wait_for(lambda: not panel.transfers.rows, "the row to go")
    assert client.downloads() == []


def test_a_download_that_fails_says_why(
    panel: Any, client: Client, hub: FakeHub, weights: bytes
) -> None:
    hub.repositories[NAME].corrupt[FILE] = weights[:-9] + bytes(9)
    find(panel, "nice")
    panel.get.click()
    row = only_row(panel)
    wait_for(lambda: row.line.value.startswith("failed: "), "the failure")
    assert "wrong SHA-256" in row.line.value
    assert not is_shown(row.cancel)
    hub.repositories[NAME].corrupt.clear()
    row.resume.click()
    wait_for(lambda: row.line.value.startswith("is here: "), "the second attempt")


def test_a_search_that_fails_says_why(panel: Any, hub: FakeHub) -> None:
    hub.listing = (404, b"trouble")
    panel.query.value = "nice"
    wait_for(lambda: "answered 404" in panel.failure.value, "the failure")
    assert not panel.note.value
    assert panel.results.options  # what was there stays
    hub.listing = None
    panel.search.click()
    wait_for(lambda: panel.results.value == NAME, "the models")
    assert not panel.failure.value
    panel.query.value = "no<such>"
    wait_for(lambda: "named no&lt;such&gt;" in panel.note.value, "the news")
    assert panel.results.options == ()
    assert not is_shown(panel.get)


def test_a_repository_that_fails_says_why(panel: Any, hub: FakeHub) -> None:
    find(panel, "maker")
    hub.repositories["maker/Other-GGUF"].files["broken"] = b""
    del hub.repositories["maker/Other-GGUF"].files["Other-Q8_0.gguf"]
    panel.results.value = "maker/Other-GGUF"
    wait_for(lambda: "has no GGUF files" in panel.failure.value, "the failure")
    assert panel.variants.options == ()
    assert not is_shown(panel.get)
    panel.results.value = NAME
    wait_for(lambda: panel.variants.value == f"{NAME}@q4_k_m", "the other one")


def test_what_does_not_fit_says_so(panel: Any) -> None:
    [one] = panel._offers["variants"]
    large = {**one, "key": None, "fit": "too large", "needed_bytes": HUGE}
    tight = {**large, "name": "tight", "fit": "tight"}
    offers = {**panel._offers, "gated": True, "variants": [large, tight]}
    panel.post(lambda: panel._offered(offers))
    wait_for(lambda: "That is more than this machine has." in panel.note.value, "the words")
    assert "about 10000 GB of memory" in panel.note.value
    assert "terms accepted" in panel.note.value
    assert [label.split(" · ")[2] for label, _ in panel.variants.options] == [
        "✗ too large",
        "⚠ tight",
    ]
    panel.variants.value = "tight"
    wait_for(lambda: "something else is unloaded" in panel.note.value, "the other words")


# --- by command -----------------------------------------------------------------------


def test_the_command_line(own: ServerHome, client: Client, hub: FakeHub) -> None:
    found = json.loads(own.lmnb("search", "nice", "model", "--json").stdout)
    assert [one["model"] for one in found] == [NAME]
    assert f"{NAME}  " in own.lmnb("search", "nice").stdout
    shown = own.lmnb("search", "--variants", NAME)
    assert f"{NAME}@q4_k_m (default)" in shown.stdout
    assert "fits" in shown.stdout
    assert "of memory are free now" in shown.stderr
    refused = own.lmnb("search", "--variants", "maker/none", check=False)
    assert "no repository maker/none" in refused.stderr


def test_the_client(client: Client) -> None:
    assert [one["model"] for one in client.search()] == [CHAT, EMBEDDING]
    assert [one["model"] for one in client.search("maker", limit=1)] == [NAME]
    with pytest.raises(InvalidRequest, match="limit must be 1 to 100"):
        client.search("x", limit=0)
    with pytest.raises(InvalidRequest, match="Say of which model"):
        client.variants(" ")
    with pytest.raises(DownloadFailed, match="no repository"):
        client.variants("maker/none")


def test_the_magic(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(searching, "show", shown.append)
    lm("search")
    lm("search maker")
    lm("search maker --limit 1")
    lm(f"search --variants {NAME}")
    built_in, both, one, variants = (bundle["text/plain"] for bundle in shown)
    assert CHAT in built_in
    assert "1,234" in both
    assert "maker/Other-GGUF" in both
    assert "maker/Other-GGUF" not in one
    assert f"{NAME}@q4_k_m (default)" in variants
    with pytest.raises(UsageMistake, match="say of which repository"):
        lm("search --variants")
