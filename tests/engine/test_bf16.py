"""Weights of F16 that are held as BF16: which models', and what becomes of their vectors."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path

import gguf
import made_models
import numpy as np
import pytest
from numpy.typing import NDArray

from lmnb.engine import bf16, native
from lmnb.engine.config import LoadConfig
from lmnb.engine.embed import Embedder
from lmnb.engine.generator import Generator
from lmnb.engine.gguf import Header, TensorInfo, read_header
from lmnb.engine.model import Model
from lmnb.engine.options import Segment
from lmnb.engine.protocol import Embed, Embedded, Generate, Step
from lmnb.errors import InvalidModel, NotSupported

F32, F16, BF16 = 0, 1, 30
WITH, WITHOUT = "CPU : AVX512 = 1 | AVX512_BF16 = 1 |", "CPU : AVX512 = 1 |"
TEXTS = ("A cat sat.", "A dog lay on the mat.", "Prices rose by two per cent in May. " * 12)


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


def header(
    keys: dict[str, int | str] | None = None, *, kind: int = F16, name: str = "blk.0.ffn_up.weight"
) -> Header:
    metadata = {"general.architecture": "bert", **(keys or {})}
    return Header(3, metadata, (TensorInfo(name, (32, 32), kind, 0),), 0)


def test_numbers_are_rounded_as_ggml_rounds_them() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    expected = gguf.quants.quantize(
        finite.astype(np.float32).reshape(1, -1), gguf.GGMLQuantizationType.BF16
    )
    assert bf16.bits(finite).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("model", "info", "gpu_layers", "expected"),
    [
        (header(), WITH, 0, True),
        (header(), WITHOUT, 0, False),
        (header(), WITH, -1, False),
        (header(kind=F32), WITH, 0, False),
        (header(name="token_embd.weight"), WITH, 0, False),
        (header({"split.count": 2}), WITH, 0, False),
        (header({"bert.pooling_type": 4}), WITH, 0, False),
        (header({"general.architecture": "llama"}), WITH, 0, False),
    ],
)
def test_embedding_models_are_converted_where_it_pays(
    model: Header, info: str, gpu_layers: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "system_info", lambda: info)
    monkeypatch.setattr("sys.platform", "linux")
    assert bool(bf16.wanted(model, LoadConfig(), gpu_layers)) is expected
    assert bf16.wanted(model, LoadConfig(bf16_weights=False), gpu_layers) == []


def test_what_cannot_be_converted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    wanted = LoadConfig(bf16_weights=True)
    with pytest.raises(NotSupported, match="one file"):
        bf16.wanted(header({"split.count": 2}), wanted, 0)
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(NotSupported, match="Linux"):
        bf16.wanted(header(), wanted, 0)
    assert bf16.wanted(header(), LoadConfig(), 0) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the copy lies in a memfd of Linux")
class TestConverted:
    def test_matrices_of_f16_change_and_nothing_else(self, embedding_model_path: Path) -> None:
        before = read_header(embedding_model_path)
        with converted(embedding_model_path) as copy:
            after = read_header(copy)
            old, new = embedding_model_path.read_bytes(), copy.read_bytes()
        assert after.metadata == before.metadata
        changed = 0
        for one, other in zip(before.tensors, after.tensors, strict=True):
            start = end = before.data_offset + one.offset
            end += one.size or 0
            if one.type == other.type:
                assert old[start:end] == new[start:end]
                continue
            changed += 1
            assert (one.type, other.type) == (F16, BF16)
            exact = np.frombuffer(old[start:end], np.float16).astype(np.float32)
            wide = np.frombuffer(new[start:end], np.uint16).astype(np.uint32) << 16
            np.testing.assert_allclose(wide.view(np.float32), exact, rtol=2**-8, atol=0)
        assert changed == 36  # 6 layers of 6 matrices

    def test_vectors_hardly_change(self, embedding_model_path: Path) -> None:
        plain = vectors(embedding_model_path, LoadConfig(bf16_weights=False))
        fast = vectors(embedding_model_path, LoadConfig(bf16_weights=True))
        assert not np.array_equal(plain, fast)
        assert (plain * fast).sum(axis=1).min() > 0.9999

    def test_the_model_outlives_the_copy(self, embedding_model_path: Path) -> None:
        loaded = load(embedding_model_path, LoadConfig(bf16_weights=True))
        assert loaded.bf16_weights
        assert loaded.path == embedding_model_path
        loaded.close()

    def test_a_file_without_weights_of_f16_is_as_it_was(self, tmp_path: Path) -> None:
        path = made_models.bert(tmp_path / "bert.gguf")
        with converted(path) as copy:
            assert copy.read_bytes() == path.read_bytes()

    def test_quantised_matrices_change_when_asked_for(self, chat_model_path: Path) -> None:
        before = read_header(chat_model_path)
        assert bf16.wanted(before, LoadConfig(), 0) == []
        chosen = bf16.wanted(before, LoadConfig(bf16_weights=True), 0)
        with bf16.converted(chat_model_path, chosen) as copy:
            after, size = read_header(copy), copy.stat().st_size
            old = {tensor.name: tensor for tensor in gguf.GGUFReader(chat_model_path).tensors}
            new = {tensor.name: tensor for tensor in gguf.GGUFReader(copy).tensors}
            for name, tensor in new.items():
                exact = gguf.dequantize(old[name].data, old[name].tensor_type)
                found = gguf.dequantize(tensor.data, tensor.tensor_type)
                np.testing.assert_allclose(found, exact, rtol=2**-8, atol=0)
        assert after.metadata == before.metadata
        assert [tensor.name for tensor in after.tensors] == [t.name for t in before.tensors]
        assert {new[tensor.name].tensor_type for tensor in chosen} == {BF16}
        assert len(chosen) == 210  # 30 layers of 7 matrices
        grown = size - chat_model_path.stat().st_size
        assert grown == bf16.growth(chosen) > 100_000_000

    def test_answers_hardly_change(self, chat_model_path: Path) -> None:
        plain, fast = (
            scores(chat_model_path, LoadConfig(bf16_weights=chosen, context_length=256, parallel=1))
            for chosen in (False, True)
        )
        assert not np.array_equal(plain, fast)
        assert np.abs(plain - fast).mean() < 0.1

    def test_a_file_that_has_gone(self, tmp_path: Path) -> None:
        with (
            pytest.raises(InvalidModel, match="cannot be read"),
            bf16.converted(tmp_path / "no", []),
        ):
            pass


def converted(path: Path) -> AbstractContextManager[Path]:
    return bf16.converted(path, bf16.wanted(read_header(path), LoadConfig(bf16_weights=True), 0))


def load(path: Path, config: LoadConfig) -> Model:
    return Model.load(str(path), read_header(path), config, on_progress=lambda _: None)


def vectors(path: Path, config: LoadConfig) -> NDArray[np.float32]:
    embedder = Embedder(load(path, config), config)
    try:
        command = Embed(id=1, inputs=TEXTS)
        embedder.submit(command, embedder.prompt(command))
        replies = [reply for _ in range(20) if embedder.busy for reply in embedder.step()]
    finally:
        embedder.close()
    (found,) = (reply for reply in replies if isinstance(reply, Embedded))
    return np.frombuffer(found.vectors, "<f4").reshape(len(TEXTS), -1)


def scores(path: Path, config: LoadConfig) -> NDArray[np.float32]:
    """The log probabilities of a text's tokens."""
    generator = Generator(load(path, config), config)
    try:
        command = Generate(
            id=1, segments=(Segment(TEXTS[2]),), max_tokens=0, logprobs=0, score_prompt=True
        )
        generator.submit(command, generator.prompt(command))
        replies = [reply for _ in range(20) if generator.busy for reply in generator.step()]
    finally:
        generator.close()
    steps = [reply for reply in replies if isinstance(reply, Step)]
    found = [one.logprob for step in steps for delta in step.deltas for one in delta.prompt]
    return np.array(found[1:], np.float32)
