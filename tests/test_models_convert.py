"""The converter against independent arithmetic, through the real engine."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bert
from numpy.typing import NDArray
from server_home import ServerHome, wait_for
from tiny_bert import VOCABULARY, random_weights, write_model, write_safetensors

from lmnb.engine.client import Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import read_header
from lmnb.engine.options import Segment
from lmnb.errors import InvalidModel, LmnbError
from lmnb.models.convert import convert_bert, parse_file_type
from lmnb.models.converting import target_of
from lmnb.models.safetensors import SafetensorsFile
from lmnb.notebook.lm import lm


async def _run(path: Path, texts: list[str]) -> tuple[list[tuple[int, ...]], NDArray[np.float32]]:
    worker = await Worker.start(path, LoadConfig(threads=1))
    try:
        # An embedding ends with [SEP]; the beginning of a prompt, which `tokenize` is for, does not.
        end = VOCABULARY.index("[SEP]")
        tokens = [(*await worker.tokenize([Segment(text)]), end) for text in texts]
        embedded = await worker.embed(texts)
        assert embedded.tokens == tuple(map(len, tokens))
    finally:
        await worker.stop()
    vectors = np.frombuffer(embedded.vectors, dtype="<f4").reshape(len(texts), -1)
    return tokens, vectors


def in_engine(path: Path, texts: list[str]) -> tuple[list[tuple[int, ...]], NDArray[np.float32]]:
    """Token ids and embeddings as the engine sees them."""
    return asyncio.run(_run(path, texts))


def ids(*words: str) -> tuple[int, ...]:
    return tuple(VOCABULARY.index(word) for word in ("[CLS]", *words, "[SEP]"))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_engine_computes_what_the_checkpoint_says(tmp_path: Path, pooling: str) -> None:
    weights = random_weights()
    folder = write_model(
        tmp_path / "model",
        pooling=f"pooling_mode_{pooling}_tokens".replace("cls_tokens", "cls_token"),
    )
    convert_bert(folder, tmp_path / "m.gguf", name="Tiny", file_type="F32")

    texts = ["The cat sat on the mat.", "unaffable dogs, ran", "cat", "Café dog"]
    tokens, vectors = in_engine(tmp_path / "m.gguf", texts)

    assert tokens == [
        ids("the", "cat", "sat", "on", "the", "mat", "."),
        ids("un", "##aff", "##able", "dog", "##s", ",", "ran"),
        ids("cat"),
        ids("[UNK]", "dog"),
    ]
    for sequence, vector in zip(tokens, vectors, strict=True):
        expected = tiny_bert.embed(weights, list(sequence), pooling=pooling)
        assert expected @ vector > 0.99999


@pytest.mark.parametrize(("file_type", "least"), [("F16", 0.9999), ("Q8_0", 0.998)])
def test_smaller_types_stay_close(tmp_path: Path, file_type: str, least: float) -> None:
    folder = write_model(tmp_path / "model")
    path = tmp_path / "m.gguf"
    convert_bert(folder, path, name="Tiny", file_type=parse_file_type(file_type))
    header = read_header(path)
    assert header.quantization == file_type
    kinds = {tensor.name: tensor.type for tensor in header.tensors}
    assert kinds["position_embd.weight"] == kinds["token_types.weight"] == 0
    assert kinds["blk.0.attn_q.bias"] == kinds["token_embd_norm.weight"] == 0
    assert kinds["token_embd.weight"] == {"F16": 1, "Q8_0": 8}[file_type]
    [tokens], [vector] = in_engine(path, ["the cat sat"])
    assert tiny_bert.embed(random_weights(), list(tokens)) @ vector > least


def test_the_header(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    convert_bert(
        write_model(tmp_path / "model", lower=False),
        path,
        name="Tiny",
        license_id="apache-2.0",
        source_url="https://example.com",
    )
    header = read_header(path)
    wanted = {
        "general.architecture": "bert",
        "general.type": "model",
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        "general.source.url": "https://example.com",
        "bert.context_length": 64,
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
        "lmnb.max_seq_length": 32,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.bos_token_id": 101,
        "tokenizer.ggml.eos_token_id": 102,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.normalizer.lowercase": False,
        "tokenizer.ggml.normalizer.strip_accents": False,
    }
    assert wanted.items() <= dict(header.metadata).items()
    assert len(header.tensors) == 5 + 2 * 16
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    assert tokens[-6:] == ("\u2581un", "aff", "able", "s", "\u2581.", "\u2581,")
    kinds = header.metadata["tokenizer.ggml.token_type"]
    assert isinstance(kinds, tuple)
    assert [VOCABULARY[i] for i, kind in enumerate(kinds) if kind == 3] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]


def test_the_output_is_the_same_every_time(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    for name in ("a.gguf", "b.gguf"):
        convert_bert(folder, tmp_path / name, name="Tiny")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_old_and_other_spellings_of_a_checkpoint(tmp_path: Path) -> None:
    """`bert.` before every name, gamma and beta, bfloat16 and half precision, unused heads."""
    weights: dict[str, NDArray[Any]] = {}
    for index, (name, array) in enumerate(random_weights().items()):
        old = "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
        kinds: list[NDArray[Any]] = [
            array,
            array.astype(np.float16),
            (array.view(np.uint32) >> 16).astype(np.uint16),
        ]
        weights[old] = kinds[index % 3]
    weights["cls.predictions.bias"] = np.zeros(4, np.float32)
    convert_bert(write_model(tmp_path / "old", weights=weights), tmp_path / "old.gguf", name="Old")
    convert_bert(write_model(tmp_path / "new"), tmp_path / "new.gguf", name="New")
    _, [old_vector] = in_engine(tmp_path / "old.gguf", ["the cat sat on the mat"])
    _, [new_vector] = in_engine(tmp_path / "new.gguf", ["the cat sat on the mat"])
    assert old_vector @ new_vector > 0.999


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"model_type": "roberta", "architectures": ["RobertaModel"]},
            r"this one is RobertaModel \(model_type 'roberta'\)\. Look for a GGUF",
        ),
        ({"model_type": "modernbert"}, "Only BERT models can be converted"),
        ({"model_type": "nomic_bert"}, "Only BERT models can be converted"),
        ({"model_type": "mpnet"}, "Only BERT models can be converted"),
        ({"model_type": "xlm-roberta"}, "Only BERT models can be converted"),
        ({"num_hidden_layers": 3}, r"lacks the tensor blk\.2\."),
        ({"position_embedding_type": "relative_key"}, "relative positions"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"vocab_size": 5}, "117 tokens where config.json says 5"),
        ({"num_hidden_layers": 1}, "no place for the tensor encoder.layer.1"),
    ],
)
def test_what_is_refused(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    folder = write_model(tmp_path / "model", config=config)
    with pytest.raises(InvalidModel, match=reason):
        convert_bert(folder, tmp_path / "m.gguf", name="Tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"}, "Only WordPiece"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "stage Dense"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools in a way"),
        ("config.json", None, "no config.json"),
        ("config.json", [], "no config.json"),
        ("vocab.txt", None, "no vocab.txt"),
        ("model.safetensors", None, "no model.safetensors"),
    ],
)
def test_other_files_that_tell_against_it(
    tmp_path: Path, name: str, content: object, reason: str
) -> None:
    folder = write_model(tmp_path / "model")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(json.dumps(content))
    with pytest.raises(InvalidModel, match=reason):
        convert_bert(folder, tmp_path / "m.gguf", name="Tiny")


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    weights: dict[str, NDArray[Any]] = dict(random_weights())
    weights["encoder.layer.0.output.dense.bias"][3] = np.nan
    folder = write_model(tmp_path / "model", weights=weights)
    with pytest.raises(InvalidModel, match="not numbers"):
        convert_bert(folder, tmp_path / "m.gguf", name="Tiny")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        (1 << 60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{]",
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_damaged_safetensors(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidModel, match="not a usable safetensors"):
        SafetensorsFile(path)


def test_safetensors_slices_outside_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.zeros(4, np.float32)}, {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidModel, match="a lies outside"):
        SafetensorsFile(path).float32("a")
    write_safetensors(path, {"a": np.zeros(4, np.float32)}, {"a": "I64"})
    with pytest.raises(InvalidModel, match="type I64"):
        SafetensorsFile(path).float32("a")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "Tiny BERT")


@pytest.fixture
def made(server: ServerHome) -> Iterator[Path]:
    """Where a conversion that names no publisher goes, empty before and after."""
    path = server.path / "models" / "local"
    yield path
    server.attach().unload(all=True)
    shutil.rmtree(path, ignore_errors=True)


def test_the_command_line_converts(server: ServerHome, folder: Path, made: Path) -> None:
    said = server.lmnb("convert", str(folder), "--type", "f32").stdout
    path = made / "Tiny-BERT" / "Tiny-BERT.F32.gguf"
    assert said.startswith("local/tiny-bert is here: ")
    assert str(path) in said
    [row] = [row for row in server.attach().ls() if row["path"] == str(path)]
    assert (row["kind"], row["architecture"], row["quantization"]) == ("embedding", "bert", "F32")
    answer = server.attach().openai().embeddings.create(model=row["key"], input="the cat sat")
    expected = tiny_bert.embed(random_weights(), list(ids("the", "cat", "sat")))
    assert expected @ np.array(answer.data[0].embedding) > 0.9999
    again = server.lmnb("convert", str(folder), "--type", "F32", check=False)
    assert again.returncode == 1
    assert "There is " in again.stderr
    assert "choose another name" in again.stderr


def test_a_conversion_tells_how_far_it_is(server: ServerHome, folder: Path, made: Path) -> None:
    *progress, done = server.attach().convert(str(folder), name="tiny", file_type="Q8_0")
    fractions = [event["progress"] for event in progress]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.1
    assert fractions[-1] > 0.9
    assert done["key"] == "local/tiny"
    assert [path.name for path in (made / "tiny").iterdir()] == ["tiny.Q8_0.gguf"]


def test_the_magic_converts(
    server: ServerHome, folder: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm(f"convert '{folder}' --type q8_0")
    assert "local/tiny-bert is here" in capsys.readouterr().out
    assert (made / "Tiny-BERT" / "Tiny-BERT.Q8_0.gguf").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"folder": "/no/such/folder"}, "no folder"),
        ({"name": "../x"}, "cannot be the name"),
        ({"name": "a/b/c"}, "cannot be the name"),
        ({"file_type": "Q4_K_M"}, "is not one of F32, F16, Q8_0"),
    ],
)
def test_a_conversion_that_makes_no_sense(
    server: ServerHome, folder: Path, made: Path, options: dict[str, str], reason: str
) -> None:
    with pytest.raises(LmnbError, match=reason):
        list(server.attach().convert(**{"folder": str(folder), **options}))
    assert not made.exists()


def test_a_conversion_that_fails_leaves_nothing(
    server: ServerHome, folder: Path, made: Path
) -> None:
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(InvalidModel, match="Look for a GGUF"):
        list(server.attach().convert(str(folder)))
    (folder / "config.json").write_text(json.dumps(tiny_bert.CONFIG | {"hidden_size": "many"}))
    with pytest.raises(InvalidModel, match="cannot be converted"):
        list(server.attach().convert(str(folder)))
    assert not made.exists()


def test_a_conversion_that_is_left_leaves_nothing(
    server: ServerHome, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that takes long enough to be left.
    monkeypatch.setitem(tiny_bert.CONFIG, "num_hidden_layers", 300)
    events = server.attach().convert(str(write_model(tmp_path / "Tiny BERT")))
    assert next(iter(events))["type"] == "progress"
    events.close()  # type: ignore[attr-defined]
    wait_for(lambda: not made.exists(), "the traces to go")


def test_names_come_from_the_folder(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--a-model" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    target = target_of(tmp_path, snapshot, None, "F16")
    assert target == tmp_path / "models" / "owner" / "a-model" / "a-model.F16.gguf"
    assert target_of(tmp_path, snapshot, "b/c", "F16").parts[-3:] == ("b", "c", "c.F16.gguf")
