"""Vectors of texts, and how near they are to each other."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lmnb import selection
from lmnb.attaching import attach
from lmnb.client import Client
from lmnb.errors import InvalidRequest
from lmnb.frame import cache as caches
from lmnb.frame import prefixes
from lmnb.frame.cache import Cache
from lmnb.frame.prefixes import Kind
from lmnb.frame.run import Rows, resumable
from lmnb.frame.tally import Tally
from lmnb.frame.values import is_null, objects, sendable, texts
from lmnb.frame.workers import ask, check

Vector = NDArray[np.float32]
Truncate = Literal["warn", "error", "end"]

_PATH = "/v1/embeddings"
_TEXTS = 64
"""Texts of a request: few enough to be computed in a fraction of a second."""


class Embedding:
    """The vectors of a column's texts."""

    def __init__(
        self,
        series: pd.Series[Any],
        *,
        model: str | None,
        kind: Kind | None,
        prefix: str | None,
        truncate: Truncate,
        cache: bool,
        progress: bool | None,
        executor: Any = None,
    ) -> None:
        if executor is not None:
            check(executor)
        if truncate not in {"warn", "error", "end"}:
            raise InvalidRequest(f"truncate is 'warn', 'error' or 'end', not {truncate!r}.")
        if kind not in {None, "document", "query"}:
            raise InvalidRequest(f"kind is 'document' or 'query', not {kind!r}.")
        self._series = series
        found = texts(series)
        self._client: Client = attach()
        self._name = model or selection.choose_embedding(self._client, by="model=")
        self.identity = self._client.identify(self._name)
        self.model: str = self.identity["key"]
        if prefix is None:
            prefix = _prefix(self.model, kind)
        self._truncate, self._cache, self._progress = truncate, cache, progress
        self._executor = executor
        self.tally = Tally(len(series), "embed")
        self._texts: dict[bytes, str] = {}
        self.rows = Rows([self._key(prefix, text) for text in found], self.tally)
        self._cut: list[bytes] = []

    def run(self) -> pd.Series[Any]:
        """The vectors, float32 of length 1; None where a text is null or failed."""
        with (
            caches.opened(self._client.home if self._cache else None) as cache,
            resumable(self.tally, self._result, kept=self._cache, progress=self._progress),
        ):
            missing = self.rows.recall(cache, lambda value: np.frombuffer(value, "<f4"))
            # Texts of like lengths fill a forward pass best.
            missing.sort(key=lambda key: len(self._texts[key]))
            cuts = self._truncate == "end"
            failed = list(self._ask(missing, cache, _TEXTS, cuts=cuts))
            again = list(self._ask([key for key, _ in failed], cache, 1, cuts=cuts))
            if self._truncate == "warn":
                again = self._shorten(again, cache)
            for key, why in again:
                self.rows.fail(key, why)
        self._warn()
        return self._result()

    def _result(self) -> pd.Series[Any]:
        found = objects(self.rows.results(), self._series.index, self._series.name)
        counts = self.tally.counts()
        found.attrs["lmnb"] = {**counts, "model": self.model, "errors": self.rows.failures()}
        return found

    def _key(self, prefix: str, text: str | None) -> bytes | None:
        if text is None:
            return None
        whole = prefix + text
        cuts = self._truncate != "error"
        found = caches.key("embed", self.identity["digest"], self.identity["options"], cuts, whole)
        self._texts[found] = sendable(whole)
        return found

    def _ask(
        self, keys: Sequence[bytes], cache: Cache, size: int, *, cuts: bool
    ) -> Iterator[tuple[bytes, str]]:
        """Embed these, `size` texts a request; the texts of requests that failed, and why."""
        groups = [keys[start : start + size] for start in range(0, len(keys), size)]
        bodies = [
            {
                "model": self._name,
                "input": [self._texts[key] for key in group],
                "encoding_format": "base64",
                "truncate": cuts,
            }
            for group in groups
        ]
        sent = ask(self._executor, self._client, self.identity, _PATH, bodies)
        with closing(sent) as answers:
            for answer in answers:
                group = groups[answer.number]
                if answer.error is not None:
                    yield from [(key, answer.error) for key in group]
                    continue
                self.tally.tokens += answer.body["usage"]["prompt_tokens"]
                vectors = [base64.b64decode(one["embedding"]) for one in answer.body["data"]]
                cache.put(dict(zip(group, vectors, strict=True)))
                for key, vector in zip(group, vectors, strict=True):
                    self.rows.add(key, np.frombuffer(vector, "<f4"))

    def _shorten(self, failed: list[tuple[bytes, str]], cache: Cache) -> list[tuple[bytes, str]]:
        """Cut the texts that were too long; those that still fail."""
        still = list(self._ask([key for key, _ in failed], cache, 1, cuts=True))
        lost = {key for key, _ in still}
        self._cut = [key for key, _ in failed if key not in lost]
        return still

    def _warn(self) -> None:
        if self._cut:
            warnings.warn(
                f"{len(self._cut)} texts are longer than {self.model} reads, and were cut. "
                "truncate='end' says nothing, truncate='error' leaves them out.",
                stacklevel=4,
            )
        if self.rows.errors:
            first = next(iter(self.rows.errors.values()))
            warnings.warn(
                f"{self.tally.error} rows have no vector; attrs['lmnb']['errors'] tells why. "
                f"The first: {first}",
                stacklevel=4,
            )


def _prefix(model: str, kind: Kind | None) -> str:
    known = prefixes.find(model)
    if known is None:
        return ""
    if kind is None:
        warnings.warn(
            f"{model} tells documents and queries apart: these are taken for documents. "
            "kind='document' or kind='query' says which they are.",
            stacklevel=5,
        )
    return known.query if kind == "query" else known.document


def vectors(series: pd.Series[Any], model: str | None, *, kind: Kind | None = None) -> Vector:
    """The vectors of a column as `matrix`; they are made if it holds texts."""
    if any(isinstance(value, str) and value for value in series):
        work = Embedding(
            series,
            model=model,
            kind=kind,
            prefix=None,
            truncate="warn",
            cache=True,
            progress=None,
        )
        series = work.run()
    return matrix(series)


def matrix(series: pd.Series[Any]) -> Vector:
    """The vectors of a column as rows, (rows, dimensions); NaN where there is none.

    Raises
    ------
    InvalidRequest
        A row holds something else, or vectors differ in length.
    """
    rows: list[tuple[int, Vector]] = []
    for place, value in enumerate(series):
        if is_null(value):
            continue
        try:
            row = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            row = np.empty((0, 0), np.float32)
        if row.ndim != 1 or (rows and len(row) != len(rows[0][1])):
            raise InvalidRequest(
                f"Row {place} of {series.name!r} holds no vector such as those before it.",
                hint="`.lm.embed()` makes vectors of texts.",
            )
        rows.append((place, row))
    found = np.full((len(series), len(rows[0][1]) if rows else 0), np.nan, np.float32)
    for place, row in rows:
        found[place] = row
    return found


def cosine(vectors: Vector, others: ArrayLike) -> NDArray[np.float64]:
    """The cosine of each row with a vector, or with the same row of others: (rows,).

    Without any vector on one side (all rows are null) it is NaN.

    Raises
    ------
    InvalidRequest
        They differ in length.
    """
    other = np.atleast_2d(np.asarray(others, np.float64))
    if not (vectors.shape[1] and other.shape[1]):
        return np.full(len(vectors), np.nan)
    if other.shape[1] != vectors.shape[1] or other.shape[0] not in {1, len(vectors)}:
        raise InvalidRequest(
            f"Vectors of {vectors.shape[1]} dimensions cannot be compared with {other.shape[1]}.",
            hint="Embed both with the same model.",
        )
    rows = vectors.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        dots = np.einsum("ij,ij->i", rows, np.broadcast_to(other, rows.shape))
        found: NDArray[np.float64] = dots / lengths
    return found
