"""What lies on the disk, under which names."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from gguf_bytes import Value, make_gguf, small_model

from lmnb.engine.gguf import Header, read_header
from lmnb.errors import DownloadFailed, InvalidModel, ModelNotFound
from lmnb.models.builtin import DEFAULT_LLM
from lmnb.models.catalog import Catalog
from lmnb.models.download import get
from lmnb.models.entry import ModelEntry, format_bytes, format_parameters
from lmnb.models.events import Done, DownloadEvent
from lmnb.models.places import Place, default_places
from lmnb.models.quantization import label_of, normalise, preferred
from lmnb.models.record import Record, write_record

MODEL = small_model(1, kilobytes=2)


def put(path: Path, data: bytes = MODEL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def catalog_of(home: Path, *places: Place) -> Catalog:
    return Catalog(home, places=places)


def keys(catalog: Catalog) -> list[str]:
    return [entry.key for entry in catalog.scan()]


def test_an_entry_says_what_the_header_says(tmp_path: Path) -> None:
    metadata: dict[str, Value] = {
        "general.architecture": "qwen2",
        "general.size_label": "7B",
        "general.license": "mit",
        "general.file_type": 15,
        "qwen2.context_length": 32768,
    }
    data = make_gguf(metadata, {"w": ((256, 4), 12, 4 * 144)})
    path = put(tmp_path / "models" / "Qwen" / "Qwen2.5-7B-GGUF" / "qwen2.5-7b-q4_k_m.gguf", data)
    assert catalog_of(tmp_path).scan() == [
        ModelEntry(
            key="qwen/qwen2.5-7b",
            publisher="Qwen",
            display_name="Qwen2.5 7B",
            path=path,
            kind="llm",
            architecture="qwen2",
            quantization="Q4_K_M",
            bits_per_weight=4.5,
            size_bytes=len(data),
            parameters=1024,
            params_string="7B",
            max_context_length=32768,
            source="models",
            license="mit",
        )
    ]


def test_variants_share_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "maker" / "model-GGUF"
    for label in ("Q8_0", "Q4_K_M", "F16"):
        put(folder / f"model-{label}.gguf")
    catalog = catalog_of(tmp_path)
    assert keys(catalog) == ["maker/model", "maker/model@f16", "maker/model@q8_0"]
    selected = catalog.find("maker/model")
    assert (selected.quantization, selected.variant) == ("Q4_K_M", "maker/model@q4_k_m")
    assert selected.variants == tuple(f"maker/model@{q}" for q in ("q4_k_m", "q8_0", "f16"))
    for name in ("maker/model@Q8_0", "model@q8_0", "maker/model-GGUF:Q8_0", "model-Q8_0.gguf"):
        assert catalog.find(name).key == "maker/model@q8_0"


def test_the_default_of_a_built_in_model_keeps_its_name(tmp_path: Path) -> None:
    for label in ("F16", "Q8_0"):
        path = put(tmp_path / "models" / "st" / "m" / f"m.{label}.gguf")
        write_record(path, Record(source="builtin", key="all-minilm-l6-v2", publisher="st"))
    assert catalog_of(tmp_path).find("all-minilm-l6-v2").quantization == "F16"


def test_names_whatever_their_case(tmp_path: Path) -> None:
    put(tmp_path / "models" / "Maker" / "Nice-Model-GGUF" / "nice-Q4_0.gguf")
    catalog = catalog_of(tmp_path)
    for name in (
        "maker/nice-model",
        "MAKER/Nice-Model",
        "Maker/Nice-Model-GGUF",
        "nice-model",
        "Nice-Model-GGUF",
        "nice-Q4_0",
        " nice-model ",
        "text-embedding-nice-model",
    ):
        assert catalog.find(name).key == "maker/nice-model"


def test_an_ambiguous_name_lists_the_choices(tmp_path: Path) -> None:
    for maker in ("a", "b"):
        put(tmp_path / "models" / maker / "model" / "m-Q4_0.gguf")
    catalog = catalog_of(tmp_path)
    with pytest.raises(ModelNotFound, match=r"could be any of these models: a/model, b/model\."):
        catalog.find("model")
    assert catalog.find("b/model").publisher == "b"


def test_nothing_downloaded_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"nothing is downloaded yet.*with `lmnb get`\."):
        catalog_of(tmp_path).find("gpt-4o")
    with pytest.raises(ModelNotFound, match=r"not downloaded\. Fetch it with `lmnb get smollm2"):
        catalog_of(tmp_path).find(DEFAULT_LLM.key)


def test_a_misspelt_name_gets_a_suggestion(tmp_path: Path) -> None:
    put(tmp_path / "models" / "maker" / "nice-model" / "m-Q4_0.gguf")
    with pytest.raises(ModelNotFound, match=r"Did you mean maker/nice-model\?"):
        catalog_of(tmp_path).find("maker/nise-modle")
    with pytest.raises(ModelNotFound, match=r"Downloaded: maker/nice-model\."):
        catalog_of(tmp_path).find("claude-sonnet-4-5")


def test_split_models_are_one_entry_or_a_problem(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "maker" / "big"
    metadata: dict[str, Value] = {"general.architecture": "llama", "split.count": 2}
    part = make_gguf(metadata)
    for number in (1, 2):
        put(folder / f"big-Q4_K_M-0000{number}-of-00002.gguf", part)
    catalog = catalog_of(tmp_path)
    [entry] = catalog.scan()
    assert entry.key == "maker/big"
    assert entry.size_bytes == 2 * len(part)
    assert entry.parameters == 2 * 64 * 32
    (folder / "big-Q4_K_M-00002-of-00002.gguf").unlink()
    assert catalog.scan() == []
    [problem] = catalog.problems().values()
    assert problem.message.startswith("big-Q4_K_M-00002-of-00002.gguf is missing")
    with pytest.raises(InvalidModel, match=r"00002-of-00002\.gguf is missing .* All 2 parts must"):
        catalog.find("big-Q4_K_M-00001-of-00002.gguf")


def test_several_models_in_one_folder(tmp_path: Path) -> None:
    for name in ("alpha-Q4_0", "beta-Q4_0", "beta-Q8_0"):
        put(tmp_path / "models" / "maker" / "zoo" / f"{name}.gguf")
    assert keys(catalog_of(tmp_path)) == ["maker/alpha", "maker/beta", "maker/beta@q8_0"]


def test_what_is_no_model_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "maker" / "model"
    put(folder / "model-Q4_0.gguf")
    put(folder / "mmproj-model-f16.gguf")
    put(folder / "vision.gguf", make_gguf({"general.architecture": "clip"}))
    put(
        folder / "lora.gguf",
        make_gguf({"general.architecture": "llama", "general.type": "adapter"}),
    )
    put(folder / "model-Q8_0.gguf.part")
    put(folder / ".hidden" / "other.gguf")
    catalog = catalog_of(tmp_path)
    assert keys(catalog) == ["maker/model"]
    assert catalog.problems() == {}


def test_a_damaged_file_is_a_problem_and_not_a_model(tmp_path: Path) -> None:
    path = put(tmp_path / "models" / "maker" / "model" / "model-Q4_0.gguf", MODEL[:-10])
    catalog = catalog_of(tmp_path)
    assert catalog.scan() == []
    assert list(catalog.problems()) == [path]
    with pytest.raises(InvalidModel, match="truncated"):
        catalog.find("model-Q4_0.gguf")
    with pytest.raises(InvalidModel, match="truncated"):
        catalog.find(str(path))


def test_files_are_read_again_only_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "models" / "maker" / "model" / "m-Q4_0.gguf")
    reads: list[Path] = []

    def counted(source: Path) -> Header:
        reads.append(source)
        return read_header(source)

    monkeypatch.setattr("lmnb.models.catalog.read_header", counted)
    catalog = catalog_of(tmp_path)
    catalog.scan()
    catalog.scan()
    catalog.find("maker/model")
    assert reads == [path]
    os.utime(path, ns=(1, 1))
    catalog.scan()
    assert reads == [path, path]


def test_a_removed_file_is_not_found_any_more(tmp_path: Path) -> None:
    path = put(tmp_path / "models" / "maker" / "model" / "m-Q4_0.gguf")
    catalog = catalog_of(tmp_path)
    catalog.find("maker/model")
    path.unlink()
    with pytest.raises(ModelNotFound):
        catalog.find("maker/model")


def test_a_path_is_a_name(tmp_path: Path) -> None:
    path = put(tmp_path / "elsewhere" / "Mine-Q4_0.gguf")
    entry = catalog_of(tmp_path).find(str(path))
    assert (entry.key, entry.path, entry.source) == ("mine-q4_0", path, "local")
    known = put(tmp_path / "models" / "maker" / "model" / "m-Q4_0.gguf")
    assert catalog_of(tmp_path).find(str(known)).key == "maker/model"


def test_other_files_are_no_names(tmp_path: Path) -> None:
    put(tmp_path / "here.txt", b"x")
    messages = set()
    for name in ("here.txt", "gone.txt"):
        with pytest.raises(ModelNotFound) as info:
            catalog_of(tmp_path).find(str(tmp_path / name))
        messages.add(info.value.message.replace(name, "*"))
    assert len(messages) == 1


def cache_file(cache: Path, name: str, commit: str, file: str) -> Path:
    """A file as huggingface_hub stores it: a link to a blob."""
    repository = cache / f"models--{name.replace('/', '--')}"
    blob = put(repository / "blobs" / f"{commit}-{file}")
    path = repository / "snapshots" / commit / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(blob, path.parent))
    return path


def test_the_hugging_face_cache(tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    cache_file(cache, "maker/model-GGUF", "old", "model-Q4_0.gguf")
    wanted = cache_file(cache, "maker/model-GGUF", "new", "model-Q4_0.gguf")
    put(cache / "models--maker--model-GGUF" / "refs" / "main", b"new")
    put(cache / "datasets--maker--data" / "snapshots" / "x" / "d.gguf")
    catalog = catalog_of(tmp_path, Place("huggingface-cache", cache))
    [entry] = catalog.scan()
    assert (entry.key, entry.path, entry.source) == ("maker/model", wanted, "huggingface-cache")


def test_the_same_model_in_two_places_is_one(tmp_path: Path) -> None:
    own = put(tmp_path / "models" / "maker" / "model" / "model-Q4_0.gguf")
    put(tmp_path / "studio" / "maker" / "model" / "model-Q4_0.gguf")
    put(tmp_path / "studio" / "maker" / "model" / "model-Q8_0.gguf")
    catalog = catalog_of(tmp_path, Place("lm-studio", tmp_path / "studio"))
    assert [(one.key, one.source) for one in catalog.scan()] == [
        ("maker/model", "models"),
        ("maker/model@q8_0", "lm-studio"),
    ]
    assert catalog.find("maker/model").path == own


def test_where_others_keep_their_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    cache = Place("huggingface-cache", tmp_path / ".cache" / "huggingface" / "hub")
    assert default_places() == [cache]
    (tmp_path / ".lmstudio" / "models").mkdir(parents=True)
    assert default_places() == [Place("lm-studio", tmp_path / ".lmstudio" / "models"), cache]
    (tmp_path / "moved" / "models").mkdir(parents=True)
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'moved'}\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert default_places() == [
        Place("lm-studio", tmp_path / "moved" / "models"),
        Place("huggingface-cache", tmp_path / "hf" / "hub"),
    ]


async def _register(home: Path, path: Path | str) -> list[DownloadEvent]:
    return [event async for event in get(home, str(path))]


def register(home: Path, path: Path | str) -> DownloadEvent:
    return asyncio.run(_register(home, path))[-1]


def test_a_local_file_is_referred_to_and_not_copied(tmp_path: Path) -> None:
    home, path = tmp_path / "home", put(tmp_path / "mine" / "Mine-7B-Q4_0.gguf")
    assert register(home, path) == Done(key="local/mine-7b", path=str(path), size_bytes=len(MODEL))
    assert [one.name for one in home.rglob("*.gguf*")] == ["Mine-7B-Q4_0.gguf.json"]
    entry = catalog_of(home).find("mine-7b")
    assert (entry.path, entry.source, entry.origin) == (path, "local", str(path))
    path.unlink()
    assert catalog_of(home).scan() == []


def test_a_local_file_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "x.gguf")
    monkeypatch.chdir(tmp_path)
    for name in ("x.gguf", "./x.gguf"):
        done = register(tmp_path / "home", name)
        assert isinstance(done, Done)
        assert done.path == str(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("./nothing.gguf", DownloadFailed, "There is no file"),
        ("./folder", DownloadFailed, r"is a folder\. Name the \.gguf file in it"),
        ("./text.gguf", InvalidModel, "not a GGUF file"),
        ("./cut.gguf", InvalidModel, "truncated"),
        ("./lora.gguf", InvalidModel, "is an adapter"),
        ("./two-00001-of-00002.gguf", InvalidModel, "00002-of-00002.gguf cannot be read"),
        ("llama", ModelNotFound, "Built in are smollm2-135m-instruct and all-minilm-l6-v2"),
    ],
)
def test_what_cannot_be_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Exception], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "folder" / "x.gguf")
    put(tmp_path / "text.gguf", b"once upon a time")
    put(tmp_path / "cut.gguf", MODEL[:-1])
    put(tmp_path / "two-00001-of-00002.gguf")
    put(tmp_path / "lora.gguf", make_gguf({"general.type": "adapter"}))
    with pytest.raises(kind, match=reason):
        register(tmp_path / "home", name)
    assert not list((tmp_path / "home").rglob("*.json"))


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Qwen2.5-7B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("model.q8_0.gguf", "Q8_0"),
        ("Model-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("UD-IQ2_XXS/Model-00001-of-00002.gguf", "UD-IQ2_XXS"),
        ("BF16/x-BF16-00001-of-00002.gguf", "BF16"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("model-fp16.gguf", "F16"),
        ("Q8Runner-7B.gguf", None),
        ("ggml-model-f32.gguf", "F32"),
        ("Phi-3.gguf", None),
    ],
)
def test_labels(path: str, label: str | None) -> None:
    assert label_of(path) == label


def test_preference_and_spelling() -> None:
    assert preferred(["F16", "Q8_0", "Q4_K_S", "Q5_K_M"]) == "Q4_K_S"
    assert preferred(["F16", "Q2_K", "Q8_0"]) == "Q8_0"
    assert preferred(["F32", "BF16"]) == "BF16"
    assert normalise(" q4-k-m ") == "Q4_K_M"
    assert normalise("ud-q4_k_xl") == "UD-Q4_K_XL"


def test_numbers_for_people() -> None:
    assert [format_parameters(n) for n in (0, 134_515_008, 22_565_376, 7_615_616_512)] == [
        None,
        "135M",
        "22.6M",
        "7.6B",
    ]
    assert [format_bytes(n) for n in (12, 98_362_432, 4_683_074_240)] == [
        "12 bytes",
        "98.4 MB",
        "4.7 GB",
    ]
