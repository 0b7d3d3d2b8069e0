"""Whether llama.cpp's flash attention answers slowly on this CPU: measured, since no flag tells.

For one token its kernel adds up the values cell by cell in F16, in steps of as many numbers as the
build's vector instructions take at once, and what is left of a head one number at a time
(`ggml_vec_mad_f16`, `GGML_F16_STEP` in ggml-cpu/simd-mappings.h: 32 with AVX2, 64 with AVX-512, 128 with
AVX512-FP16). Heads of 64 fill whole steps on most CPUs; with AVX512-FP16 none of their numbers is in one,
which makes their answers slow.

So both kinds of attention are timed on one key head with the model's own proportions, by one thread,
in a few milliseconds. Flash attention's time in relation to that of plain attention, and what that
meant for whole passes of SmolLM2:

- 0.9 to 1.8: all numbers in steps. Flash attention took 0.9 of the time after 150 tokens, and as long
  after 1,000 and 4,000: plain attention's other steps, which are not timed here, make up for its faster
  kernel. (An EPYC. With a build for AVX2 0.95 and 1.03, for four answers 1.2.) Prompts took 0.75 to
  1.0 in slices from 64 tokens on, 1.3 in smaller ones.
- 1.6 to 2.4: heads of 72, 80, 96 or 112 with a rest. Not measured in whole passes.
- 3 to 6: no steps. Flash attention took 1.1 of the time after 150 tokens, 2.2 after 3,000 (a Xeon; the
  numbers on the left are from the EPYC, with a build that steps like the Xeon's).
"""

from __future__ import annotations

import ctypes
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple, Self

from lmnb.engine import native
from lmnb.engine.gguf import Header

_SLOW = 2.0
"""Times plain attention's time from which on flash attention is slow."""
_CELLS = 256
"""Tokens of context; few, so that they stay in the processor's cache."""
_REPEATS = 10
"""Of both, by turns. The fastest of each counts, which is hardly ever one with a busy neighbour."""
_MOST_QUERIES, _LONGEST_HEAD = 16, 1024
"""More queries change nothing in the relation; longer heads there are not."""
_MEMORY = 1 << 26
"""Bytes of a ggml context for that much; ggml ends the process where it does not suffice."""

_F32, _F16 = 0, 1
"""ggml's numbers of the types."""
_pointer, _number = ctypes.c_void_p, ctypes.c_float


class Heads(NamedTuple):
    """A key head and the query heads that use it: how many, and the numbers in a key and in a value."""

    queries: int
    key: int
    value: int


def heads(header: Header) -> Heads | None:
    """The heads of a model's layers with attention; None if there are none, or too long ones."""
    queries = _most(header, "head_count")
    keys = _most(header, "head_count_kv") or queries
    if queries < 1 or keys < 1:
        return None
    usual = (header.integer(f"{header.architecture}.embedding_length") or 0) // queries
    key, value = (_most(header, f"{name}_length") or usual for name in ("key", "value"))
    if not (0 < key <= _LONGEST_HEAD and 0 < value <= _LONGEST_HEAD):
        return None
    return Heads(min(max(1, queries // keys), _MOST_QUERIES), key, value)


def _most(header: Header, name: str) -> int:
    """A hyperparameter of attention; the highest if each layer has its own (0: it has none)."""
    found = header.metadata.get(f"{header.architecture}.attention.{name}")
    values = found if isinstance(found, tuple) else (found,)
    return max((value for value in values if isinstance(value, int)), default=0)


@cache
def is_flash_slow(heads: Heads) -> bool | None:
    """Whether flash attention over a cache of F16 is the wrong choice for answers on this CPU.

    None if it could not be measured.
    """
    try:
        with _Graphs() as graphs:
            both = graphs.flash(heads), graphs.plain(heads)
            times = [[graphs.seconds(graph) for graph in both] for _ in range(_REPEATS)]
    except (AttributeError, MemoryError):  # a ggml without one of the functions; no memory
        return None
    flash, plain = map(min, zip(*times, strict=True))
    return bool(flash > _SLOW * plain)


class _Graphs:
    """Operations of ggml on the CPU, without a model. All numbers are zeros."""

    def __init__(self) -> None:
        tensors = [_pointer] * 2
        self._tensor = native.ggml(
            "ggml_new_tensor_3d", _pointer, _pointer, ctypes.c_int, *[ctypes.c_int64] * 3
        )
        self._multiply = native.ggml("ggml_mul_mat", _pointer, _pointer, *tensors)
        self._softmax = native.ggml(
            "ggml_soft_max_ext", _pointer, _pointer, *tensors, *[_number] * 2
        )
        self._flash = native.ggml(
            "ggml_flash_attn_ext", _pointer, _pointer, *tensors, *tensors, *[_number] * 3
        )
        self._graph = native.ggml("ggml_new_graph", _pointer, _pointer)
        self._expand = native.ggml("ggml_build_forward_expand", None, _pointer, _pointer)
        self._compute = native.ggml(
            "ggml_graph_compute_with_ctx", ctypes.c_int, _pointer, _pointer, ctypes.c_int
        )
        self._data = native.ggml("ggml_get_data", _pointer, _pointer)
        self._size = native.ggml("ggml_nbytes", ctypes.c_size_t, _pointer)
        self._free = native.ggml("ggml_free", None, _pointer)
        self._context = native.ggml("ggml_init", _pointer, _Memory)(_Memory(_MEMORY, None, False))
        if not self._context:
            raise MemoryError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._free(self._context)

    def flash(self, heads: Heads) -> Any:
        """Flash attention of one token."""
        query, key = self._query(heads), self._zeros(_F16, heads.key, _CELLS)
        value, mask = self._zeros(_F16, heads.value, _CELLS), self._zeros(_F16, _CELLS)
        return self._of(self._flash(self._context, query, key, value, mask, 1.0, 0.0, 0.0))

    def plain(self, heads: Heads) -> Any:
        """Its scores, their softmax, and the sum of the values, which lie transposed."""
        query, key = self._query(heads), self._zeros(_F16, heads.key, _CELLS)
        value, mask = self._zeros(_F16, _CELLS, heads.value), self._zeros(_F16, _CELLS)
        scores = self._multiply(self._context, key, query)
        weights = self._softmax(self._context, scores, mask, 1.0, 0.0)
        return self._of(self._multiply(self._context, value, weights))

    def seconds(self, graph: Any) -> float:
        """Compute it with one thread."""
        began = perf_counter()
        self._compute(self._context, graph, 1)
        return perf_counter() - began

    def _query(self, heads: Heads) -> Any:
        return self._zeros(_F32, heads.key, 1, heads.queries)

    def _zeros(self, kind: int, *shape: int) -> Any:
        """A tensor of up to three dimensions, the innermost first."""
        tensor = self._tensor(self._context, kind, *shape, *[1] * (3 - len(shape)))
        ctypes.memset(self._data(tensor), 0, self._size(tensor))
        return tensor

    def _of(self, result: Any) -> Any:
        graph = self._graph(self._context)
        self._expand(graph, result)
        return graph


class _Memory(ctypes.Structure):
    """`struct ggml_init_params`: bytes, where (None: ggml's own), and not to allocate tensors."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", _pointer), ("no_alloc", ctypes.c_bool))
