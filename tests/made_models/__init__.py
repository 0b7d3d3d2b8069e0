"""Models of a few thousand random weights, one per kind of memory, that run through the real engine.

Each function writes a GGUF file of some 300 KB to `path` and returns it. Equal arguments give equal
files. What such a model says means nothing, but it depends on every token of its context, so that
a cell that is missing, doubled or another's changes it.
"""

from __future__ import annotations

from made_models.attention import experts, gemma3, llama, mla, next_tokens, qwen2vl, qwen3vl
from made_models.encoders import bert, reranker
from made_models.recurrent import jamba, lfm2, mamba, qwen35

__all__ = [
    "bert",
    "experts",
    "gemma3",
    "jamba",
    "lfm2",
    "llama",
    "mamba",
    "mla",
    "next_tokens",
    "qwen2vl",
    "qwen3vl",
    "qwen35",
    "reranker",
]
