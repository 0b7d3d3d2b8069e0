"""BM25 over texts, by the library bm25s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmnb.frame.index.ranking import Hits, Mask, best, near_best

Texts = Sequence[str | None]

_WORDS = (
    r"(?u)[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
)
"""Words, of any language and length; Chinese and Japanese, which put no spaces, by the character."""


class TextIndex:
    """Texts by their words. Nulls have none."""

    def __init__(self, found: Any, rows: int) -> None:
        self._bm25 = found
        """None if no text has a word, which the library has no index for."""
        self._rows = rows

    @classmethod
    def of(cls, texts: Texts) -> TextIndex:
        """The index of these: `k1` 1.5, `b` 0.75 in Lucene's variant, which are the library's defaults."""
        import bm25s

        words = bm25s.tokenize(
            [text or "" for text in texts],
            token_pattern=_WORDS,
            stopwords=None,
            show_progress=False,
        )
        if not words.vocab:
            return cls(None, len(texts))
        found = bm25s.BM25()
        found.index((words.ids, words.vocab), show_progress=False)
        return cls(found, len(texts))

    @classmethod
    def open(cls, folder: Path, rows: int) -> TextIndex:
        """What `save` wrote."""
        if not folder.exists():
            return cls(None, rows)
        import bm25s

        return cls(bm25s.BM25.load(folder, show_progress=False), rows)

    def save(self, folder: Path) -> None:
        """Write it in the library's own form; nothing, if there are no words."""
        if self._bm25 is not None:
            self._bm25.save(folder, show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """How well each text fits, 0 if it has no word of the query: (rows,)."""
        if self._bm25 is None:
            return np.zeros(self._rows, np.float32)
        import bm25s

        [words] = bm25s.tokenize(
            [query], token_pattern=_WORDS, stopwords=None, return_ids=False, show_progress=False
        )
        found: NDArray[np.float32] = self._bm25.get_scores_from_ids(
            self._bm25.get_tokens_ids(words)
        )
        return found


class Words:
    """Texts that are searched, added and deleted; their index is made when it is needed."""

    def __init__(self, texts: Texts, known: TextIndex | None = None) -> None:
        self._texts = list(texts)
        self._known = known

    def index(self) -> TextIndex:
        """The index of the texts as they are now."""
        if self._known is None:
            self._known = TextIndex.of(self._texts)
        return self._known

    def add(self, texts: Texts) -> None:
        """Put texts behind the others. How rare a word is changes for all."""
        self._texts += texts
        self._known = None

    def delete(self, keep: Mask) -> None:
        """Keep these only."""
        self._texts = [text for text, stays in zip(self._texts, keep, strict=True) if stays]
        self._known = None

    def search(self, queries: Sequence[str], k: int, mask: Mask | None) -> list[Hits]:
        """The k best rows for each query, of those that have one of its words."""
        found = []
        for query in queries:
            scores = self.index().scores(query)
            rows = np.flatnonzero(scores > 0 if mask is None else (scores > 0) & mask)
            rows = rows[near_best(scores[rows], k)]
            found.append(best(rows, scores[rows], k))
        return found
