"""An index in memory: one contiguous matrix, and BM25."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmnb.frame.embedding import Vector, cosine
from lmnb.frame.index.ranking import NOTHING, Hits, Mask, best, near_best
from lmnb.frame.index.text import TextIndex, Texts, Words
from lmnb.frame.index.vectors import unit

_VECTORS = "vectors.npy"
TEXT = "bm25"
_SCORES = 16_000_000
"""Scores that are computed at once: 64 MB."""


class MemoryStore:
    """See `Store`."""

    def __init__(self, vectors: Vector | None, texts: Texts | None) -> None:
        self._vectors: Vector | None = None
        self._there: Mask = np.empty(0, np.bool_)
        if vectors is not None:
            self._put(unit(vectors))
        self._words = None if texts is None else Words(texts)
        if self._words is not None:
            self._words.index()

    @classmethod
    def open(cls, folder: Path, texts: Texts | None) -> MemoryStore:
        """What `save` wrote. The texts are those that it was made of."""
        found = cls(None, None)
        if (folder / _VECTORS).exists():
            found._put(np.load(folder / _VECTORS, allow_pickle=False))
        if texts is not None:
            found._words = Words(texts, TextIndex.open(folder / TEXT, len(texts)))
        return found

    @property
    def dimensions(self) -> int:
        return 0 if self._vectors is None else self._vectors.shape[1]

    @property
    def has_text(self) -> bool:
        return self._words is not None

    def add(self, vectors: Vector | None, texts: Texts | None) -> None:
        if self._vectors is not None and vectors is not None:
            some = unit(vectors)
            old = self._vectors
            if not old.shape[1]:  # no row has had a vector so far
                old = np.zeros((len(old), some.shape[1]), np.float32)
            if not some.shape[1]:
                some = np.zeros((len(some), old.shape[1]), np.float32)
            self._put(np.concatenate([old, some]))
        if self._words is not None and texts is not None:
            self._words.add(texts)

    def delete(self, keep: Mask) -> None:
        if self._vectors is not None:
            self._put(np.ascontiguousarray(self._vectors[keep]))
        if self._words is not None:
            self._words.delete(keep)

    def search_dense(self, queries: Vector, k: int, mask: Mask | None) -> list[Hits]:
        vectors = self._vectors
        if vectors is None or not vectors.size:
            return [NOTHING] * len(queries)
        rows = np.flatnonzero(self._there if mask is None else self._there & mask)
        wanted = unit(queries)
        block = max(1, _SCORES // len(vectors))
        found: list[Hits] = []
        for start in range(0, len(wanted), block):
            some = wanted[start : start + block]
            # One query is a vector: as a matrix of one row it would take half as long again.
            scores = some @ vectors.T if len(some) > 1 else (vectors @ some[0])[None]
            found += [self._nearest(*one, rows, k) for one in zip(some, scores, strict=True)]
        return found

    def search_text(self, queries: Sequence[str], k: int, mask: Mask | None) -> list[Hits]:
        if self._words is None:
            return [NOTHING] * len(queries)
        return self._words.search(queries, k, mask)

    def save(self, folder: Path) -> None:
        if self._vectors is not None:
            np.save(folder / _VECTORS, self._vectors, allow_pickle=False)
        if self._words is not None:
            self._words.index().save(folder / TEXT)

    def settle(self, folder: Path) -> None:
        pass

    def _put(self, vectors: Vector) -> None:
        self._vectors, self._there = vectors, np.any(vectors != 0, axis=1)

    def _nearest(
        self,
        query: NDArray[np.float32],
        scores: NDArray[np.float32],
        rows: NDArray[np.int64],
        k: int,
    ) -> Hits:
        """The k nearest of some rows. Sums of float32 depend on what else is computed beside them in
        their last digits: of all that these could put among the best, the cosine is computed anew.
        """
        assert self._vectors is not None
        if not query.any():
            return NOTHING
        slack = float(np.finfo(np.float32).eps) * len(query)
        near = rows[near_best(scores[rows], k, slack)]
        return best(near, cosine(self._vectors[near], query), k)
