"""`lmnb.grid`: chunk sizes × overlaps × models × modes × rerankers, and how well each finds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmnb import selection
from lmnb.attaching import attach
from lmnb.errors import InvalidRequest
from lmnb.frame.experiments.evaluating import Evaluation, long, summary
from lmnb.frame.index import Index
from lmnb.frame.run import resumable
from lmnb.frame.tally import Tally
from lmnb.frame.values import column

_TEXTS = ("model", "mode", "rerank")


def grid(
    docs: pd.DataFrame | pd.Series[Any],
    queries: Any,
    relevant: Any,
    *,
    on: Any = "text",
    chunk: int | Sequence[int] = (128, 256, 512),
    overlap: int | Sequence[int] = (0, 32),
    model: str | Sequence[str] | None = None,
    mode: str | Sequence[str] = "hybrid",
    rerank: str | Sequence[str | None] | None = None,
    k: int = 10,
    budget_tokens: int = 1000,
    metrics: str | Sequence[str] | None = None,
    per_query: bool = False,
    seed: int = 0,
    cache: bool = True,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Cut, index and search documents in every combination of settings.

    Parameters
    ----------
    docs
        Documents: a column of texts, or a table with the texts in the column `on`. `relevant` calls
        them by their labels.
    queries, relevant, seed
        As in `evaluate`.
    chunk, overlap
        Tokens of a chunk, and of the next one's beginning that is the end of this one; see
        `df.lm.chunk`. Combinations with an overlap that is not less than the chunk are left out.
    model
        Embedding models; default as in `series.lm.embed`. Each counts tokens in its own way.
    mode
        "hybrid", "dense" or "text"; see `Index.search`.
    rerank
        Reranking models; None is none.
    k, budget_tokens
        What the metrics look at that are told without `metrics`: with spans `span_recall@k`,
        `span_precision@k` and `span_recall@{budget_tokens}tokens`, else `nDCG@k`, `R@k` and `RR@k`.
        At a fixed k, larger chunks show more text and therefore find more; the budget is what they
        are to be compared by.
    metrics
        As in `evaluate`.
    per_query
        The values of single queries instead, which `compare_runs` tests: the settings, `query_id`,
        `metric`, `value`.
    cache, progress
        As in `df.lm.map`. Vectors are kept: a grid that was stopped, or got one more setting, does
        not embed again.

    Returns
    -------
    DataFrame
        A row for each combination and metric: `chunk`, `overlap`, `model`, `mode`, `rerank`,
        `metric`, `value`, `ci_low`, `ci_high`, `n_queries` (see `evaluate`), `n_chunks`, `index_s`
        (seconds to cut, embed and index; vectors that were kept cost nothing) and `query_ms`
        (milliseconds a query, all asked together, without embedding it). `plot_grid` draws it.

    Raises
    ------
    InvalidRequest
        A setting, query or document makes no sense; see `evaluate`.
    ModelNotFound, ServerError
        There is no such model, or no server any more. `lmnb.last_partial` has what was there.
    """
    frame = _documents(docs, on)
    settings = Settings(chunk, overlap, model, mode, rerank)
    task = Evaluation(queries, relevant, metrics, k=k, budget_tokens=budget_tokens)
    if task.texts is None:
        raise InvalidRequest("Say how the queries read that are searched for.")
    task.check_documents(frame.index.to_flat_index())
    return Grid(frame, task, settings, cache=cache).run(
        per_query=per_query, seed=seed, progress=progress
    )


class Settings:
    """The values of each setting, checked."""

    def __init__(self, chunk: Any, overlap: Any, model: Any, mode: Any, rerank: Any) -> None:
        client = attach()
        models = [one or selection.choose_embedding(client, by="model=") for one in _several(model)]
        self.cuts = [
            {"chunk": size, "overlap": more, "model": name}
            for name, size, more in itertools.product(
                models, _whole(chunk, "chunk", 1), _whole(overlap, "overlap", 0)
            )
            if more < size
        ]
        if not self.cuts:
            raise InvalidRequest("Every overlap is as large as the chunks, or larger.")
        modes, rerankers = _several(mode), _several(rerank)
        for one in modes:
            if one not in {"hybrid", "dense", "text"}:
                raise InvalidRequest(f"mode is 'hybrid', 'dense' or 'text', not {one!r}.")
        for name in [*models, *(one for one in rerankers if one is not None)]:
            client.identify(name)
        self.searches = [
            {"mode": one, "rerank": name} for one, name in itertools.product(modes, rerankers)
        ]

    def __len__(self) -> int:
        return len(self.cuts) * len(self.searches)


class Grid:
    """The combinations, and what is known of them."""

    def __init__(
        self, docs: pd.DataFrame, task: Evaluation, settings: Settings, *, cache: bool
    ) -> None:
        self._docs = docs
        self._task = task
        self._settings = settings
        self._cache = cache
        self._found: list[tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]] = []
        """Settings, values by query, and what else is told."""

    def run(self, *, per_query: bool, seed: int, progress: bool | None) -> pd.DataFrame:
        """Try all."""
        tally = Tally(len(self._settings), "grid")

        def make() -> pd.DataFrame:
            return self._per_query() if per_query else self._summary(seed)

        with resumable(tally, make, kept=self._cache, progress=progress):
            for one in self._tried():
                self._found.append(one)
                tally.ok += 1
                tally.update()
        return make()

    def _tried(self) -> Iterator[tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]]:
        task = self._task
        for cut in self._settings.cuts:
            began = time.perf_counter()
            index = self._index(cut)
            index_s = time.perf_counter() - began
            if any(search["mode"] != "text" for search in self._settings.searches):
                index.search(task.texts, 1, "dense")  # from now on their vectors are known
            for search in self._settings.searches:
                began = time.perf_counter()
                found = task.search(index, **search)
                seconds = time.perf_counter() - began
                costs = {
                    "n_chunks": len(index),
                    "index_s": round(index_s, 3),
                    "query_ms": round(seconds * 1000 / len(task.relevance.grades), 3),
                }
                yield {**cut, **search}, task.values(found), costs

    def _index(self, cut: Mapping[str, Any]) -> Index:
        chunks = self._docs.lm.chunk(
            "text", size=cut["chunk"], overlap=cut["overlap"], model=cut["model"], progress=False
        )
        index: Index = chunks.lm.index(
            "text", model=cut["model"], cache=self._cache, progress=False
        )
        return index

    def _summary(self, seed: int) -> pd.DataFrame:
        tables = [
            _beside(settings, summary(values, seed).assign(**costs))
            for settings, values, costs in self._found
        ]
        return _together(tables)

    def _per_query(self) -> pd.DataFrame:
        return _together([_beside(settings, long(values)) for settings, values, _ in self._found])


def _documents(docs: Any, on: Any) -> pd.DataFrame:
    """The texts in a column `text`, by labels that are unique."""
    if isinstance(docs, pd.Series):
        texts = docs
    elif isinstance(docs, pd.DataFrame):
        texts = column(docs, on)
    else:
        raise InvalidRequest(f"Documents are a table or a column, not {type(docs).__name__}.")
    if not texts.index.is_unique:
        again = texts.index[texts.index.duplicated()][0]
        raise InvalidRequest(f"Several documents are called {again!r}.")
    return pd.DataFrame({"text": texts})


def _several(given: Any) -> list[Any]:
    many = isinstance(given, Iterable) and not isinstance(given, str)
    found = list(dict.fromkeys(given)) if many else [given]
    if not found:
        raise InvalidRequest("A setting has no values.")
    return found


def _whole(given: Any, name: str, least: int) -> list[int]:
    found = _several(given)
    for one in found:
        if isinstance(one, bool) or not isinstance(one, int | np.integer) or one < least:
            raise InvalidRequest(f"{name} is a whole number, at least {least}, not {one!r}.")
    return [int(one) for one in found]


def _beside(settings: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns for the settings in front."""
    columns = {
        name: pd.Series([value] * len(table), dtype="string" if name in _TEXTS else None)
        for name, value in settings.items()
    }
    return pd.concat([pd.DataFrame(columns), table], axis=1)


def _together(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
