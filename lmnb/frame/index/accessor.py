"""What `df.lm` searches with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lmnb.frame.embedding import Truncate
from lmnb.frame.index.index import Index


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
        truncate, cache, progress
            As in `SeriesAccessor.embed`.

        Raises
        ------
        InvalidRequest
            There is no such column, or columns are called as those of results are (`rank`, `score`…).
        ModelNotFound, ServerError
            There is no model, or no server; what was embedded is kept.
        """
        return Index.build(
            self._frame,
            on,
            vectors=vectors,
            model=model,
            prefixes=prefixes,
            hybrid=hybrid,
            path=path,
            truncate=truncate,
            cache=cache,
            progress=progress,
        )
