"""The made models are what they are for: equal by seed, small, and sensitive to all they have read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import made_models
import numpy as np
import pytest
from numpy.typing import NDArray

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.context import Context
from lmnb.engine.embed import Embedder
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.options import Segment
from lmnb.engine.protocol import Embed, Embedded

GENERATORS = [
    made_models.llama,
    made_models.experts,
    made_models.gemma3,
    made_models.mla,
    made_models.qwen2vl,
    made_models.qwen3vl,
    made_models.mamba,
    made_models.jamba,
    made_models.lfm2,
    made_models.qwen35,
]
ALL = [*GENERATORS, made_models.bert, made_models.reranker]


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


def load(path: Path) -> Model:
    return Model.load(str(path), read_header(path), LoadConfig(), on_progress=lambda _: None)


@pytest.mark.parametrize("make", ALL)
def test_equal_seeds_make_equal_files(make: Callable[..., Path], tmp_path: Path) -> None:
    first, second, other = (
        make(tmp_path / f"{n}.gguf", seed=seed).read_bytes() for n, seed in enumerate((1, 1, 2))
    )
    assert first == second
    assert first != other
    assert len(first) < 1_000_000


@pytest.mark.parametrize("make", GENERATORS)
def test_every_token_of_the_context_matters(make: Callable[..., Path], tmp_path: Path) -> None:
    model = load(make(tmp_path / "made.gguf"))
    context = Context(model, LoadConfig(context_length=256, parallel=1))

    def logits(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        context.trim(0, 0)
        context.batch.clear()
        context.batch.add(tokens, 0, 0, 1)
        assert context.decode() == 0
        row: NDArray[np.float32] = context.logits(1)[0].copy()
        return row

    tokens = np.random.default_rng(0).integers(32, 127, 100).astype(np.int32)
    plain = logits(tokens)
    assert (logits(tokens) == plain).all()
    for position in (0, 50, 98):
        changed = tokens.copy()
        changed[position] = 7
        assert abs(logits(changed) - plain).max() > 1e-3
    context.close()
    model.close()


def test_a_text_has_as_many_tokens_as_bytes(tmp_path: Path) -> None:
    model = load(made_models.llama(tmp_path / "made.gguf"))
    text = "a ÄÖ\n😀\x00"
    tokens = model.tokenize([Segment(text)], add_bos=False)
    assert bytes(tokens.tolist()) == text.encode()
    assert b"".join(model.pieces[token] for token in tokens) == text.encode()
    (end,) = model.tokenize([Segment("<|im_end|>", special=True)], add_bos=False).tolist()
    assert end in model.end_tokens
    model.close()


@pytest.mark.parametrize(
    ("make", "pooling"),
    [
        (made_models.bert, 1),
        (made_models.bert, 2),
        (made_models.llama, 1),
        (made_models.llama, 3),
    ],
)
def test_embedding_models_embed(make: Callable[..., Path], pooling: int, tmp_path: Path) -> None:
    model = load(make(tmp_path / "made.gguf", pooling=pooling))
    embedder = Embedder(model, LoadConfig())
    command = Embed(id=1, inputs=("one text", "another"))
    embedder.submit(command, embedder.prompt(command))
    replies = []
    while embedder.busy:
        replies += embedder.step()
    (reply,) = (reply for reply in replies if isinstance(reply, Embedded))
    vectors = np.frombuffer(reply.vectors, np.float32).reshape(2, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert abs(vectors[0] - vectors[1]).max() > 0.01
    model.close()
