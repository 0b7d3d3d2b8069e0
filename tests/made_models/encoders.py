"""Models that read a text at once and give one vector or one score."""

from __future__ import annotations

from pathlib import Path

from made_models.writer import EMBEDDING, FEED_FORWARD, HEADS, Writer

MEAN, CLS, LAST, RANK = 1, 2, 3, 4
"""llama.cpp's pooling types."""


def bert(path: Path, *, pooling: int = CLS, seed: int = 0, context: int = 512) -> Path:
    """An encoder that embeds: mean, cls or last pooling."""
    with Writer(path, "bert", layers=2, seed=seed, context=context) as writer:
        _encoder(writer, pooling, context)
    return path


def reranker(path: Path, *, seed: int = 0, labels: int = 1, context: int = 512) -> Path:
    """An encoder that scores a pair: a classification head over [CLS] (BERT's, as in bge-reranker)."""
    with Writer(path, "bert", layers=2, seed=seed, context=context) as writer:
        _encoder(writer, RANK, context)
        if labels > 1:
            writer.labels([f"label {number}" for number in range(labels)])
        writer.matrix("cls", EMBEDDING, EMBEDDING)
        writer.bias("cls", EMBEDDING)
        writer.matrix("cls.output", labels, EMBEDDING)
        writer.bias("cls.output", labels)
    return path


def _encoder(writer: Writer, pooling: int, context: int) -> None:
    vocabulary = writer.word_piece_vocabulary()
    writer.integers(attention__head_count=HEADS, pooling_type=pooling)
    writer.floats(attention__layer_norm_epsilon=1e-12)
    writer.flags(attention__causal=False)
    writer.token_embedding(vocabulary)
    writer.matrix("token_types", 2, EMBEDDING)
    writer.matrix("position_embd", context, EMBEDDING)
    writer.norm("token_embd_norm", bias=True)
    for layer in range(writer.layers):
        block = f"blk.{layer}"
        shapes = {
            "attn_q": (EMBEDDING, EMBEDDING),
            "attn_k": (EMBEDDING, EMBEDDING),
            "attn_v": (EMBEDDING, EMBEDDING),
            "attn_output": (EMBEDDING, EMBEDDING),
            "ffn_up": (FEED_FORWARD, EMBEDDING),
            "ffn_down": (EMBEDDING, FEED_FORWARD),
        }
        for name, shape in shapes.items():
            writer.matrix(f"{block}.{name}", *shape)
            writer.bias(f"{block}.{name}", shape[0])
        writer.norm(f"{block}.attn_output_norm", bias=True)
        writer.norm(f"{block}.layer_output_norm", bias=True)
