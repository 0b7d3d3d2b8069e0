"""A second look at what was found, by a reranking model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np

from lmnb.attaching import attach
from lmnb.frame.index.ranking import Hits, best
from lmnb.frame.index.results import Found
from lmnb.frame.sending import send

POOL = 5
"""So many times as many rows are read as are wanted."""

_PATH = "/v1/rerank"


def rerank(
    model: str,
    asked: Sequence[str | None],
    found: Sequence[Found],
    texts: Sequence[str | None],
    k: int,
) -> list[Found]:
    """The k most relevant of the rows that each query has. What is too long is cut.

    A query that the model cannot read keeps its order, with scores that are NaN, and a warning.
    """
    places, bodies = [], []
    for place, (query, one) in enumerate(zip(asked, found, strict=True)):
        if query and len(one.hits.rows):
            documents = [texts[row] or "" for row in one.hits.rows]
            places.append(place)
            bodies.append(
                {"model": model, "query": query, "documents": documents, "truncate": True}
            )
    result = [_cut(one, k) for one in found]
    with closing(send(attach(), _PATH, bodies)) as answers:
        for answer in answers:
            place = places[answer.number]
            one = found[place]
            if answer.error is not None:
                warnings.warn(f"Not reranked: {asked[place]!r}: {answer.error}", stacklevel=4)
                unknown = np.full(len(result[place].hits.rows), np.nan)
                hits = Hits(result[place].hits.rows, unknown)
            else:
                hits = best(one.hits.rows, _scores(answer.body, len(one.hits.rows)), k)
            result[place] = one._replace(hits=hits)
    return result


def _cut(found: Found, k: int) -> Found:
    return found._replace(hits=Hits(found.hits.rows[:k], found.hits.scores[:k]))


def _scores(body: dict[str, Any], count: int) -> Any:
    scores = np.full(count, -np.inf)
    for one in body["results"]:
        scores[one["index"]] = one["relevance_score"]
    return scores
