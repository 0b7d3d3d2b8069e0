"""What `df.lm` searches with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lmnb.frame.embedding import Truncate
from lmnb.frame.index.index import Index
from lmnb.frame.index.joining import How, join
from lmnb.frame.index.kinds import Kind
from lmnb.frame.index.results import ensure_apart


class Searching:
    """Part of `FrameAccessor`."""

    _frame: pd.DataFrame

    def index(
        self,
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
        """An index of the rows by the texts in the column `on`, to search in.

        Parameters
        ----------
        on
            The column of texts. Rows where it is null are never found.
        vectors
            Ready ones: the name of a column, a column, or a matrix (rows, dimensions); NaN and None
            are no vector. Lengths do not matter. Else the texts are embedded.
        model
            The embedding model; default the loaded one, else all-minilm-l6-v2. With ready vectors:
            the one that made them, without which queries have to be vectors.
        prefixes
            What goes before queries, and before documents, in place of what is known of the model.
        hybrid
            Index the words, too.
        path
            Save it there at once; see `Index.save`.
        store
            Where vectors are: in memory, or on disk by LanceDB ("lance", which needs `lmnb[lance]`).
        truncate, cache, progress
            As in `SeriesAccessor.embed`.

        Raises
        ------
        InvalidRequest
            There is no such column, or columns are called as those of results are (`rank`, `score`…).
        ModelNotFound, ServerError
            There is no model, or no server; what was embedded is kept.
        """
        ensure_apart(self._frame)
        return Index.build(
            self._frame,
            on,
            vectors=vectors,
            model=model,
            prefixes=prefixes,
            hybrid=hybrid,
            path=path,
            store=store,
            truncate=truncate,
            cache=cache,
            progress=progress,
        )

    def join(
        self,
        right: pd.DataFrame | Index,
        on: Any,
        right_on: Any = None,
        *,
        k: int = 1,
        threshold: float | None = None,
        how: How = "inner",
        into: str = "score",
        model: str | None = None,
    ) -> pd.DataFrame:
        """Each row beside the rows of another table whose texts are nearest in meaning.

        Parameters
        ----------
        right
            The other table, or an index of it.
        on, right_on
            The columns of texts, or of vectors; in the other table one of the same name, unless
            `right_on` is given. An index knows its own.
        k
            How many rows of the other table a row gets at most, nearest first.
        threshold
            The least cosine that counts.
        how
            "left" keeps rows for which nothing is near enough, with nulls; "inner" leaves them out.
        into
            The column of the cosines.
        model
            The embedding model; see `index`.

        Returns
        -------
        DataFrame
            The columns of both, with the labels of this table. What the other table calls as this
            one does gets `_right` behind its name.
        """
        return join(
            self._frame,
            right,
            on,
            right_on,
            k=k,
            threshold=threshold,
            how=how,
            into=into,
            model=model,
        )
