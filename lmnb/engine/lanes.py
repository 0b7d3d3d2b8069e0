"""Contexts that compute packs of texts: how one pass of an embedding model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmnb.engine import native
from lmnb.engine.batch import Batch
from lmnb.engine.config import LoadConfig
from lmnb.engine.context import create, set_common
from lmnb.engine.model import Loaded, Model
from lmnb.engine.native import L
from lmnb.engine.prefixes import Tokens

PACK_TEXTS = 64
"""Most texts of one pack; sequence ids are that many."""
LANE_TOKENS = 512
"""Room of every lane but the first, which takes the longest text there may be."""

_MOST_LANES = 8
_LANE_WEIGHTS = 1 << 29
"""Bytes of weights up to which a pass on a single thread is quick enough to be waited for."""
MEAN = 1
"""llama.h, enum llama_pooling_type."""


class Lane:
    """One context, for packs of up to `capacity` tokens."""

    def __init__(self, model: Model, config: LoadConfig, capacity: int) -> None:
        params = parameters(model, config, capacity)
        self.capacity: int = params.n_ctx
        self.threads: int = params.n_threads
        self.abort_flag = native.AbortFlag()
        params.abort_callback = self.abort_flag.callback
        params.abort_callback_data = self.abort_flag.data
        self.handle = create(model, params)
        self.memory = L.llama_get_memory(self.handle)
        self._batch = Batch(self.capacity)

    def close(self) -> None:
        """Give the memory back."""
        L.llama_free(self.handle)

    def compute(
        self, texts: list[Tokens], width: int, threads: int
    ) -> tuple[int, NDArray[np.float32]]:
        """The pooled rows (texts, width), and what llama.cpp returned: 0 done, 2 aborted."""
        batch = self._batch
        batch.clear()
        for sequence, tokens in enumerate(texts):
            batch.add(tokens, 0, sequence, len(tokens))
        batch.raw.n_tokens = batch.size
        L.llama_set_n_threads(self.handle, threads, threads)
        if self.memory:
            L.llama_memory_clear(self.memory, False)
            result = L.llama_decode(self.handle, batch.raw)
        else:
            result = L.llama_encode(self.handle, batch.raw)
        rows = np.empty((len(texts), width), np.float32)
        if result == 0:
            for sequence in range(len(texts)):
                pointer = L.llama_get_embeddings_seq(self.handle, sequence)
                rows[sequence] = native.floats(pointer, width)
        return result, rows


def make_lanes(model: Model, config: LoadConfig, capacity: int) -> list[Lane]:
    """As many contexts as compute best side by side.

    The threads of one pass wait for each other after every operation. Where packs are plenty, a
    pass per core has nobody to wait for, which is worth a tenth of the time on an idle machine
    and far more beside a busy neighbour. A context with a KV cache, a large model or a GPU does
    not come twice.
    """
    first = Lane(model, config, capacity)
    room = min(capacity, LANE_TOKENS)
    count = lane_count(model, config, first.threads, has_memory=bool(first.memory))
    return [first, *(Lane(model, config, room) for _ in range(count - 1))]


def lane_count(model: Loaded, config: LoadConfig, threads: int, *, has_memory: bool) -> int:
    """How many lanes a model gets. A LoRA adapter belongs to one context."""
    large = model.header.tensor_bytes > _LANE_WEIGHTS
    if has_memory or model.gpu_layers or large or config.adapters:
        return 1
    return min(threads, _MOST_LANES)


def parameters(model: Loaded, config: LoadConfig, capacity: int) -> Any:
    """The parameters of a context for packs of up to `capacity` tokens."""
    params = L.llama_context_default_params()
    set_common(params, config)
    # llama.cpp tries its graphs with as many tokens for each sequence as for any other. Mean
    # pooling of a number that has to be rounded up for that is a failed assertion.
    capacity = -(-capacity // PACK_TEXTS) * PACK_TEXTS
    # Attention without a cache sees one batch only, so a text must fit a batch whole.
    params.n_ctx = params.n_batch = params.n_ubatch = capacity
    params.n_seq_max = PACK_TEXTS
    params.embeddings = True
    if not model.header.pooling_type:
        params.pooling_type = MEAN
    params.kv_unified = True
    params.no_perf = True
    return params
