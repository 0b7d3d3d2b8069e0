"""Which of llama.cpp's two kinds of attention a context has, and how that is found out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import made_models
import pytest

from lmnb.engine import attention, native
from lmnb.engine.attention import Heads
from lmnb.engine.config import LoadConfig
from lmnb.engine.context import DEFAULT_BATCH, PLAIN_BATCH, Context, uses_flash
from lmnb.engine.gguf import Header, Value, read_header
from lmnb.engine.model import Model
from lmnb.engine.protocol import Load, PrefixFolder
from lmnb.engine.spill import open_disk

HEADS = Heads(queries=3, key=64, value=64)


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


@pytest.fixture(autouse=True)
def unknown() -> Iterator[None]:
    """No test knows what another one has measured or made up."""
    attention.is_flash_slow.cache_clear()
    yield
    attention.is_flash_slow.cache_clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = made_models.llama(tmp_path_factory.mktemp("attention") / "model.gguf")
    loaded = Model.load(str(path), read_header(path), LoadConfig(), on_progress=lambda _: None)
    yield loaded
    loaded.close()


def found(monkeypatch: pytest.MonkeyPatch, *, slow: bool | None) -> None:
    monkeypatch.setattr(attention, "is_flash_slow", lambda heads: slow)


@pytest.mark.parametrize(
    "heads", [HEADS, Heads(1, 32, 32), Heads(16, 576, 512), Heads(16, 1024, 1024), Heads(1, 31, 1)]
)
def test_every_kind_of_heads_is_measured(heads: Heads) -> None:
    assert attention.is_flash_slow(heads) in {True, False}


@pytest.mark.parametrize(
    ("flash", "plain", "slow"),
    [([15.0], [10.0], False), ([50.0], [10.0], True), ([90.0, 15.0, 80.0], [10.0, 70.0], False)],
)
def test_the_fastest_of_several_runs_counts(
    flash: list[float], plain: list[float], slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: dict[object, int] = {}

    def seconds(self: object, graph: object) -> float:
        run = runs[graph] = runs.get(graph, -1) + 1
        times = flash if graph == next(iter(runs)) else plain
        return times[run % len(times)]

    monkeypatch.setattr(attention._Graphs, "seconds", seconds)
    assert attention.is_flash_slow(HEADS) is slow
    assert len(set(runs.values())) == 1, "both run equally often"


def test_it_is_measured_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = attention.is_flash_slow(HEADS)
    monkeypatch.setattr(native, "ggml", None)
    assert attention.is_flash_slow(HEADS) is before


def test_a_ggml_without_a_function_leaves_it_open(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, *types: object) -> None:
        raise AttributeError(name)

    monkeypatch.setattr(native, "ggml", missing)
    assert attention.is_flash_slow(HEADS) is None
    assert uses_flash(model, LoadConfig()) is False, "plain attention is never very slow"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"head_count": 9, "head_count_kv": 3}, Heads(3, 64, 64)),
        ({"head_count": 9}, Heads(1, 64, 64)),
        ({"head_count": 9, "head_count_kv": (0, 3, 0)}, Heads(3, 64, 64)),  # layers without
        ({"head_count": 128, "head_count_kv": 1}, Heads(16, 4, 4)),
        ({"head_count": 9, "key_length": 192, "value_length": 128}, Heads(1, 192, 128)),
        ({"head_count": 9, "value_length": 99999}, None),  # ggml would abort for want of memory
        ({}, None),
    ],
)
def test_the_heads_of_a_model(keys: dict[str, Value], expected: Heads | None) -> None:
    metadata: dict[str, Value] = {f"llama.attention.{key}": keys[key] for key in keys}
    metadata |= {"general.architecture": "llama", "llama.embedding_length": 576}
    assert attention.heads(Header(3, metadata, (), 0)) == expected


def test_the_choice_is_the_measured_one(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for slow, batch in ((True, PLAIN_BATCH), (False, DEFAULT_BATCH)):
        found(monkeypatch, slow=slow)
        context = Context(model, LoadConfig(context_length=512, parallel=1))
        assert context.flash_attention is not slow
        assert context.batch_size == batch
        context.close()


@pytest.mark.parametrize(
    ("config", "flash"),
    [
        (LoadConfig(flash_attention=True), True),
        (LoadConfig(flash_attention=False), False),
        (LoadConfig(cache_type_v="q8_0"), True),  # cannot do without
        (LoadConfig(context_length=1 << 30, parallel=1), True),  # no memory for the scores
    ],
)
def test_what_is_asked_for_or_needed_is_not_measured(
    model: Model, config: LoadConfig, flash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "is_flash_slow", None)
    assert uses_flash(model, config) is flash


def test_prefixes_on_disk_belong_to_one_kind(model: Model, tmp_path: Path) -> None:
    command = Load(str(model.path), LoadConfig(), PrefixFolder(str(tmp_path), 1 << 20))
    disks = [open_disk(command, flash=flash) for flash in (True, False, True)]
    fingerprints = [disk._fingerprint for disk in disks if disk]
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]
