"""Looking for models: the Hub's search, the variants of a repository, and whether they fit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_hub import FakeHub, Repository
from gguf_bytes import small_model
from hypothesis import given
from hypothesis import strategies as st

from lmnb.engine import host_memory
from lmnb.errors import DownloadFailed, GatedRepository, ModelNotFound, NoNetwork
from lmnb.models.builtin import DEFAULT_LLM
from lmnb.models.catalog import Catalog
from lmnb.models.download import get
from lmnb.models.fit import MachineMemory, judge, needed
from lmnb.models.offers import Offers, offers
from lmnb.models.sources.search import Found, builtin, search

NAME = "maker/Nice-Model-GGUF"
MODEL = small_model(1, file_type=15)
SIZE = len(MODEL)
ROOMY = MachineMemory(free=10**11, total=10**11)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def look(query: str, limit: int = 30) -> list[Found]:
    return asyncio.run(search(query, limit))


def offered(home: Path, model: str, memory: MachineMemory = ROOMY) -> Offers:
    async def run() -> Offers:
        return await offers(home, model, await Catalog(home).entries(), memory)

    return asyncio.run(run())


def test_what_is_downloaded_most_comes_first(hub: FakeHub) -> None:
    header = {"total": 8_030_261_248, "architecture": "llama", "context_length": 131072}
    file = {"Model-Q4_K_M.gguf": MODEL}
    hub.repositories = {
        "one/Nice-GGUF": Repository(file, downloads=5),
        "two/Nice-GGUF": Repository(file, downloads=70, header=header),
        "three/Nice-GGUF": Repository(file, downloads=6, gated=403),
        "four/Nice": Repository({"model.safetensors": b""}, downloads=80),
        "five/Other-GGUF": Repository(file, downloads=90),
    }
    first, gated, last = look(" nice ")
    assert [one.model for one in (first, gated, last)] == [
        "two/Nice-GGUF",
        "three/Nice-GGUF",
        "one/Nice-GGUF",
    ]
    assert first == Found(
        model="two/Nice-GGUF",
        source="hub",
        parameters=8_030_261_248,
        params_string="8.0B",
        architecture="llama",
        context_length=131072,
        downloads=70,
        likes=3,
        updated_at="2026-02-03T04:05:06.000Z",
    )
    assert (gated.gated, last.gated, last.parameters, last.params_string) == (
        True,
        False,
        None,
        None,
    )
    assert look("nice", 1) == [first]
    assert look(f"{hub.url}/one/Nice-GGUF/tree/main") == [last]
    assert look("nothing of that name") == []


def test_built_in_models_need_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    chat, embedding = builtin()
    assert (chat.model, chat.source, chat.size_bytes) == (
        DEFAULT_LLM.key,
        "builtin",
        DEFAULT_LLM.wheel.size,
    )
    assert "embedding" in (embedding.description or "")
    found = offered(tmp_path, DEFAULT_LLM.key.upper())
    [only] = found.variants
    assert (found.model, found.license, only.key) == (DEFAULT_LLM.key, "apache-2.0", None)
    assert (only.name, only.quantization, only.is_default) == (DEFAULT_LLM.key, "Q4_1", True)


@pytest.mark.parametrize(
    ("listing", "error", "words"),
    [
        ((503, b"trouble"), DownloadFailed, "answered 503 for the search for 'x'"),
        ((401, b"{}"), GatedRepository, "refuses access to the search for 'x'"),
        ((200, b"<html>log in here</html>"), DownloadFailed, "no list of models"),
        ((200, b'[{"name": 1}]'), DownloadFailed, "no list of models"),
    ],
)
def test_a_hub_with_trouble_is_told(
    hub: FakeHub, listing: tuple[int, bytes], error: type[Exception], words: str
) -> None:
    hub.listing = listing
    with pytest.raises(error, match=words):
        look("x")


def test_without_a_network_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for ask in (lambda: look("x"), lambda: offered(tmp_path, NAME)):
        with pytest.raises(NoNetwork, match=r"127\.0\.0\.1:9\) could not be reached") as told:
            ask()
        assert "HF_ENDPOINT" in (told.value.hint or "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for ask in (lambda: look("x"), lambda: offered(tmp_path, NAME)):
        with pytest.raises(NoNetwork, match="HF_HUB_OFFLINE is set"):
            ask()


def test_variants_with_sizes_and_names_that_get_takes(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories[NAME] = Repository(
        {
            "README.md": b"hello",
            "Nice-Q8_0.gguf": MODEL,
            "Nice-Q4_K_M.gguf": MODEL,
            "big/Nice-F16-00001-of-00002.gguf": MODEL,
            "big/Nice-F16-00002-of-00002.gguf": MODEL,
            "mmproj-F16.gguf": b"eyes",
        },
        gated=401,
    )
    found = offered(tmp_path, f"{hub.url}/{NAME}")
    assert (found.model, found.license, found.gated) == (NAME, "mit", True)
    assert (found.free_bytes, found.total_bytes) == ROOMY
    usual, large, full = found.variants
    assert usual.name == f"{NAME}@q4_k_m"
    assert usual.is_default
    assert (usual.size_bytes, usual.files) == (SIZE + 4, ("Nice-Q4_K_M.gguf",))
    assert usual.needed_bytes == needed(SIZE + 4)
    assert (large.quantization, large.is_default) == ("Q8_0", False)
    assert (full.name, full.size_bytes) == (f"{NAME}@f16", 2 * SIZE + 4)
    assert {one.key for one in found.variants} == {None}


def test_every_name_leads_to_its_file(hub: FakeHub, tmp_path: Path) -> None:
    """Several models in one repository, and two of one quantization: each is fetched by its name."""
    names = ("Small-Q4_K_M.gguf", "Large-Q4_K_M.gguf", "Small-Q8_0.gguf", "plain.gguf")
    files = {name: small_model(n, file_type=15) for n, name in enumerate(names)}
    hub.repositories[NAME] = Repository(dict(files))

    async def fetch(name: str) -> None:
        async for _ in get(tmp_path, name):
            pass

    found = offered(tmp_path, NAME)
    assert not any(one.is_default for one in found.variants)
    for one in found.variants:
        asyncio.run(fetch(one.name))
        [file] = one.files
        assert (tmp_path / "models" / NAME / file).read_bytes() == files[file]
        [again] = [same for same in offered(tmp_path, NAME).variants if same.files == one.files]
        assert again.key in {entry.key for entry in Catalog(tmp_path).scan()}


def test_what_is_no_repository_is_told(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories[NAME] = Repository({"model.safetensors": b""})
    cases: list[tuple[str, type[Exception], str]] = [
        (NAME, DownloadFailed, "has no GGUF files"),
        ("maker/none", DownloadFailed, "no repository maker/none"),
        ("nice", ModelNotFound, "neither a repository"),
        ("https://example.com/a.gguf", ModelNotFound, "neither a repository"),
    ]
    for model, error, words in cases:
        with pytest.raises(error, match=words):
            offered(tmp_path, model)


def test_fitting() -> None:
    memory = MachineMemory(free=8 * 10**9, total=16 * 10**9)
    assert judge(5 * 10**9, memory) == "fits"  # 6.5 of 7.2 GB
    assert judge(6 * 10**9, memory) == "tight"  # 7.7 GB
    assert judge(12 * 10**9, memory) == "too large"  # 14.9 of 14.4 GB


@given(st.integers(0, 2**45), st.integers(0, 2**45), st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_larger_one_never_fits_better(one: int, other: int, free: int, taken: int) -> None:
    order: list[Any] = ["fits", "tight", "too large"]
    memory = MachineMemory(free, free + taken)
    small, large = sorted((one, other))
    assert order.index(judge(small, memory)) <= order.index(judge(large, memory))


def test_a_container_has_what_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host_memory, "_ROOT", tmp_path)
    assert host_memory.total_memory() == psutil.virtual_memory().total
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert (host_memory.total_memory(), host_memory.free_memory()) == (1_000_000, 350_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory.total_memory() == psutil.virtual_memory().total
