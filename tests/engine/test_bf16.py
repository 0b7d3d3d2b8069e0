"""Weights of F16 that are held as BF16: which models', and what becomes of their vectors."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import made_models
import numpy as np
import pytest
from numpy.typing import NDArray

from lmnb.engine import bf16, native
from lmnb.engine.config import LoadConfig
from lmnb.engine.embed import Embedder
from lmnb.engine.gguf import Header, TensorInfo, read_header
from lmnb.engine.model import Model
from lmnb.engine.protocol import Embed, Embedded
from lmnb.errors import InvalidModel, InvalidRequest, NotSupported

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
    assert bf16.is_wanted(model, LoadConfig(), gpu_layers) is expected
    assert bf16.is_wanted(model, LoadConfig(bf16_weights=False), gpu_layers) is False


def test_what_cannot_be_converted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    wanted = LoadConfig(bf16_weights=True)
    with pytest.raises(InvalidRequest, match="embedding models only"):
        bf16.is_wanted(header({"general.architecture": "llama"}), wanted, 0)
    with pytest.raises(NotSupported, match="one file"):
        bf16.is_wanted(header({"split.count": 2}), wanted, 0)
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(NotSupported, match="Linux"):
        bf16.is_wanted(header(), wanted, 0)
    assert bf16.is_wanted(header(), LoadConfig(), 0) is False


@pytest.mark.skipif(sys.platform != "linux", reason="the copy lies in a memfd of Linux")
class TestConverted:
    def test_matrices_of_f16_change_and_nothing_else(self, embedding_model_path: Path) -> None:
        before = read_header(embedding_model_path)
        with bf16.converted(embedding_model_path) as copy:
            after = read_header(copy)
            old, new = embedding_model_path.read_bytes(), copy.read_bytes()
        assert after.metadata == before.metadata
        changed = 0
        for one, other in zip(before.tensors, after.tensors, strict=True):
            start, end = before.data_offset + one.offset, before.data_offset + one.offset
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
        with bf16.converted(path) as copy:
            assert copy.read_bytes() == path.read_bytes()

    def test_a_file_that_has_gone(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidModel, match="cannot be read"), bf16.converted(tmp_path / "no"):
            pass


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
