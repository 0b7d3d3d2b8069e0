"""Matrices of vectors: given ones, and rows of length 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lmnb.errors import InvalidRequest
from lmnb.frame.embedding import Vector, matrix
from lmnb.frame.values import column


def given(frame: pd.DataFrame, vectors: Any) -> tuple[pd.DataFrame, Vector]:
    """The matrix that is meant by a column's name, a column or a matrix; and the table, without that column.

    Raises
    ------
    InvalidRequest
        It is none of them, has another number of rows, or holds what is infinite.
    """
    if isinstance(vectors, np.ndarray) and vectors.ndim == 2:
        rows = vectors.astype(np.float32)
    elif isinstance(vectors, pd.Series):
        rows = matrix(vectors)
    else:
        rows = matrix(column(frame, vectors))
        frame = frame.drop(columns=[vectors])
    if len(rows) != len(frame):
        raise InvalidRequest(f"There are {len(rows)} vectors for {len(frame)} rows.")
    bad = np.flatnonzero(np.isinf(rows).any(axis=1))
    if len(bad):
        raise InvalidRequest(f"The vector of row {bad[0]} is not finite.")
    return frame, rows


def unit(vectors: Vector) -> Vector:
    """Rows of length 1, contiguous; zeros where there is none (NaN or zeros)."""
    rows = np.asarray(vectors, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    there = np.isfinite(lengths) & (lengths > 0)
    found = np.zeros(rows.shape, np.float32)
    np.divide(rows, lengths[:, None], out=found, where=there[:, None], casting="same_kind")
    return found
