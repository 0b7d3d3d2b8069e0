"""Our choice of a token is that of llama.cpp's chain over the whole vocabulary, seed for seed."""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.constraint import Constraint, Row
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.native import L
from lmnb.engine.options import Sampling
from lmnb.engine.sampling import Candidates, Sampler
from lmnb.engine.sampling_options import RANGES
from lmnb.errors import InvalidRequest, NumericError

STEPS = 12
PLAIN = Sampling(top_k=0, top_p=1, min_p=0, temperature=1)
"""Nothing but the draw."""

ALONE: dict[str, dict[str, Any]] = {
    "draw": {},
    "temperature": {"temperature": 0.6},
    "greedy": {"temperature": 0},
    "top_k": {"top_k": 40},
    "top_k 1": {"top_k": 1},
    "large top_k": {"top_k": 1000},
    "top_k of all": {"top_k": 10**9},
    "top_p": {"top_p": 0.9},
    "no top_p": {"top_p": 0.0},
    "min_p": {"min_p": 0.05},
    "high min_p": {"min_p": 1.0},
    "typical": {"typical_p": 0.5},
    "typical, cold": {"typical_p": 0.3, "temperature": 0},
    "top_n_sigma": {"top_n_sigma": 1.5},
    "xtc": {"xtc_probability": 0.7, "xtc_threshold": 0.01},
    "xtc after top_k": {"xtc_probability": 0.7, "xtc_threshold": 0.02, "top_k": 20},
    "xtc, cold": {"xtc_probability": 0.7, "xtc_threshold": 0.02, "top_k": 20, "temperature": 0},
    "dynamic": {"dynatemp_range": 0.9},
    "dynamic after min_p": {"dynatemp_range": 0.5, "dynatemp_exponent": 2, "min_p": 0.01},
    "dynamic, cold": {"dynatemp_range": 0.9, "temperature": 0, "top_k": 30},
    "repeat": {"repeat_penalty": 1.3},
    "short repeat": {"repeat_penalty": 1.3, "repeat_last_n": 3},
    "all repeat": {"repeat_penalty": 1.3, "repeat_last_n": -1},
    "frequency": {"frequency_penalty": 0.7},
    "presence": {"presence_penalty": -1.5},
    "dry": {"dry_multiplier": 2.0},
    "eager dry": {"dry_multiplier": 2.0, "dry_allowed_length": 0, "dry_penalty_last_n": -1},
    "mirostat 1": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
    "cold mirostat": {"mirostat": 2, "mirostat_tau": 2.0, "temperature": 0.1},
    "bias": {"logit_bias": {3: 4.5, 7: -math.inf, 11: -2.0}},
    "defaults": {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8},
}


@pytest.fixture(scope="module")
def model(chat_model_path: Path) -> Iterator[Model]:
    native.init(lambda text: None)
    path = str(chat_model_path)
    model = Model.load(path, read_header(chat_model_path), LoadConfig(), on_progress=lambda _: None)
    yield model
    model.close()


def small(n_vocab: int) -> Model:
    """What a sampler needs of a model that has `n_vocab` tokens (DRY needs a real one)."""
    fake = SimpleNamespace(
        n_vocab=n_vocab, suppressed=np.empty(0, np.int64), trained_context_length=512
    )
    return cast("Model", fake)


class Whole:
    """llama.cpp's server's chain (common/sampling.cpp), over the whole vocabulary."""

    def __init__(self, options: Sampling, model: Model, prompt: list[int]) -> None:
        params = L.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = L.llama_sampler_chain_init(params)
        for sampler in self._samplers(options, model):
            L.llama_sampler_chain_add(self._chain, sampler)
        for token in prompt:
            L.llama_sampler_accept(self._chain, token)

    def _samplers(self, options: Sampling, model: Model) -> list[Any]:
        o, seed = options, options.seed
        biases = [L.llama_logit_bias(token, bias) for token, bias in o.logit_bias.items()]
        array = (L.llama_logit_bias * len(biases))(*biases)
        first = [L.llama_sampler_init_logit_bias(model.n_vocab, len(biases), array)]
        tau, eta = o.mirostat_tau, o.mirostat_eta
        if o.mirostat:
            draw = (
                L.llama_sampler_init_mirostat(model.n_vocab, seed, tau, eta, 100)
                if o.mirostat == 1
                else L.llama_sampler_init_mirostat_v2(seed, tau, eta)
            )
            return [*first, L.llama_sampler_init_temp(o.temperature), draw]
        last = 512 if o.repeat_last_n < 0 else o.repeat_last_n
        penalties = (o.repeat_penalty, o.frequency_penalty, o.presence_penalty)
        return [
            *first,
            L.llama_sampler_init_penalties(model.n_vocab, last, *penalties),
            *self._dry(o, model),
            L.llama_sampler_init_top_n_sigma(o.top_n_sigma),
            L.llama_sampler_init_top_k(o.top_k),
            L.llama_sampler_init_typical(o.typical_p, 0),
            L.llama_sampler_init_top_p(o.top_p, 0),
            L.llama_sampler_init_min_p(o.min_p, 0),
            L.llama_sampler_init_xtc(o.xtc_probability, o.xtc_threshold, 0, seed),
            L.llama_sampler_init_temp_ext(o.temperature, o.dynatemp_range, o.dynatemp_exponent),
            L.llama_sampler_init_dist(seed),
        ]

    def _dry(self, o: Sampling, model: Model) -> list[Any]:
        if not o.dry_multiplier:
            return []
        texts = [text.encode() for text in o.dry_sequence_breakers]
        array = (ctypes.c_char_p * len(texts))(*texts)
        last = 512 if o.dry_penalty_last_n < 0 else o.dry_penalty_last_n
        rest = (o.dry_multiplier, o.dry_base, o.dry_allowed_length, last)
        return [L.llama_sampler_init_dry(model.vocab, *rest, array, len(texts))]

    def sample(self, row: Row) -> int:
        data = (L.llama_token_data * len(row))()
        view = np.frombuffer(data, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        view["id"], view["logit"] = np.arange(len(row)), row
        array = L.llama_token_data_array(data=data, size=len(row), selected=-1, sorted=False)
        L.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def accept(self, token: int) -> None:
        L.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        L.llama_sampler_free(self._chain)


def compare(options: Sampling, model: Model, rows: list[Row], prompt: list[int]) -> list[int]:
    """Both choose from each of the rows; the tokens, which must have the same logits."""
    ours = Sampler(options, model, np.array(prompt, np.int32))
    whole, candidates = Whole(options, model, prompt), Candidates(model.n_vocab)
    chosen = []
    for row in rows:
        token, expected = ours.sample(row.copy(), candidates), whole.sample(row)
        assert row[token] == row[expected], (token, expected, row[token], row[expected])
        chosen.append(expected)
        for sampler in (ours, whole):
            sampler.accept(expected)
    ours.close()
    whole.close()
    return chosen


def random_rows(n_vocab: int, seed: int, count: int = STEPS) -> list[Row]:
    """Logits as models have them: a bulk and a few far above it, the same few more than once."""
    dice = np.random.default_rng(seed)
    favourites = dice.choice(n_vocab, min(n_vocab, 30), replace=False)
    rows = []
    for _ in range(count):
        row = dice.normal(0, 2, n_vocab).astype(np.float32)
        row[favourites] += dice.normal(6, 3, len(favourites)).astype(np.float32)
        rows.append(row)
    return rows


PROMPT = [5, 6, 7, 8, 5, 6, 7, 9, 5, 6, 7]


@pytest.mark.parametrize("name", ALONE)
def test_each_sampler_alone(model: Model, name: str) -> None:
    for seed in (1, 2):
        options = msgspec.structs.replace(PLAIN, seed=seed, **ALONE[name])
        compare(options, model, random_rows(model.n_vocab, seed), PROMPT)


@pytest.mark.parametrize("n_vocab", [1, 2, 7, 40, 300])
@pytest.mark.parametrize("name", [name for name in ALONE if "dry" not in name])
def test_small_vocabularies(name: str, n_vocab: int) -> None:
    native.init(lambda text: None)
    options = msgspec.structs.replace(PLAIN, seed=3, **ALONE[name])
    if options.logit_bias and n_vocab <= max(options.logit_bias):
        options = msgspec.structs.replace(options, logit_bias={0: -3.0})
    prompt = [token % n_vocab for token in PROMPT]
    compare(options, small(n_vocab), random_rows(n_vocab, 4), prompt)


@pytest.mark.parametrize("seed", range(25))
def test_random_combinations(model: Model, seed: int) -> None:
    dice = random.Random(seed)
    chosen: dict[str, Any] = {}
    for name in dice.sample([name for name in ALONE if "mirostat" not in name], 5):
        chosen |= ALONE[name]
    if "typical_p" in chosen:  # whose way with forbidden tokens is a test of its own
        chosen |= {"top_n_sigma": -1.0, "logit_bias": {7: -20.0}}
    options = msgspec.structs.replace(PLAIN, seed=seed, **chosen)
    rows = random_rows(model.n_vocab, seed) * 2
    prompt = [dice.randrange(20) for _ in range(dice.randrange(1, 200))]
    compare(options, model, rows, prompt)


def hostile_rows(n_vocab: int) -> dict[str, Row]:
    dice = np.random.default_rng(0)
    steps = dice.integers(0, 5, n_vocab).astype(np.float32)
    masked = np.full(n_vocab, -np.inf, np.float32)
    masked[[3, 50, 60]] = [1.0, 2.0, 1.5]
    single = np.full(n_vocab, -np.inf, np.float32)
    single[9] = -5.0
    huge = dice.normal(0, 1e30, n_vocab).astype(np.float32)
    peak = np.zeros(n_vocab, np.float32)
    peak[17] = 200.0
    return {
        "ties": steps,
        "equal": np.full(n_vocab, 3.0, np.float32),
        "masked": masked,
        "single": single,
        "huge": huge,
        "peak": peak,
        "negative": steps - 1e4,
    }


# Where a probability is zero, llama.cpp's typical and mirostat 1 compute with what is not a number.
_ROBUST = [
    name for name in ALONE if "typical" not in name and "dry" not in name and name != "mirostat 1"
]


@pytest.mark.parametrize("kind", hostile_rows(100))
@pytest.mark.parametrize("name", _ROBUST)
def test_hostile_logits(name: str, kind: str) -> None:
    native.init(lambda text: None)
    options = msgspec.structs.replace(PLAIN, seed=7, **ALONE[name])
    compare(options, small(3000), [hostile_rows(3000)[kind]] * 6, PROMPT)


@pytest.mark.parametrize("name", ["typical", "typical, cold", "mirostat 1"])
def test_forbidden_tokens_are_no_part_of_the_distribution(model: Model, name: str) -> None:
    """With forbidden tokens the choice is that among the others alone."""
    options = msgspec.structs.replace(PLAIN, seed=7, **ALONE[name])
    allowed = random_rows(200, 5)
    expected = [
        row[token]
        for row, token in zip(allowed, compare(options, small(200), allowed, [1]), strict=True)
    ]
    ours, candidates = Sampler(options, model, np.array([1], np.int32)), Candidates(model.n_vocab)
    for row, value in zip(allowed, expected, strict=True):
        wide = np.full(model.n_vocab, -np.inf, np.float32)
        wide[1000:1200] = row
        if name != "mirostat 1":  # which knows how large the vocabulary is
            assert wide[ours.sample(wide, candidates)] == value
        else:
            assert wide[ours.sample(wide, candidates)] > -np.inf
    ours.close()


def test_draws_follow_the_distribution() -> None:
    native.init(lambda text: None)
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    sampler = Sampler(msgspec.structs.replace(PLAIN, seed=1), small(4), np.array([0], np.int32))
    candidates = Candidates(4)
    drawn = [sampler.sample(np.log(shares).astype(np.float32), candidates) for _ in range(4000)]
    found = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(found, shares, atol=4 * np.sqrt(0.25 / 4000))
    sampler.close()


def test_sequences_do_not_share_their_dice() -> None:
    """What another sequence draws in between changes nothing."""
    native.init(lambda text: None)
    model, candidates, rows = small(300), Candidates(300), random_rows(300, 1, 40)
    options = Sampling(seed=11, xtc_probability=0.5, xtc_threshold=0.05)

    def draws(others: int) -> list[int]:
        one, *rest = (
            Sampler(msgspec.structs.replace(options, seed=11 + n), model, np.array([1], np.int32))
            for n in range(1 + others)
        )
        found = []
        for row in rows:
            for other in rest:
                other.sample(row.copy(), candidates)
            found.append(one.sample(row.copy(), candidates))
        for sampler in (one, *rest):
            sampler.close()
        return found

    alone = draws(0)
    assert draws(3) == alone
    assert len(set(alone)) > 3


def test_a_history_forgets_what_left_its_window() -> None:
    native.init(lambda text: None)
    model, candidates = small(50), Candidates(50)
    options = Sampling(temperature=0, presence_penalty=5.0, repeat_last_n=2)
    sampler = Sampler(options, model, np.array([1, 2, 3], np.int32))

    def penalised() -> set[int]:
        row = np.zeros(50, np.float32)
        sampler.sample(row, candidates)
        return set(np.flatnonzero(row).tolist())

    assert penalised() == {2, 3}
    sampler.accept(3)
    assert penalised() == {3}
    sampler.accept(9)
    assert penalised() == {3, 9}
    sampler.close()


class Nothing:
    """A grammar that has no way on."""

    begun = True
    finished = False

    def mask(self, row: Row) -> None:
        row[:] = -np.inf

    def accept(self, token: int) -> None: ...

    def forced(self) -> list[int]:
        return []

    def allowed(self, tokens: list[int]) -> int:
        return 0 * len(tokens)


@pytest.mark.parametrize("options", [Sampling(), Sampling(temperature=0), Sampling(mirostat=2)])
def test_a_row_without_a_choice_is_an_error(options: Sampling) -> None:
    native.init(lambda text: None)
    model, candidates, prompt = small(20), Candidates(20), np.array([1], np.int32)
    sampler = Sampler(options, model, prompt)
    grammar: Constraint = Nothing()
    with pytest.raises(InvalidRequest, match="output format allows no token"):
        sampler.sample(np.zeros(20, np.float32), candidates, grammar)
    for bad in (np.nan, np.inf):
        row = np.zeros(20, np.float32)
        row[4] = bad
        with pytest.raises(NumericError):
            sampler.sample(row, candidates)
    with pytest.raises(NumericError):
        sampler.sample(np.full(20, -np.inf, np.float32), candidates)
    sampler.close()
    forbidding = msgspec.structs.replace(options, logit_bias=dict.fromkeys(range(20), -math.inf))
    sampler = Sampler(forbidding, model, prompt)
    with pytest.raises(InvalidRequest, match="logit_bias forbids every token") as caught:
        sampler.sample(np.zeros(20, np.float32), candidates)
    assert caught.value.param == "logit_bias"
    sampler.close()


def test_a_dynamic_temperature_next_to_zero_takes_the_best() -> None:
    """llama.cpp would divide by a denormal number, and draw by probabilities that are none."""
    native.init(lambda text: None)
    row = np.array([30.0, 115.0, 115.0 - 85.0, 2.0], np.float32)
    options = Sampling(temperature=1, dynatemp_range=1, top_k=0, top_p=1, min_p=0, seed=1)
    candidates = Candidates(4)
    for exponent in np.linspace(1.0, 1.3, 60):
        near = msgspec.structs.replace(options, dynatemp_exponent=float(exponent))
        sampler = Sampler(near, small(4), np.array([0], np.int32))
        assert sampler.sample(row.copy(), candidates) == 1
        sampler.close()


@pytest.mark.parametrize("name", RANGES)
def test_values_out_of_range_name_the_option_and_its_range(name: str) -> None:
    low, high = RANGES[name]
    for value in (low - 1, high + 1, math.nan, math.inf):
        options = msgspec.structs.replace(Sampling(), **{name: value})
        with pytest.raises(InvalidRequest, match=f"{name} must be .*{low:g}") as caught:
            Sampler(options, small(10), np.array([0], np.int32))
        assert caught.value.param == name


@pytest.mark.parametrize(
    "breakers", [("",), ("a\0b",), ("x" * 41,), ("é" * 21,), tuple("abcdefghijklmnopq")]
)
def test_breakers_that_llama_cpp_would_not_take(breakers: tuple[str, ...]) -> None:
    options = Sampling(dry_multiplier=1, dry_sequence_breakers=breakers)
    with pytest.raises(InvalidRequest) as caught:
        Sampler(options, small(10), np.array([0], np.int32))
    assert caught.value.param == "dry_sequence_breakers"


@pytest.mark.parametrize("bias", [{-1: 1.0}, {10: 1.0}, {1: math.nan}, {1: math.inf}, {1: 1e31}])
def test_biases_out_of_range(bias: dict[int, float]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Sampler(Sampling(logit_bias=bias), small(10), np.array([0], np.int32))
    assert caught.value.param == "logit_bias"


def test_windows_longer_than_any_context_are_cut(model: Model) -> None:
    """llama.cpp allocates a window at once; the whole number would end the process."""
    endless = 2**31 - 1
    options = Sampling(
        dry_multiplier=1.0,
        dry_penalty_last_n=endless,
        repeat_penalty=1.1,
        repeat_last_n=endless,
        seed=1,
    )
    sampler = Sampler(options, model, np.array(PROMPT, np.int32))
    (row,) = random_rows(model.n_vocab, 0, 1)
    assert 0 <= sampler.sample(row, Candidates(model.n_vocab)) < model.n_vocab
    sampler.close()


def test_dry_samplers_are_prepared_once_and_not_for_ever(model: Model) -> None:
    prompt = np.array(PROMPT, np.int32)
    for n in range(12):
        options = Sampling(dry_multiplier=1 + n, dry_sequence_breakers=("\n", "ab"))
        for _ in range(2):
            Sampler(options, model, prompt).close()
        assert len(model.prepared_samplers) <= 8
