"""What `Index` takes in time: 100,000 rows of 384 dimensions, and texts of 60 words.

    python tests/bench/search.py

Vectors are random, so that nothing is near anything: the worst case for an exact search, which looks at
all of them anyway. Words are drawn by Zipf's law, as those of languages are. Queries by vectors cost
what is measured; queries by texts are embedded first, which is measured with the default model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from lmnb.frame import Index
from lmnb.selection import DEFAULT_EMBEDDING_MODEL

WORDS = 60
VOCABULARY = 50_000


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=50)
    options = parser.parse_args()
    dice = np.random.default_rng(0)
    vectors = dice.normal(size=(options.rows, options.dimensions)).astype(np.float32)
    frame = pd.DataFrame({"text": texts(options.rows, WORDS, dice)})
    queries = dice.normal(size=(options.queries, options.dimensions)).astype(np.float32)
    asked = texts(options.queries, 6, dice)
    print(f"{options.rows} rows of {options.dimensions} dimensions, load {os.getloadavg()[0]:.2f}")

    _, seconds = timed(lambda: frame.lm.index(vectors=vectors))
    show("index from vectors", seconds, "s")
    model = DEFAULT_EMBEDDING_MODEL if options.dimensions == 384 else None
    index, seconds = timed(lambda: frame.lm.index("text", vectors=vectors, model=model))
    show("the same with words", seconds, "s")
    each(index, list(queries), "a query by a vector, k=10", mode="dense")
    each(index, list(queries), "the same among half of the rows", mode="dense", where=half(frame))
    each(index, asked, "a query by words (6)", mode="text")
    together, seconds = timed(lambda: index.search(queries, mode="dense"))
    show(f"{len(queries)} vectors together, each", seconds / len(queries) * 1000, "ms")
    if model is not None:
        each(index, asked, "a hybrid query, embedded by the server", mode="hybrid")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        _, seconds = timed(lambda: index.save(path))
        show("saved", seconds, "s")
        again, seconds = timed(lambda: Index.open(path))
        show("opened", seconds, "s")
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        show("on disk", size / 1e6, "MB")
        pd.testing.assert_frame_equal(
            again.search(queries, mode="dense"), together, check_exact=True
        )
        pd.testing.assert_frame_equal(
            again.search(asked, mode="text"), index.search(asked, mode="text"), check_exact=True
        )
    print("reopened: the same to the last bit")


def texts(count: int, words: int, dice: np.random.Generator) -> list[str]:
    """Texts of made words."""
    drawn = np.minimum(dice.zipf(1.2, size=(count, words)), VOCABULARY)
    return [" ".join(f"w{word}" for word in row) for row in drawn]


def half(frame: pd.DataFrame) -> Any:
    """Every other row."""
    return np.arange(len(frame)) % 2 == 0


def each(index: Index, queries: list[Any], name: str, **options: Any) -> None:
    """The times of queries one by one, after one that warms up."""
    index.search(queries[0], **options)
    times = [timed(partial(index.search, one, **options))[1] * 1000 for one in queries]
    low, high = min(times), max(times)
    print(f"{name}: {statistics.median(times):.3g} ms ({low:.3g} to {high:.3g})")


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the seconds that took."""
    began = perf_counter()
    found = work()
    return found, perf_counter() - began


def show(name: str, value: float, unit: str) -> None:
    print(f"{name}: {value:.3g} {unit}", flush=True)


if __name__ == "__main__":
    main()
