"""An index whose vectors lie on disk, in LanceDB. Words are searched as in memory.

It searches flat, which is exact. LanceDB's index of words is not used: it counts otherwise than BM25s,
so that the two stores would find different rows.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmnb.errors import NotSupported
from lmnb.frame.embedding import Vector, cosine
from lmnb.frame.index.memory import TEXT
from lmnb.frame.index.ranking import NOTHING, Hits, Mask, best
from lmnb.frame.index.text import TextIndex, Texts, Words
from lmnb.frame.index.vectors import unit

_DATABASE, _TABLE = "lance", "rows"
_MORE = 10
"""So many more rows than are wanted are taken: among the last, sums of float32 decide by chance."""


class LanceStore:
    """See `Store`. What is saved is left as it is: changes go into a folder of their own.

    Raises
    ------
    NotSupported
        LanceDB is not installed.
    """

    def __init__(self, vectors: Vector | None, texts: Texts | None) -> None:
        _library()
        self._is_own = True
        """Its folder is nobody else's."""
        self._table: Any = None
        self._keys = np.empty(0, np.int64)
        """What each row is called in the table: numbers that grow."""
        self._there = np.empty(0, np.bool_)
        self._words = None if texts is None else Words(texts)
        if self._words is not None:
            self._words.index()
        if vectors is not None:
            self._append(vectors)

    @classmethod
    def open(cls, folder: Path, texts: Texts | None) -> LanceStore:
        """What `save` wrote. The texts are those that it was made of."""
        found = cls(None, None)
        found.settle(folder)
        if texts is not None:
            found._words = Words(texts, TextIndex.open(folder / TEXT, len(texts)))
        if found._table is not None:
            rows = found._table.search().select(["row", "there"]).to_arrow()
            keys, there = (rows[name].to_numpy() for name in ("row", "there"))
            order = np.argsort(keys)
            found._keys, found._there = keys[order], there[order]
        return found

    @property
    def dimensions(self) -> int:
        return 0 if self._table is None else int(self._table.schema.field("vector").type.list_size)

    @property
    def has_text(self) -> bool:
        return self._words is not None

    def add(self, vectors: Vector | None, texts: Texts | None) -> None:
        if vectors is not None:
            self._own()
            self._append(vectors)
        if self._words is not None and texts is not None:
            self._words.add(texts)

    def delete(self, keep: Mask) -> None:
        if self._table is not None:
            self._own()
            self._table.delete(_among(self._keys[~keep]))
        self._keys, self._there = self._keys[keep], self._there[keep]
        if self._words is not None:
            self._words.delete(keep)

    def search_dense(self, queries: Vector, k: int, mask: Mask | None) -> list[Hits]:
        allowed = self._there if mask is None else self._there & mask
        if self._table is None or not allowed.any():
            return [NOTHING] * len(queries)
        condition = "there" if mask is None else _among(self._keys[allowed])
        return [self._nearest(query, k, condition) for query in unit(queries)]

    def search_text(self, queries: Sequence[str], k: int, mask: Mask | None) -> list[Hits]:
        if self._words is None:
            return [NOTHING] * len(queries)
        return self._words.search(queries, k, mask)

    def save(self, folder: Path) -> None:
        if self._table is not None:
            shutil.copytree(self._place, folder / _DATABASE)
        if self._words is not None:
            self._words.index().save(folder / TEXT)

    def settle(self, folder: Path) -> None:
        self._is_own = False
        if (folder / _DATABASE).exists():
            self._connect(folder / _DATABASE)

    def _connect(self, place: Path) -> None:
        self._place = place
        self._table = _library().connect(place).open_table(_TABLE)

    def _own(self) -> None:
        """Change a copy from now on."""
        if not self._is_own and self._table is not None:
            self._connect(Path(shutil.copytree(self._place, self._room())))
            self._is_own = True

    def _room(self) -> Path:
        """A place that goes away with the store."""
        folder = tempfile.mkdtemp(prefix="lmnb-index-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder) / _DATABASE

    def _append(self, vectors: Vector) -> None:
        rows = unit(vectors)
        keys = np.arange(len(rows)) + (self._keys[-1] + 1 if len(self._keys) else 0)
        there = np.any(rows != 0, axis=1)
        if self._table is None and rows.shape[1]:
            # Rows of before had no vectors, so that it was not known how long they are.
            old = np.zeros((len(self._keys), rows.shape[1]), np.float32)
            self._place, self._is_own = self._room(), True
            data = _arrow(
                np.concatenate([self._keys, keys]),
                np.concatenate([self._there, there]),
                np.concatenate([old, rows]),
            )
            self._table = _library().connect(self._place).create_table(_TABLE, data)
        elif self._table is not None:
            wide = rows if rows.shape[1] else np.zeros((len(rows), self.dimensions), np.float32)
            self._table.add(_arrow(keys, there, wide))
        self._keys = np.concatenate([self._keys, keys])
        self._there = np.concatenate([self._there, there])

    def _nearest(self, query: Any, k: int, condition: str) -> Hits:
        if not query.any():
            return NOTHING
        search = self._table.search(query, vector_column_name="vector").distance_type("cosine")
        wanted = search.where(condition, prefilter=True).limit(k + _MORE)
        found = wanted.select(["row", "vector", "_distance"]).to_arrow()
        rows = np.searchsorted(self._keys, found["row"].to_numpy())
        flat = found["vector"].combine_chunks().flatten().to_numpy()
        vectors = flat.reshape(-1, len(query))
        order = np.argsort(rows)
        return best(rows[order], cosine(vectors[order], query), k)


def _among(keys: Any) -> str:
    return f"row IN ({','.join(map(str, keys.tolist()))})" if len(keys) else "false"


def _arrow(keys: Any, there: Any, vectors: Vector) -> Any:
    import pyarrow as pa

    cells = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table({"row": pa.array(keys), "there": pa.array(there), "vector": cells})


def _library() -> Any:
    try:
        import lancedb
    except ImportError:
        raise NotSupported(
            "store='lance' needs LanceDB, which is not installed.",
            hint="`pip install 'lmnb[lance]'` (250 MB).",
        ) from None
    return lancedb
