"""Penalties for what was written before: repetition, frequency, presence, and DRY.

llama.cpp's samplers keep the history and know the formulas. They treat each token by itself and
change none that is not in their history, so it is enough, and exact, to show them the logits of the
tokens in it: some dozens instead of the whole vocabulary.
"""

from __future__ import annotations

import ctypes
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lmnb.engine.native import L
from lmnb.engine.options import Sampling

if TYPE_CHECKING:
    from lmnb.engine.constraint import Row
    from lmnb.engine.model import Model
    from lmnb.engine.sampling import Candidates

_MOST_PREPARED = 8


class History:
    """The last tokens of one sequence, prompt included, and the penalties they cause."""

    def __init__(self, options: Sampling, model: Model, prompt: NDArray[np.int32]) -> None:
        most = max(model.trained_context_length, len(prompt), 1)
        self._size = 0
        params = L.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = L.llama_sampler_chain_init(params)
        if _has_penalties(options):
            last = _window(options.repeat_last_n, most)
            self._add(_penalties(options, model, last), last)
        if _has_dry(options):
            last = _window(options.dry_penalty_last_n, most)
            self._add(L.llama_sampler_clone(_prepared_dry(options, model, last)), last)
        self._window: deque[int] = deque()
        self._counts: Counter[int] = Counter()
        self._places: dict[int, int] = {}
        self._ids = np.empty(256, np.int64)
        for token in prompt[-self._size :].tolist():
            self.accept(token)

    @staticmethod
    def matters(options: Sampling) -> bool:
        """Whether these options look at the history at all."""
        return _has_penalties(options) or _has_dry(options)

    def close(self) -> None:
        """Free the native samplers."""
        L.llama_sampler_free(self._chain)

    def apply(self, row: Row, candidates: Candidates) -> None:
        """Penalise, in place. `row` is (vocabulary,)."""
        candidates.adjust(self._chain, row, self._ids[: len(self._places)])

    def accept(self, token: int) -> None:
        """Take note of a token."""
        L.llama_sampler_accept(self._chain, token)
        self._window.append(token)
        self._counts[token] += 1
        if token not in self._places:
            self._remember(token)
        if len(self._window) > self._size:
            oldest = self._window.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                self._forget(oldest)

    def _add(self, sampler: Any, window: int) -> None:
        L.llama_sampler_chain_add(self._chain, sampler)
        self._size = max(self._size, window)

    def _remember(self, token: int) -> None:
        place = len(self._places)
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
        self._places[token] = place
        self._ids[place] = token

    def _forget(self, token: int) -> None:
        """Put the last id into the place of this one."""
        del self._counts[token]
        place = self._places.pop(token)
        last = int(self._ids[len(self._places)])
        if last != token:
            self._ids[place] = last
            self._places[last] = place


def _has_penalties(options: Sampling) -> bool:
    return options.repeat_last_n != 0 and (
        options.repeat_penalty != 1.0
        or options.presence_penalty != 0.0
        or options.frequency_penalty != 0.0
    )


def _has_dry(options: Sampling) -> bool:
    return options.dry_multiplier > 0 and options.dry_penalty_last_n != 0


def _window(asked: int, most: int) -> int:
    """The length of a window. llama.cpp allocates it at once, so it must not be a wild number."""
    return most if asked < 0 else min(asked, most)


def _penalties(options: Sampling, model: Model, last: int) -> Any:
    return L.llama_sampler_init_penalties(
        model.n_vocab,
        last,
        options.repeat_penalty,
        options.frequency_penalty,
        options.presence_penalty,
    )


def _prepared_dry(options: Sampling, model: Model, last: int) -> Any:
    """A DRY sampler to clone: to compare its breakers with the whole vocabulary takes long."""
    key = (
        options.dry_multiplier,
        options.dry_base,
        options.dry_allowed_length,
        last,
        options.dry_sequence_breakers,
    )
    prepared = model.prepared_samplers
    if key not in prepared:
        if len(prepared) >= _MOST_PREPARED:
            L.llama_sampler_free(prepared.pop(next(iter(prepared))))
        breakers = [text.encode("utf-8", "replace") for text in options.dry_sequence_breakers]
        array = (ctypes.c_char_p * len(breakers))(*breakers)
        prepared[key] = L.llama_sampler_init_dry(model.vocab, *key[:-1], array, len(breakers))
    return prepared[key]
