"""The arithmetic of BERT with a classification head, in float64, from the tensors of a GGUF file.

Head: `tanh` of a dense layer over [CLS], then a projection to the labels (transformers,
RobertaClassificationHead).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tiny_bert import encode

Array = NDArray[np.float64]

_NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


@lru_cache
def _weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors by the names they have in a checkpoint."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        *block, name, kind = tensor.name.split(".")
        prefix = f"encoder.layer.{block[1]}." if block[:1] == ["blk"] else ""
        if block == ["cls"]:
            name = "cls.output"
        found[f"{prefix}{_NAMES.get(name, name)}.{kind}"] = np.array(tensor.data, np.float32)
    return found


def classify(path: Path, tokens: list[int]) -> Array:
    """The logits of the labels."""
    w = _weights(path)
    first = encode(w, tokens, heads=2)[0]
    dense = np.tanh(first @ w["cls.weight"].T.astype(np.float64) + w["cls.bias"])
    logits: Array = dense @ w["cls.output.weight"].T.astype(np.float64) + w["cls.output.bias"]
    return logits
