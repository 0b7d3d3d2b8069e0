"""Embedding models whose vectors may be cut: trained so that the first numbers say the most.

No key of a GGUF file tells it (Matryoshka representation learning, https://arxiv.org/abs/2205.13147),
so that the families known to be trained that way are listed, from their model cards. Cutting the
vectors of any other model would be a loss that nobody notices.
"""

from __future__ import annotations

import re

from lmnb.models.entry import ModelEntry

_ARCHITECTURES = frozenset({"gemma-embedding", "nomic-bert-moe"})
_NAMES = re.compile(
    r"nomic-embed-text-v(?:1-5|2)|embeddinggemma|embedding-gemma|qwen3-embedding"
    r"|mxbai-embed-large-v1|modernbert-embed-base|jina-embeddings-v[34]"
    r"|arctic-embed-(?:m-v1-5|[ml]-v2)"
)


def may_be_cut(entry: ModelEntry) -> bool:
    """Whether the model's vectors can be shortened to their first numbers."""
    if entry.architecture in _ARCHITECTURES:
        return True
    names = (entry.key, entry.display_name, entry.path.stem)
    return any(_NAMES.search(re.sub(r"[^a-z0-9]+", "-", name.lower())) for name in names)
