"""The engine loop of a reranker: how relevant documents are to a query."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lmnb.engine.config import LoadConfig
from lmnb.engine.embed import Pooler
from lmnb.engine.model import Model
from lmnb.engine.native import L
from lmnb.engine.options import Segment
from lmnb.engine.prefixes import Tokens
from lmnb.engine.protocol import Embed, Generate, Ranked, Rerank
from lmnb.engine.watch import Watch
from lmnb.errors import InvalidModel, NotSupported

_SOFTMAX = frozenset({"qwen3", "qwen3vl"})
"""Architectures whose classifier ends in a softmax over two labels (llama-graph.cpp, build_pooling)."""


class Reranker(Pooler):
    """Scores pairs of a query and a document with one loaded model.

    The pair becomes a prompt as llama.cpp's server makes it: the file's template `rerank`, else
    [BOS] query [EOS] [SEP] document [EOS], each mark where the vocabulary asks for it
    (server-common.cpp, format_prompt_rerank), but [SEP] at the end where there is no [EOS].
    """

    command: ClassVar[type[Generate | Embed | Rerank]] = Rerank
    can = "reranks only"

    def __init__(self, model: Model, config: LoadConfig, watch: Watch | None = None) -> None:
        labels: int = L.llama_model_n_cls_out(model.handle)
        if not any(tensor.name.startswith("cls.") for tensor in model.header.tensors):
            raise InvalidModel("This file is said to be a reranker, but has no classifier.")
        self._is_probability = model.header.architecture in _SOFTMAX
        if labels != (2 if self._is_probability else 1):
            raise NotSupported(
                f"This is a classifier with {labels} labels, not a reranker.", param="model"
            )
        self._label = _relevant(model, labels)
        self._template = _split(model.header.chat_templates.get("rerank"))
        super().__init__(model, config, watch, width=labels)

    def prompt(self, command: Rerank) -> list[Tokens]:
        """Token ids of each pair. Thread-safe.

        Raises
        ------
        InvalidRequest
            The query alone leaves no room, or a pair is too long (without `truncate`).
        """
        return [
            self._pair(command, index, document) for index, document in enumerate(command.documents)
        ]

    def _pair(self, command: Rerank, index: int, document: str) -> Tokens:
        if self._template is not None:
            before, after = (_fill(part, command.query) for part in self._template)
            tokens = self._tokens([*before, Segment(document), *after])
            marks = [self._tokens(before), self._tokens(after)]
        else:
            marks = self._marks(command.query)
            tokens = np.concatenate([marks[0], self._tokens([Segment(document)]), marks[1]])
        room = self.context_length - len(marks[0]) - len(marks[1])
        if len(tokens) <= self.context_length or not command.truncate or room < 1:
            return self.fit(tokens, index, truncate=False)
        words = self._tokens([Segment(document)])
        kept = words[-room:] if command.truncate == "start" else words[:room]
        return np.concatenate([marks[0], kept, marks[1]])

    def _tokens(self, segments: list[Segment]) -> Tokens:
        return self.model.tokenize(segments, add_bos=False)

    def _marks(self, query: str) -> list[Tokens]:
        """What stands before the document, and what after."""
        vocab = self.model.vocab
        separator: int = L.llama_vocab_sep(vocab)
        end = self.model.eos if self.model.eos >= 0 else separator
        bos = [self.model.bos] if L.llama_vocab_get_add_bos(vocab) else []
        eos = [end] if L.llama_vocab_get_add_eos(vocab) else []
        sep = [separator] if L.llama_vocab_get_add_sep(vocab) else []
        before = [*bos, *self._tokens([Segment(query)]).tolist(), *eos, *sep]
        # BERT was trained with a [SEP] at the end, too, which llama.cpp's server leaves out.
        return [np.array([t for t in part if t >= 0], np.int32) for part in (before, eos or sep)]

    def answer(
        self, command: Embed | Rerank, rows: NDArray[np.float32], lengths: tuple[int, ...]
    ) -> Ranked:
        """Scores from 0 to 1: the model's own probability, or the sigmoid of its logit."""
        values = rows[:, self._label].astype(np.float64)
        scores = values if self._is_probability else 1 / (1 + np.exp(-np.clip(values, -700, 700)))
        return Ranked(command.id, tuple(scores.tolist()), lengths)


def _relevant(model: Model, labels: int) -> int:
    """The number of the label that says yes."""
    names = [L.llama_model_cls_label(model.handle, label) for label in range(labels)]
    return names.index(b"yes") if b"yes" in names else 0


def _split(template: str | None) -> tuple[str, str] | None:
    """What stands before and after the document."""
    if template is None:
        return None
    before, document, after = template.partition("{document}")
    if not document or "{document}" in after or "{query}" not in template:
        raise InvalidModel("The file's template for reranking has no {query} and one {document}.")
    return before, after


def _fill(template: str, query: str) -> list[Segment]:
    """Only the template's own text may hold control tokens."""
    parts = re.split(r"(\{query\})", template)
    return [
        Segment(query) if part == "{query}" else Segment(part, special=True)
        for part in parts
        if part
    ]
