"""What keeps the vectors and texts of an index, and finds rows by them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lmnb.frame.embedding import Vector
from lmnb.frame.index.ranking import Hits, Mask
from lmnb.frame.index.text import Texts


class Store(Protocol):
    """Vectors of length 1, texts, or both, of rows that are known by their positions from 0.

    `mask` says of each row whether it may be found. All are exact: a row that fits better is never
    left out. Vectors of zeros (of rows without one) and texts without a word of the query are not
    found.
    """

    @property
    def dimensions(self) -> int:
        """Of vectors; 0 without any."""

    @property
    def has_text(self) -> bool:
        """Whether texts are known."""

    def add(self, vectors: Vector | None, texts: Texts | None) -> None:
        """Put rows behind those that are there."""

    def delete(self, keep: Mask) -> None:
        """Keep these rows only, in their order."""

    def search_dense(self, queries: Vector, k: int, mask: Mask | None) -> list[Hits]:
        """The rows of the highest cosines with each query; none for queries that are NaN."""

    def search_text(self, queries: Sequence[str], k: int, mask: Mask | None) -> list[Hits]:
        """The rows of the highest BM25 scores for each query."""

    def save(self, folder: Path) -> None:
        """Write all into a folder, which is there and has room for it."""

    def settle(self, folder: Path) -> None:
        """What `save` wrote lies there now."""
