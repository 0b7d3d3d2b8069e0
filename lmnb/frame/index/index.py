"""`Index`: the rows of a table, found by what they mean and by their words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.embedding import Truncate, Vector
from lmnb.frame.index import asking, filters, folder, queries, reranking
from lmnb.frame.index.kinds import Kind, name_of, store_of
from lmnb.frame.index.model import Model, embed_documents
from lmnb.frame.index.queries import Queries
from lmnb.frame.index.ranking import NOTHING, Hits, Mask, fuse
from lmnb.frame.index.results import Found, assembled
from lmnb.frame.index.stores import Store
from lmnb.frame.index.vectors import given
from lmnb.frame.prefixes import Prefixes
from lmnb.frame.values import column, texts

Mode: TypeAlias = Literal["hybrid", "dense", "text"]
Where: TypeAlias = "str | Callable[[pd.DataFrame], Any] | Sequence[bool] | pd.Series[Any]"

_POOL = 10
"""Of each list, so many times as many rows as are wanted go into the fused one,"""
_LEAST_POOL = 100
"""but at least as many as this."""


class Index:
    """Rows of a table that are found by a model's vectors (dense), by their words (text, BM25), or by
    both (hybrid). Searching is exact: what a better row loses to is the model, never a shortcut.

    `df.lm.index(…)` makes one, `Index.open(…)` reads one.

    table
        The rows, with their labels as index. Filters are about these columns.
    on
        The column with the texts; None of an index of vectors alone.
    model
        The embedding model; None if the vectors came without one.
    """

    def __init__(
        self, table: pd.DataFrame, on: Any, model: Model | None, store: Store, path: Path | None
    ) -> None:
        self.table = table
        self.on = on
        self.model = model
        self.path = path
        self._store = store

    @classmethod
    def build(
        cls,
        frame: pd.DataFrame,
        on: Any = None,
        *,
        vectors: Any = None,
        model: str | None = None,
        prefixes: tuple[str, str] | None = None,
        hybrid: bool = True,
        path: str | Path | None = None,
        store: Kind = "memory",
        truncate: Truncate = "warn",
        cache: bool = True,
        progress: bool | None = None,
    ) -> Index:
        """See `FrameAccessor.index`."""
        kind = store_of(store)
        if on is None and vectors is None:
            raise InvalidRequest("Say which column has the texts.")
        reader: Model | None
        found = None if on is None else column(frame, on)
        known = Prefixes(*prefixes) if prefixes is not None else None
        if vectors is None:
            assert found is not None
            reader, rows = embed_documents(
                found, model, known, truncate=truncate, cache=cache, progress=progress
            )
        else:
            reader = None if model is None else Model.named(model, known)
            frame, rows = given(frame, vectors)
        words = texts(found) if found is not None and hybrid else None
        index = cls(frame.copy(), on, reader, kind(rows, words), None)
        if path is not None:
            index.save(path)
        return index

    # --- searching -------------------------------------------------------------------

    def search(
        self,
        q: Any,
        k: int = 10,
        mode: Mode | None = None,
        *,
        where: Where | None = None,
        rerank: str | None = None,
        rrf_k: float = 60,
    ) -> pd.DataFrame:
        """The rows that fit each query best, a row of the result each, best first.

        Parameters
        ----------
        q
            A text, a list or a column of texts; or vectors, as an array, a matrix or a column.
        k
            How many rows a query gets at most.
        mode
            "dense": by the cosine of vectors. "text": by BM25; rows without a word of the query are
            not found. "hybrid": both, fused by reciprocal rank (Cormack et al., 2009) over the
            best 100 rows of each, or the best `10 k`. Default: hybrid, if the index has both.
        where
            Which rows may be found: a condition ("year > 2020"), a function of `table`, or one truth
            value a row.
        rerank
            A reranking model that reads the best `5 k` rows, and decides.
        rrf_k
            The constant of the fusion.

        Returns
        -------
        DataFrame
            `query_id` (the label in a column of queries, else a position), `query`, `rank` (from
            1), `id` (the row's label), `score` (of the last step: cosine, BM25, sum of reciprocal
            ranks, or the reranker's relevance), `rank_dense`, `rank_text` (null where the row is
            not in that list), and the columns of the table. A query that is null has no rows.

        Raises
        ------
        InvalidRequest
            An option cannot be, or the index has no such mode.
        OtherModel
            The embedding model is no longer the one that the index was made with.
        ModelNotFound, ServerError
            There is no model, or no server.
        """
        asked = queries.parse(q)
        found = self.rank(asked, k, mode, where=where, rerank=rerank, rrf_k=rrf_k)
        return assembled(asked, found, self.table)

    def rank(
        self,
        asked: Queries,
        k: int,
        mode: Mode | None = None,
        *,
        where: Where | None = None,
        rerank: str | None = None,
        rrf_k: float = 60,
    ) -> list[Found]:
        """As `search`, as positions in `table`, for each query."""
        wanted = _count(k)
        if not rrf_k > 0:
            raise InvalidRequest(f"rrf_k is more than 0, not {rrf_k!r}.")
        mode = self._mode(mode, asked)
        if rerank is not None:
            self._ensure_rerankable(asked)
        mask = filters.mask(self.table, where)
        wanted *= reranking.POOL if rerank is not None else 1
        pool = max(_LEAST_POOL, _POOL * wanted) if mode == "hybrid" else wanted
        none = [NOTHING] * len(asked)
        dense = none if mode == "text" else self._dense(asked, pool, mask)
        text = none if mode == "dense" else self._text(asked, pool, mask)
        found = []
        for ours, theirs in zip(dense, text, strict=True):
            if mode == "hybrid":
                found.append(Found(fuse([ours, theirs], wanted, rrf_k), ours, theirs))
            else:
                found.append(Found(ours if mode == "dense" else theirs, ours, theirs))
        if rerank is None:
            return found
        words = texts(self.table[self.on])
        return reranking.rerank(rerank, asked.texts, found, words, _count(k))

    def _dense(self, asked: Queries, k: int, mask: Mask | None) -> list[Hits]:
        vectors = asked.vectors
        if vectors is None:
            if self.model is None:
                raise InvalidRequest(
                    "The index has vectors without a model, so that queries have to be vectors, too.",
                    hint="Name the model when it is made: `index(…, vectors=…, model=…)`.",
                )
            column = pd.Series(asked.texts, dtype=object, name="queries")
            vectors = self.model.embed(column, "query")
        dimensions = self._store.dimensions
        if vectors.shape[1] and dimensions and vectors.shape[1] != dimensions:
            raise InvalidRequest(
                f"Queries have {vectors.shape[1]} dimensions, and the index has {dimensions}."
            )
        if not vectors.shape[1]:
            return [NOTHING] * len(asked)
        return self._store.search_dense(vectors, k, mask)

    def _text(self, asked: Queries, k: int, mask: Mask | None) -> list[Hits]:
        return self._store.search_text([one or "" for one in asked.texts], k, mask)

    def _mode(self, mode: Mode | None, asked: Queries) -> Mode:
        if mode is None:
            return "hybrid" if self._store.has_text and asked.vectors is None else "dense"
        if mode not in {"hybrid", "dense", "text"}:
            raise InvalidRequest(f"mode is 'hybrid', 'dense' or 'text', not {mode!r}.")
        if mode != "dense" and not self._store.has_text:
            raise InvalidRequest(
                f"The index knows no words, which mode {mode!r} needs.",
                hint="It was made without texts, or with `hybrid=False`.",
            )
        if mode != "dense" and asked.vectors is not None:
            raise InvalidRequest(f"Mode {mode!r} needs queries that are texts.")
        return mode

    def _ensure_rerankable(self, asked: Queries) -> None:
        if self.on is None or asked.vectors is not None:
            raise InvalidRequest("A reranking model reads texts: of queries, and of the index.")

    def ask(
        self,
        q: str | Sequence[str] | pd.Series[Any],
        k: int = 6,
        mode: Mode | None = None,
        *,
        budget_tokens: int | None = None,
        cite: bool = True,
        where: Where | None = None,
        rerank: str | None = None,
        **options: Any,
    ) -> Any:
        """Have a chat model answer from the rows that fit best.

        Parameters
        ----------
        q
            A question, or a list or a column of them.
        k, mode, where, rerank
            As in `search`: which rows are the sources.
        budget_tokens
            The most tokens of the chat model that the sources may have together; the last are left out.
        cite
            Bind the model to statements with sources, of which there are no others than those
            given, and a quote from each. Without, its answer is free text.
        options
            Those of `FrameAccessor.map`: `model`, `max_tokens`, `system` and so on.

        Returns
        -------
        Answer or DataFrame
            For one question an `Answer`. For several a table with their labels: `answer`,
            `answer_error` (why there is none), `citations` (a list of dicts, as the rows of
            `Answer.citations`), how many there are (`cited`) and how many of them stand where they
            say (`supported`), and the labels of the sources (`context`).

        Raises
        ------
        RowFailed
            One question has no answer: nothing was found, or the model's answer was cut.
        InvalidRequest, ModelNotFound, ServerError
            As `search` and `FrameAccessor.map`.
        """
        search = {"k": k, "mode": mode, "where": where, "rerank": rerank}
        return asking.ask(
            self, q, budget_tokens=budget_tokens, cite=cite, search=search, options=options
        )

    # --- changing --------------------------------------------------------------------

    def add(
        self,
        frame: pd.DataFrame,
        *,
        vectors: Any = None,
        truncate: Truncate = "warn",
        cache: bool = True,
        progress: bool | None = None,
    ) -> None:
        """Put the rows of another table behind those that are there; it needs the same columns.

        `vectors`: ready ones of the same model, as of `FrameAccessor.index`; else they are made.

        Raises
        ------
        InvalidRequest
            Columns differ, or vectors are missing or differ in length.
        OtherModel
            The embedding model is no longer the one that the index was made with.
        """
        rows: Vector
        if vectors is not None:
            frame, rows = given(frame, vectors)
        missing = set(self.table.columns) ^ set(frame.columns)
        if missing or frame.index.nlevels != self.table.index.nlevels:
            what = (
                f"The column {min(map(str, missing))!r} is" if missing else "Levels of labels are"
            )
            raise InvalidRequest(f"{what} in one of the tables only.")
        if vectors is None:
            if self.model is None or self.on is None:
                raise InvalidRequest("The index has vectors without a model: give `vectors=`, too.")
            rows = self.model.embed(
                frame[self.on], "document", truncate=truncate, cache=cache, progress=progress
            )
        known = self._store.dimensions
        if known and rows.shape[1] not in {0, known}:
            raise InvalidRequest(f"Vectors have {rows.shape[1]} dimensions, not {known}.")
        words = texts(frame[self.on]) if self._store.has_text else None
        parts = [self.table, frame[list(self.table.columns)]]
        table = pd.concat([part for part in parts if len(part)] or parts[:1])
        self._store.add(rows, words)
        self.table = table

    def delete(self, ids: Any = None, *, where: Where | None = None) -> int:
        """Take rows out, by their labels (one, or a list) or by a condition; how many there were.

        Raises
        ------
        InvalidRequest
            A label is not there, or neither is given, or both.
        """
        if (ids is None) == (where is None):
            raise InvalidRequest("Say which rows: either by `ids` or by `where`.")
        gone = (
            filters.labelled(self.table, ids) if where is None else filters.mask(self.table, where)
        )
        assert gone is not None
        self._store.delete(~gone)
        self.table = self.table[~gone]
        return int(gone.sum())

    # --- keeping ---------------------------------------------------------------------

    def save(self, path: str | Path | None = None) -> None:
        """Write it into a folder, in place of an older index; default where it was opened or saved.

        The folder appears as a whole. It has `manifest.json` (the model and its digest, prefixes,
        types), `rows.jsonl` (the table), `vectors.npy` and `bm25/`. Read again, it finds the same
        rows with the same scores, to the last bit.

        Raises
        ------
        InvalidRequest
            Something else is there, or a column cannot be saved.
        ConfigError
            It cannot be written.
        """
        if path is None and self.path is None:
            raise InvalidRequest("Say where to save the index.")
        place = Path(path or self.path or "").expanduser()
        folder.save(place, self.table, self._manifest(), self._store.save)
        self._store.settle(place)
        self.path = place

    @classmethod
    def open(cls, path: str | Path, model: str | None = None) -> Index:
        """Read an index that was saved.

        Parameters
        ----------
        model
            The name under which the server knows the embedding model now; default the one it had.

        Raises
        ------
        InvalidRequest
            There is no index.
        OtherModel
            The server's model of that name is another one. The message names both.
        ConfigError
            The index is damaged, or of a later lmnb.
        """
        place = Path(path).expanduser()
        manifest, table = folder.read(place)
        reader = folder.read_part(place, lambda: Model.from_dict(manifest["model"]))
        if reader is not None:
            reader = reader.current(model)
        elif model is not None:
            raise InvalidRequest(f"The vectors in {place} came without a model.")
        words = texts(table[manifest["on"]]) if manifest["text"] else None
        kind = store_of(manifest["store"])
        store = folder.read_part(place, lambda: kind.open(place, words))
        return cls(table, manifest["on"], reader, store, place)

    def info(self) -> dict[str, Any]:
        """What it is: rows, columns, model, prefixes, dimensions, modes, where it lies."""
        return {
            "rows": len(self.table),
            **self._manifest(),
            "columns": list(self.table.columns),
            "path": None if self.path is None else str(self.path),
        }

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        by = [str(self.model) if self.model else "vectors"] + ["words"] * self._store.has_text
        return f"<Index of {len(self)} rows by {' and '.join(by)}>"

    def _manifest(self) -> dict[str, Any]:
        model = self.model
        return {
            "on": self.on,
            "store": name_of(self._store),
            "model": model.to_dict() if model else None,
            "dimensions": self._store.dimensions,
            "normalised": True,
            "text": self._store.has_text,
        }


def _count(k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InvalidRequest(f"k is a number of rows, at least 1, not {k!r}.")
    return int(k)
