"""A BERT of a few thousand random weights as sentence-transformers stores one, and its arithmetic.

`embed` is an independent forward pass in float64: the oracle of the converter.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WORDS = ["the", "cat", "sat", "on", "mat", "dog", "ran", "un", "##aff", "##able", "##s", ".", ","]
VOCABULARY = [
    "[PAD]",
    *(f"[unused{i}]" for i in range(99)),
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *WORDS,
]
CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": len(VOCABULARY),
}


def random_weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Tensors by their names in a checkpoint."""
    generator = np.random.default_rng(seed)
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]

    def normal(*shape: int) -> NDArray[np.float32]:
        return generator.normal(0, 0.3, shape).astype(np.float32)

    weights = {
        "embeddings.position_ids": np.arange(64, dtype=np.float32)[None],
        "embeddings.word_embeddings.weight": normal(len(VOCABULARY), hidden),
        "embeddings.position_embeddings.weight": normal(64, hidden),
        "embeddings.token_type_embeddings.weight": normal(2, hidden),
        "embeddings.LayerNorm.weight": 1 + normal(hidden),
        "embeddings.LayerNorm.bias": normal(hidden),
        "pooler.dense.weight": normal(hidden, hidden),
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}."
        shapes = {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (inner, hidden),
            "output.dense": (hidden, inner),
        }
        for name, shape in shapes.items():
            weights[f"{prefix}{name}.weight"] = normal(*shape)
            weights[f"{prefix}{name}.bias"] = normal(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights[f"{prefix}{name}.weight"] = 1 + normal(hidden)
            weights[f"{prefix}{name}.bias"] = normal(hidden)
    return weights


def write_safetensors(path: Path, weights: dict[str, NDArray[Any]], types: dict[str, str]) -> None:
    """`types`: the stored type of a tensor where it is not that of the array."""
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, array in weights.items():
        data = array.tobytes()
        header[name] = {
            "dtype": types.get(name, names[str(array.dtype)]),
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def write_model(
    folder: Path,
    *,
    weights: dict[str, NDArray[Any]] | None = None,
    config: dict[str, Any] | None = None,
    pooling: str = "pooling_mode_mean_tokens",
    lower: bool = True,
) -> Path:
    """A model folder."""
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", weights or dict(random_weights()), {})
    (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    tokenizer = {"do_lower_case": lower, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({pooling: True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def embed(
    weights: dict[str, NDArray[np.float32]],
    tokens: list[int],
    *,
    layers: int = 2,
    heads: int = 4,
    pooling: str = "mean",
) -> Array:
    """The normalised embedding of a sequence of token ids."""
    x = encode(weights, tokens, layers=layers, heads=heads)
    pooled: Array = x.mean(0) if pooling == "mean" else x[0]
    return pooled / np.linalg.norm(pooled)


def encode(
    weights: dict[str, NDArray[np.float32]], tokens: list[int], *, layers: int = 2, heads: int = 4
) -> Array:
    """The last layer's rows, (tokens, hidden)."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}

    def norm(x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def gelu(x: Array) -> Array:
        erf = np.vectorize(math.erf)
        result: Array = 0.5 * x * (1 + erf(x / math.sqrt(2)))
        return result

    x = w["embeddings.word_embeddings.weight"][tokens]
    x = x + w["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}."
        q, k, v = (
            linear(x, f"{prefix}attention.self.{part}").reshape(len(tokens), heads, -1)
            for part in ("query", "key", "value")
        )
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", scores, v).reshape(len(tokens), -1)
        attended = linear(mixed, f"{prefix}attention.output.dense")
        x = norm(x + attended, f"{prefix}attention.output.LayerNorm")
        inner = gelu(linear(x, f"{prefix}intermediate.dense"))
        x = norm(x + linear(inner, f"{prefix}output.dense"), f"{prefix}output.LayerNorm")
    return x
