"""From logits to a token.

The order is llama.cpp's: bias, penalties, top-k, typical, top-p, min-p, temperature, draw
(common/common.h, common_params_sampling). llama.cpp's own samplers do the work, but on a few
candidates instead of the whole vocabulary wherever that provably gives the same token, which
makes a step several times cheaper.
"""

from __future__ import annotations

import ctypes
import math
import random
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmnb.engine.constraint import Constraint, Row
from lmnb.engine.model import Model
from lmnb.engine.native import L
from lmnb.engine.protocol import Sampling, TokenLogprob
from lmnb.errors import InvalidRequest, NumericError

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_MAX_SEED = 0xFFFFFFFF  # llama.cpp reads this value as "random"
_NEAR = np.float32(12.0)


class Candidates:
    """A reusable llama_token_data_array. One per engine: steps sample their rows in turn."""

    def __init__(self, n_vocab: int) -> None:
        self._data = np.empty(n_vocab, _CANDIDATE)
        self._array = L.llama_token_data_array(
            data=self._data.ctypes.data_as(ctypes.POINTER(L.llama_token_data)),
            size=0,
            selected=-1,
            sorted=False,
        )
        self._reference = ctypes.byref(self._array)

    def draw(self, chain: object, ids: NDArray[np.int64], logits: Row) -> int:
        """Run a sampler chain over the given tokens; the token it selects."""
        size = len(ids)
        self._data["id"][:size] = ids
        self._data["logit"][:size] = logits
        self._array.size, self._array.selected, self._array.sorted = size, -1, False
        L.llama_sampler_apply(chain, self._reference)
        return int(self._data["id"][self._array.selected])


class Sampler:
    """The sampling state of one sequence: random generator and penalty window."""

    def __init__(self, options: Sampling, model: Model, prompt: NDArray[np.int32]) -> None:
        check(options, model.n_vocab)
        self.options = options
        self._suppressed = model.suppressed
        self._bias_ids = np.fromiter(options.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(options.logit_bias.values(), np.float32)
        self._penalised = options.repeat_last_n > 0 and (
            options.repeat_penalty != 1.0
            or options.presence_penalty != 0.0
            or options.frequency_penalty != 0.0
        )
        self._window: deque[int] = deque()
        self._counts: Counter[int] = Counter()
        if self._penalised:
            for token in prompt[-options.repeat_last_n :].tolist():
                self.accept(token)
        self.greedy = options.temperature <= 0 or options.top_k == 1
        self._chain = None if self.greedy else self._build(options)

    def close(self) -> None:
        """Free the native sampler."""
        if self._chain is not None:
            L.llama_sampler_free(self._chain)
            self._chain = None

    def sample(self, row: Row, candidates: Candidates, constraint: Constraint | None = None) -> int:
        """The next token. `row`, (vocabulary,), is changed by biases, penalties and the grammar.

        Raises
        ------
        NumericError
            The logits are not numbers.
        """
        if len(self._bias):
            row[self._bias_ids] += self._bias
        if len(self._suppressed):
            row[self._suppressed] = -np.inf
        if self._penalised:
            self._penalise(row)
        if constraint is not None:
            constraint.mask(row)
        top = int(row.argmax())
        highest = row[top]
        if constraint is not None and highest == -math.inf:
            raise InvalidRequest(
                "logit_bias forbids every token that the output format allows here.",
                param="logit_bias",
            )
        if not math.isfinite(highest):  # argmax finds a NaN first
            raise NumericError(
                "The model computed values that are not numbers.",
                hint="Load it with flash_attention off or with f16 cache types.",
            )
        if self.greedy:
            return top
        ids = self._candidates(row, highest)
        return candidates.draw(self._chain, ids, row[ids])

    def accept(self, token: int) -> None:
        """Take note of a token for the penalties."""
        if not self._penalised:
            return
        self._window.append(token)
        self._counts[token] += 1
        if len(self._window) > self.options.repeat_last_n:
            oldest = self._window.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    def _candidates(self, row: Row, highest: np.float32) -> NDArray[np.int64]:
        """Tokens that can still be drawn.

        With top-k that is the k best, which every later sampler sees alone anyway. Without, min-p
        cuts exactly if nothing before it looks at the whole distribution.
        """
        options = self.options
        if options.top_k > 0:
            near = np.flatnonzero(row > highest - _NEAR)
            if len(near) < options.top_k:  # often so where a grammar leaves few
                near = np.flatnonzero(row > -math.inf)
            if len(near) > 4 * options.top_k:
                best = np.argpartition(row[near], -options.top_k)[-options.top_k :]
                near = near[best]
            return near
        if options.min_p > 0 and options.top_p >= 1 and options.typical_p >= 1:
            return np.flatnonzero(row >= highest + math.log(options.min_p))
        return np.flatnonzero(np.isfinite(row))

    def _penalise(self, row: Row) -> None:
        """The formula of llama.cpp's penalties sampler, on the tokens of the window only."""
        options = self.options
        ids = np.fromiter(self._counts.keys(), np.int64)
        counts = np.fromiter(self._counts.values(), np.float32)
        logits = row[ids]
        repeat = np.float32(options.repeat_penalty)
        logits = np.where(logits <= 0, logits * repeat, logits / repeat)
        row[ids] = logits - counts * options.frequency_penalty - options.presence_penalty

    @staticmethod
    def _build(options: Sampling) -> object:
        params = L.llama_sampler_chain_default_params()
        params.no_perf = True
        chain = L.llama_sampler_chain_init(params)
        if options.top_k > 0:
            L.llama_sampler_chain_add(chain, L.llama_sampler_init_top_k(options.top_k))
        if options.typical_p < 1:
            L.llama_sampler_chain_add(chain, L.llama_sampler_init_typical(options.typical_p, 1))
        if options.top_p < 1:
            L.llama_sampler_chain_add(chain, L.llama_sampler_init_top_p(options.top_p, 1))
        if options.min_p > 0:
            L.llama_sampler_chain_add(chain, L.llama_sampler_init_min_p(options.min_p, 1))
        L.llama_sampler_chain_add(chain, L.llama_sampler_init_temp(options.temperature))
        seed = options.seed
        seed = random.getrandbits(32) if seed is None else seed
        L.llama_sampler_chain_add(chain, L.llama_sampler_init_dist(seed % _MAX_SEED))
        return chain


def check(options: Sampling, n_vocab: int) -> None:
    """Refuse values outside their ranges.

    Raises
    ------
    InvalidRequest
        Naming the parameter and its range.
    """
    ranges: Sequence[tuple[str, float, float, float]] = (
        ("temperature", options.temperature, 0, 100),
        ("top_k", options.top_k, 0, math.inf),
        ("top_p", options.top_p, 0, 1),
        ("min_p", options.min_p, 0, 1),
        ("typical_p", options.typical_p, 0, 1),
        ("repeat_penalty", options.repeat_penalty, 1e-6, 100),
        ("presence_penalty", options.presence_penalty, -100, 100),
        ("frequency_penalty", options.frequency_penalty, -100, 100),
    )
    for name, value, low, high in ranges:
        if not low <= value <= high:  # also refuses NaN
            raise InvalidRequest(f"{name} must lie between {low:g} and {high:g}.", param=name)
    for token, bias in options.logit_bias.items():
        if not 0 <= token < n_vocab or not bias < 3e38:
            raise InvalidRequest(
                f"logit_bias: token ids of this model run from 0 to {n_vocab - 1}, and a bias is a finite number or -inf.",
                param="logit_bias",
            )


def logprob(row: Row, token: int, top: int, model: Model) -> TokenLogprob:
    """Log probabilities before any sampler, as OpenAI reports them: the chosen token's and the `top` best."""
    highest = row.max()
    normaliser = float(highest) + math.log(float(np.exp(row - highest).sum()))

    def entry(candidate: int) -> tuple[str, bytes, float]:
        raw = model.pieces[candidate]
        return raw.decode("utf-8", "replace"), raw, float(row[candidate]) - normaliser

    best: list[int] = []
    if top:
        best = np.argpartition(row, -top)[-top:].tolist()
        best.sort(key=lambda candidate: -row[candidate])
    text, raw, value = entry(token)
    return TokenLogprob(text, raw, value, tuple(entry(candidate) for candidate in best))


def certain(token: int, top: int, model: Model) -> TokenLogprob:
    """The entry of a token about which there was no choice: probability 1."""
    raw = model.pieces[token]
    text = raw.decode("utf-8", "replace")
    return TokenLogprob(text, raw, 0.0, ((text, raw, 0.0),) if top else ())
