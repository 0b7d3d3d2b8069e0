"""Speculation on the real model: answers stay what they are, and take fewer passes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_driver import GREEDY, Engine
from numpy.typing import NDArray

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.context import MAX_DRAFTS
from lmnb.engine.draft import Cost, Lookup, Odds, Worth
from lmnb.engine.draft_model import check_vocabulary
from lmnb.engine.options import Sampling
from lmnb.engine.protocol import End
from lmnb.engine.sequence import Sequence
from lmnb.errors import InvalidRequest

SMALL = {"context_length": 512, "parallel": 3, "eval_batch_size": 128}
ROUND = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, " * 5
"""A text that goes round: the model goes on with it, and what it says has been said before."""


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


@pytest.fixture(scope="module")
def plain(chat_model_path: Path) -> Iterator[Engine]:
    engine = Engine(chat_model_path, LoadConfig(draft_tokens=0, **SMALL))  # type: ignore[arg-type]
    yield engine
    engine.generator.close()


@pytest.fixture(scope="module")
def lookups(chat_model_path: Path) -> Iterator[Engine]:
    """Drafts of four tokens whenever the text has a guess about how it goes on."""
    engine = Engine(chat_model_path, LoadConfig(draft_tokens=4, **SMALL))  # type: ignore[arg-type]
    yield engine
    engine.generator.close()


@pytest.fixture(scope="module")
def assisted(chat_model_path: Path) -> Iterator[Engine]:
    """The model drafts for itself."""
    config = LoadConfig(draft_tokens=4, draft_model=str(chat_model_path), **SMALL)  # type: ignore[arg-type]
    engine = Engine(chat_model_path, config)
    yield engine
    engine.generator.close()


@pytest.fixture(autouse=True)
def rest(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"plain", "lookups", "assisted"} & set(request.fixturenames):
        request.getfixturevalue(name).check_idle()


def steps(engine: Engine, text: str, **options: object) -> tuple[str, End, int]:
    """An answer, its end, and the steps it took."""
    request = engine.submit(text, **options)  # type: ignore[arg-type]
    count = 0
    while engine.generator.busy:
        engine.step()
        engine.check_books()
        count += 1
    return engine.text[request], engine.ends[request], count


def test_prompt_lookup_spares_passes_and_changes_nothing(plain: Engine, lookups: Engine) -> None:
    wanted, end, without = steps(plain, ROUND, max_tokens=30)
    assert (end.drafted_tokens, end.accepted_tokens) == (0, 0)
    found, end, drafted = steps(lookups, ROUND, max_tokens=30)
    assert found == wanted
    assert end.output_tokens == 30
    assert end.accepted_tokens >= 16
    assert drafted == without - end.accepted_tokens


def exact(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that depend on the last two tokens only, whatever the shape of the batch.

    A real model's differ by a little from shape to shape, which can tip a draw.
    """
    answer = engine.generator._answer

    def with_exact_logits(sequence: Sequence, rows: NDArray[np.float32]) -> None:
        known = [*sequence.tokens[-2:].tolist(), *sequence.drafts]
        for n, row in enumerate(rows):
            row[:] = -100
            row[1000:1008] = np.random.default_rng(known[n : n + 2]).normal(0, 2, 8)
        answer(sequence, rows)

    monkeypatch.setattr(engine.generator, "_answer", with_exact_logits)


def test_the_same_seed_draws_the_same_with_drafts(
    plain: Engine, lookups: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact(plain, monkeypatch)
    exact(lookups, monkeypatch)
    accepted = rejected = 0
    for seed in range(8):
        sampling = Sampling(seed=seed, temperature=0.7, presence_penalty=0.3)
        wanted, _, _ = steps(plain, "Hello", max_tokens=40, sampling=sampling)
        found, end, _ = steps(lookups, "Hello", max_tokens=40, sampling=sampling)
        assert found == wanted
        accepted += end.accepted_tokens
        rejected += end.drafted_tokens - end.accepted_tokens
    assert accepted > 10
    assert rejected > 10


def test_a_text_that_never_repeats_is_not_drafted(lookups: Engine) -> None:
    _, end, _ = steps(lookups, "The capital of France is", max_tokens=4)
    assert end.drafted_tokens == 0


def test_a_draft_model_spares_passes_and_changes_nothing(plain: Engine, assisted: Engine) -> None:
    text = "The quick brown fox jumps over the lazy dog. Once upon a time"
    wanted, _, without = steps(plain, text, max_tokens=20)
    found, end, drafted = steps(assisted, text, max_tokens=20)
    assert found == wanted
    assert end.accepted_tokens >= 4
    assert drafted == without - end.accepted_tokens


def test_a_draft_model_that_is_wrong_changes_nothing(
    plain: Engine, assisted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmnb.engine.draft_model import DraftModel

    draft = DraftModel.draft

    def lie(self: DraftModel, *arguments: object, **options: object) -> list[list[int]]:
        right = draft(self, *arguments, **options)  # type: ignore[arg-type]
        return [[*guess[:1], *(token + 1 for token in guess[1:])] for guess in right]

    monkeypatch.setattr(DraftModel, "draft", lie)
    text = "Count with me: 1, 2, 3, 4,"
    wanted, _, _ = steps(plain, text, max_tokens=20)
    found, end, _ = steps(assisted, text, max_tokens=20)
    assert found == wanted
    assert 0 < end.accepted_tokens < end.drafted_tokens


def test_a_request_may_go_without_the_draft_model(assisted: Engine) -> None:
    request = assisted.submit("The capital of France is", max_tokens=4, draft_model="")
    assisted.run()
    assert assisted.ends[request].drafted_tokens == 0


def test_a_request_may_bring_a_draft_model(lookups: Engine, chat_model_path: Path) -> None:
    request = lookups.submit("Count: 1, 2, 3,", max_tokens=12, draft_model=str(chat_model_path))
    lookups.run()
    assert lookups.ends[request].accepted_tokens > 4
    assert lookups.text[request].startswith(" 4, 5")


def test_answers_with_a_draft_model_do_not_mix(assisted: Engine) -> None:
    starts = [10 * n for n in range(1, 7)]
    requests = [
        assisted.submit(f"{n + 1}, {n + 2}, {n + 3}, {n + 4}, {n + 5},", max_tokens=9)
        for n in starts
    ]
    assisted.run()
    for start, request in zip(starts, requests, strict=True):
        assert assisted.text[request].startswith(f" {start + 6}, {start + 7},")


def test_a_draft_model_of_another_vocabulary_is_refused(
    plain: Engine, lookups: Engine, embedding_model_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="cannot draft") as refused:
        lookups.submit("Hello", draft_model=str(embedding_model_path))
    assert refused.value.param == "draft_model"
    model = plain.generator.model
    pieces = model.pieces
    try:
        model.pieces = [*pieces[:99], b"other", *pieces[100:]]
        with pytest.raises(InvalidRequest, match="Token 99 is"):
            check_vocabulary(model, lookups.generator.model)
    finally:
        model.pieces = pieces


def test_a_draft_model_at_work_is_replaced_only_when_nobody_uses_it(
    assisted: Engine, chat_model_path: Path, tmp_path: Path
) -> None:
    (other := tmp_path / "other.gguf").symlink_to(chat_model_path)
    first = assisted.submit(ROUND, max_tokens=9)
    with pytest.raises(InvalidRequest, match="at work"):
        assisted.submit(ROUND, draft_model=str(other))
    assisted.run()
    second = assisted.submit(ROUND, max_tokens=9, draft_model=str(other))
    assisted.run()
    again = assisted.submit(ROUND, max_tokens=9)  # with the default one, loaded anew
    assisted.run()
    assert assisted.text[first] == assisted.text[second] == assisted.text[again]
    assert min(assisted.ends[n].drafted_tokens for n in (first, second, again)) > 0


def test_drafting_can_be_off(plain: Engine, chat_model_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot verify drafts"):
        plain.submit("Hello", draft_model=str(chat_model_path))


@pytest.mark.parametrize("count", [-1, MAX_DRAFTS + 1])
def test_draft_tokens_out_of_range(chat_model_path: Path, count: int) -> None:
    with pytest.raises(InvalidRequest, match="draft_tokens"):
        Engine(chat_model_path, LoadConfig(draft_tokens=count, **SMALL))  # type: ignore[arg-type]


# --- whether it pays ------------------------------------------------------------------------


def fitted(base: float, row: float) -> Cost:
    cost = Cost()
    dice = random.Random(1)
    for _ in range(200):
        rows = dice.choice([1, 1, 1, 3, 5])
        cost.observe(rows, (base + row * rows) * dice.uniform(0.95, 1.05))
    return cost


def drafted(cost: Cost, chance: float, *, answers: int = 1) -> int:
    """How many tokens of a draft pay that are each right with this probability."""
    return Worth(cost, answers, answers).take([chance**n for n in range(1, 101)])


def test_the_cost_of_a_row_is_learnt() -> None:
    cost = fitted(10.0, 5.0)
    assert cost.seconds(1) == pytest.approx(15, rel=0.1)
    assert cost.seconds(6) == pytest.approx(40, rel=0.1)
    for n in range(300):  # all alike: what was learnt stays, and follows the machine
        cost.observe(1, 15.0 if n < 20 else 30.0)
    assert cost.seconds(1) == pytest.approx(30, rel=0.01)
    assert cost.seconds(6) / cost.seconds(1) == pytest.approx(40 / 15, rel=0.15)


def test_a_step_in_the_cost_is_gone_over_or_avoided() -> None:
    """A CPU that multiplies by blocks of rows: two cost nearly two passes, four little more."""
    cost, times = Cost(), {1: 10.0, 2: 19.0, 3: 20.0, 4: 21.0, 5: 22.0}
    for n in range(100):
        rows = n % 5 + 1
        cost.observe(rows, times[rows])
    for rows, seconds in times.items():
        assert cost.seconds(rows) == pytest.approx(seconds, rel=0.05)
    assert drafted(cost, 0.95) >= 4
    assert drafted(cost, 0.5) == 0


def test_what_did_not_pay_is_tried_again_some_day() -> None:
    cost = Cost()
    for _ in range(20):
        cost.observe(1, 10.0)
        cost.observe(2, 30.0)
    assert drafted(cost, 0.7) == 0
    before = cost.seconds(2)
    for _ in range(2000):
        cost.observe(1, 10.0)
    assert cost.seconds(2) < before


def test_drafts_are_as_long_as_pays() -> None:
    memory_bound, compute_bound = fitted(10.0, 0.1), fitted(1.0, 10.0)
    assert drafted(memory_bound, 0.9) > 10
    assert drafted(memory_bound, 0.3) >= 2
    assert drafted(compute_bound, 0.8) == 0
    balanced = fitted(10.0, 10.0)
    assert drafted(balanced, 0.4) == 0
    assert drafted(balanced, 0.95) >= 3
    # The more answers share a pass, the less a draft has to win.
    assert drafted(balanced, 0.8) > drafted(balanced, 0.8, answers=8) == 0


def test_nothing_is_looked_up_in_a_full_batch() -> None:
    cost = fitted(10.0, 10.0)
    assert Worth(cost, 1, 1).could_pay(0.95)
    assert not Worth(cost, 16, 16).could_pay(0.95)


def test_odds_follow_what_happens() -> None:
    odds = Odds()
    for _ in range(200):
        odds.note(3, right=True)
        odds.note(0, right=False)
    assert odds.chance(2) > 0.95
    assert odds.chance(0) < 0.05


def test_lookups_repeat_and_stop_at_images(plain: Engine) -> None:
    plain.submit(tokens=(9, 1, 2, 3, 4, 5, 1, 2), max_tokens=9)
    (sequence,) = plain.generator.scheduler.waiting
    lookup = Lookup(sequence, Odds())
    sequence.append(3)
    assert lookup.update()
    assert lookup.guess(7) == [4, 5, 1, 2, 3, 4, 5]
    assert lookup.guess(1) == [4]
    sequence.tokens[5] = -7  # a piece of an image
    assert lookup.guess(7) == [4]
    plain.generator.abort(sequence.id)
    plain.run()


def test_an_unhelpful_draft_model_falls_silent(chat_model_path: Path) -> None:
    """A model that is as slow as the one it drafts for never pays."""
    config = LoadConfig(draft_model=str(chat_model_path), **SMALL)  # type: ignore[arg-type]
    engine = Engine(chat_model_path, config)
    try:
        _, end, _ = steps(engine, "Once upon a time", max_tokens=100, sampling=GREEDY)
        assert end.drafted_tokens < 40
    finally:
        engine.generator.close()


def test_where_text_stood_before(plain: Engine) -> None:
    plain.submit(tokens=(1, 2, 3, 4, 9, 1, 2, 3, 4, 1, 2, 3), max_tokens=0)
    (sequence,) = plain.generator.scheduler.waiting
    assert sequence.find_earlier(3, 100) == 8
    assert sequence.find_earlier(3, 5) == 0
    plain.submit(tokens=(256, 0, 1, 0, 256), max_tokens=0)
    (_, between) = plain.generator.scheduler.waiting
    assert between.find_earlier(1, 100) == 1  # whole tokens only, though the bytes occur elsewhere
    plain.submit(tokens=(7, 7), max_tokens=0)
    (_, _, short) = plain.generator.scheduler.waiting
    assert short.find_earlier(3, 100) == 0
    plain.run()


def test_drafts_end_with_the_context(chat_model_path: Path) -> None:
    """The draft model's cells are as many as the model's: a guess beyond them would have no room."""
    config = LoadConfig(
        context_length=256, parallel=1, draft_model=str(chat_model_path), draft_tokens=8
    )
    engine = Engine(chat_model_path, config)
    try:
        never_end = Sampling(temperature=0, logit_bias={0: -100.0, 2: -100.0})
        request = engine.submit("one two three " * 20, max_tokens=None, sampling=never_end)
        engine.run()
        end = engine.ends[request]
        assert (end.reason, end.prompt_tokens + end.output_tokens) == ("context", 256)
        assert end.drafted_tokens > 50
    finally:
        engine.generator.close()
