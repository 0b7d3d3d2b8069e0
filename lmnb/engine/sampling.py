"""From logits to a token.

The order is llama.cpp's server's (common/common.h, common_params_sampling): bias, penalties, DRY,
the grammar, top-n-sigma, top-k, typical, top-p, min-p, XTC, (dynamic) temperature, draw. As there,
mirostat replaces all of it but the bias, the grammar and a plain temperature.

llama.cpp's own samplers do the work, but on a few candidates instead of the whole vocabulary
wherever that provably gives the same token, which makes a step several times cheaper:

- bias: added to the ids it names.
- penalties, DRY: on the tokens of the history (`lmnb.engine.history`). They change no others.
- top-n-sigma needs mean and deviation of all logits: on the whole vocabulary.
- top-k: on the k best and whatever else was quicker to keep than to drop. All later samplers see
  only the k best, sorted, so the rest does not matter to them.
- min-p, if nothing before it is on: on the tokens near the best, in the vocabulary's order. Later
  samplers see only these.
- without either, all other samplers look at the whole distribution, and get it. Only typical and
  mirostat are spared tokens whose probability is zero in single precision: it would make an
  entropy, or a ratio, that is not a number.
- greedy, where nothing can remove the best token: the best.

So with the same seed our choice is the choice of the chain over the whole vocabulary, except among
equal logits, whose order llama.cpp's sorting does not define.

Every sequence has random generators of its own, seeded once. What else is in the batch has no part
in the draw. It can have one in the logits, by rounding: the same tokens computed in a batch of
another shape give logits that differ in their last bits, and where two tokens are that close, the
same seed can take the other one. Alone, or in batches of the same shapes, a seed repeats bit for bit.
"""

from __future__ import annotations

import ctypes
import math
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmnb.engine.constraint import Constraint, Row
from lmnb.engine.history import History
from lmnb.engine.model import Model
from lmnb.engine.native import L
from lmnb.engine.options import Sampling
from lmnb.engine.sampling_options import check
from lmnb.errors import InvalidRequest, NumericError

Ids = NDArray[np.int64]

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_MAX_SEED = 0xFFFFFFFF  # llama.cpp reads this value as "random"
_NEAR = np.float32(8.0)  # within it there are often 40 tokens, and still few
_GRID = 128  # lines of the grid in which the best logits are looked for
_UNDERFLOW = 87.0  # exp(-87) is about the smallest normal number in single precision
_ALMOST_ZERO = 1e-6  # logits divided by less could overflow
_MIROSTAT_CANDIDATES = 100  # llama.cpp's server's m


class Candidates:
    """A reusable llama_token_data_array. One per engine: steps sample their rows in turn."""

    def __init__(self, n_vocab: int) -> None:
        self._data = np.empty(n_vocab, _CANDIDATE)
        self._ids, self._logits = self._data["id"], self._data["logit"]
        self._everything = np.arange(n_vocab, dtype=np.int32)
        self._pointer = self._data.ctypes.data_as(ctypes.POINTER(L.llama_token_data))
        self._array = L.llama_token_data_array(data=self._pointer)
        self._reference = ctypes.byref(self._array)

    def adjust(self, chain: object, row: Row, ids: Ids | None = None) -> None:
        """Run samplers that only change logits over these tokens (None: all); `row` is changed."""
        size = self._fill(row, ids)
        L.llama_sampler_apply(chain, self._reference)
        row[slice(None) if ids is None else ids] = self._logits[:size]

    def draw(self, chain: object, row: Row, ids: Ids | None = None) -> int | None:
        """Run a sampler chain over these tokens (None: all).

        Returns the token it selects; None if its probability became one that is not a number.
        """
        self._fill(row, ids)
        L.llama_sampler_apply(chain, self._reference)
        # Through the array: XTC moves its pointer.
        selected = self._array.data[self._array.selected]
        return None if math.isnan(selected.p) else int(selected.id)

    def _fill(self, row: Row, ids: Ids | None) -> int:
        size = len(row) if ids is None else len(ids)
        self._ids[:size] = self._everything if ids is None else ids
        self._logits[:size] = row if ids is None else row[ids]
        array = self._array
        array.data, array.size, array.selected, array.sorted = self._pointer, size, -1, False
        return size


class Sampler:
    """The sampling state of one sequence: random generators and history.

    Raises
    ------
    InvalidRequest
        An option is out of its range.
    """

    def __init__(self, options: Sampling, model: Model, prompt: NDArray[np.int32]) -> None:
        check(options, model.n_vocab)
        self.options = options
        self._suppressed = model.suppressed
        self._bias_ids = np.fromiter(options.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(options.logit_bias.values(), np.float32)
        plain = not options.mirostat
        self._history = (
            History(options, model, prompt) if plain and History.matters(options) else None
        )
        # XTC throws its dice for two tokens and more, the dynamic temperature counts them.
        self._counts = options.xtc_probability > 0 or options.dynatemp_range > 0
        self.greedy = _is_greedy(options)
        self._chain = None if self.greedy else _chain(options, model)
        sigma = plain and not self.greedy and options.top_n_sigma > 0
        self._sigma = L.llama_sampler_init_top_n_sigma(options.top_n_sigma) if sigma else None

    def close(self) -> None:
        """Free the native samplers."""
        for sampler in (self._chain, self._sigma):
            if sampler is not None:
                L.llama_sampler_free(sampler)
        if self._history is not None:
            self._history.close()
        self._chain = self._sigma = self._history = None

    @property
    def rewrites(self) -> bool:
        """Whether `sample` changes the row even without a grammar."""
        return bool(
            len(self._bias)
            or len(self._suppressed)
            or self._history is not None
            or self._sigma is not None
        )

    def sample(self, row: Row, candidates: Candidates, constraint: Constraint | None = None) -> int:
        """The next token. `row`, (vocabulary,), is changed by biases, penalties and the grammar.

        Raises
        ------
        NumericError
            The logits are not numbers.
        InvalidRequest
            The biases and the grammar together forbid every token.
        """
        if len(self._bias):
            row[self._bias_ids] += self._bias
        if len(self._suppressed):
            row[self._suppressed] = -np.inf
        if self._history is not None:
            self._history.apply(row, candidates)
        if constraint is not None:
            constraint.mask(row)
        if self.greedy:
            top = int(row.argmax())  # finds a NaN first
            self._check(float(row[top]), constraint)
            return top
        columns = peaks(row)
        highest = float(columns[-1])  # NaN if there is one
        self._check(highest, constraint)
        if self._sigma is not None:
            candidates.adjust(self._sigma, row)
        drawn = candidates.draw(self._chain, row, self._candidates(row, columns, highest))
        # A dynamic temperature can come so close to zero that the logits overflow.
        return int(row.argmax()) if drawn is None else drawn

    def accept(self, token: int) -> None:
        """Take note of a token for the penalties."""
        if self._history is not None:
            self._history.accept(token)

    def _candidates(self, row: Row, columns: Row, highest: float) -> Ids | None:
        """Tokens that can still be drawn; None for all. Why that is exact: see the module."""
        options = self.options
        if options.mirostat:
            return np.flatnonzero(row >= highest - _UNDERFLOW * options.temperature)
        if 0 < options.top_k < len(row):
            ids = best(row, columns, options.top_k)
            if options.typical_p < 1:
                return ids[row[ids] >= highest - _UNDERFLOW]
            if len(ids) < options.top_k and self._counts:
                forbidden = np.flatnonzero(row == -np.inf)[: options.top_k - len(ids)]
                ids = np.concatenate([ids, forbidden])
            return ids
        if options.typical_p < 1:
            return np.flatnonzero(row >= highest - _UNDERFLOW)
        if options.min_p > 0 and options.top_p >= 1 and not options.top_k:
            # llama.cpp's threshold is rounded otherwise, so a little more is kept for it.
            slack = 1e-3 + 1e-6 * abs(highest)
            return np.flatnonzero(row >= highest + math.log(options.min_p) - slack)
        return None

    def _check(self, highest: float, constraint: Constraint | None) -> None:
        if not math.isfinite(highest):
            raise self._no_choice(highest, constraint)

    def _no_choice(self, highest: float, constraint: Constraint | None) -> Exception:
        if highest == -math.inf and len(self._bias):
            allowed = " that the output format allows here" if constraint is not None else ""
            return InvalidRequest(f"logit_bias forbids every token{allowed}.", param="logit_bias")
        if highest == -math.inf and constraint is not None:
            return InvalidRequest("The output format allows no token here.")
        return NumericError(
            "The model computed values that are not numbers.",
            hint="Load it with flash_attention off or with f16 cache types.",
        )


def peaks(row: Row) -> Row:
    """The highest logit of each column of `row`, laid out as a grid, in ascending order; NaN is last.

    One look at a whole row, which is what costs the time, tells both the highest logit of all and
    where about the best ones begin (`best`). What is left over makes columns of one.
    """
    width = len(row) // _GRID
    grid = row[: _GRID * width].reshape(_GRID, width)
    rest = row[_GRID * width :]
    columns: Row = grid.max(axis=0)
    if len(rest):
        columns = np.concatenate([columns, rest])
    columns.sort()
    return columns


def best(row: Row, columns: Row, count: int) -> Ids:
    """At least the ids of the `count` highest logits (fewer, if the others are forbidden).

    Among equal logits at the border any may be meant. `columns` are the `peaks` of `row`.
    """
    if count >= len(row):
        return np.arange(len(row))
    border = _border(columns, count)
    if border is not None:
        return (row >= border).nonzero()[0]
    highest = columns[-1]
    near: Ids = np.flatnonzero(row >= highest - _NEAR)
    if len(near) < count:
        near = np.flatnonzero(row >= highest - 2 * _NEAR)
    if len(near) < count:  # often so where a grammar leaves few
        near = np.flatnonzero(row > -np.inf)
    if len(near) > 8 * count:
        logits = row[near]
        near = near[logits >= np.partition(logits, len(near) - count)[len(near) - count]]
    return near


def _border(columns: Row, count: int) -> float | None:
    """A logit that at least `count` reach, and few more; None where none is found quickly.

    As many columns as are looked for have a highest logit of so much or more.
    """
    width = len(columns)
    if width < 4 * count:
        return None
    border, beyond = float(columns[width - count]), float(columns[width - 2 * count])
    # The columns at the border itself may be many: those a grammar forbids, or all of them equal.
    return None if border in {-math.inf, beyond} else border


def _is_greedy(options: Sampling) -> bool:
    """Whether the best token is always taken.

    A top-k of one leaves no other. At temperature zero the best of those that are left is taken;
    only typical and XTC can drop the best, and a dynamic temperature is not zero.
    """
    if options.mirostat:
        return options.temperature < _ALMOST_ZERO
    if options.top_k == 1:
        return True
    return (
        options.temperature < _ALMOST_ZERO
        and options.typical_p >= 1
        and options.dynatemp_range <= 0
        and (options.xtc_probability <= 0 or options.xtc_threshold > 0.5)
    )


def _chain(options: Sampling, model: Model) -> Any:
    """The samplers from top-k on. The last one draws."""
    params = L.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = L.llama_sampler_chain_init(params)
    seed = random.getrandbits(32) if options.seed is None else options.seed
    for sampler in _samplers(options, model, seed % _MAX_SEED):
        L.llama_sampler_chain_add(chain, sampler)
    return chain


def _samplers(options: Sampling, model: Model, seed: int) -> list[Any]:
    temperature = options.temperature if options.temperature >= _ALMOST_ZERO else 0.0
    tau, eta = options.mirostat_tau, options.mirostat_eta
    if options.mirostat == 1:
        m = _MIROSTAT_CANDIDATES
        draw = L.llama_sampler_init_mirostat(model.n_vocab, seed, tau, eta, m)
        return [L.llama_sampler_init_temp(temperature), draw]
    if options.mirostat == 2:
        draw = L.llama_sampler_init_mirostat_v2(seed, tau, eta)
        return [L.llama_sampler_init_temp(temperature), draw]
    samplers = []
    if options.top_k > 0:
        samplers.append(L.llama_sampler_init_top_k(options.top_k))
    if options.typical_p < 1:
        samplers.append(L.llama_sampler_init_typical(options.typical_p, 0))
    if options.top_p < 1:
        samplers.append(L.llama_sampler_init_top_p(options.top_p, 0))
    if options.min_p > 0:
        samplers.append(L.llama_sampler_init_min_p(options.min_p, 0))
    if options.xtc_probability > 0:
        xtc = (options.xtc_probability, options.xtc_threshold)
        samplers.append(L.llama_sampler_init_xtc(*xtc, 0, seed))
    dynamic = (options.dynatemp_range, options.dynatemp_exponent)
    samplers.append(L.llama_sampler_init_temp_ext(temperature, *dynamic))
    samplers.append(L.llama_sampler_init_dist(seed))
    return samplers
