"""The engine loop on the real model, in this process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from engine_driver import Engine

from lmnb.engine import native
from lmnb.engine.adapters import PLAIN
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import Sampling, Segment
from lmnb.engine.protocol import Step
from lmnb.engine.slices import Slices
from lmnb.errors import ContextOverflow, InvalidRequest


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


@pytest.fixture(scope="module")
def engine(chat_model_path: Path) -> Iterator[Engine]:
    engine = Engine(
        chat_model_path, LoadConfig(context_length=512, parallel=4, eval_batch_size=128)
    )
    yield engine
    engine.generator.close()


@pytest.fixture(autouse=True)
def rest(engine: Engine) -> Iterator[None]:
    yield
    engine.check_idle()


COUNT = "Count: 1, 2, 3, 4,"


def test_it_continues_a_text(engine: Engine) -> None:
    assert engine.ask(COUNT).startswith(" 5, 6, 7")


def test_stop_string_ends_the_answer_before_it(engine: Engine) -> None:
    request = engine.submit(COUNT, max_tokens=20, stop=(" 7",))
    engine.run()
    assert engine.text[request] == " 5, 6,"
    assert (engine.ends[request].reason, engine.ends[request].stop) == ("stop_string", " 7")


def test_the_end_of_turn_ends_the_answer(engine: Engine) -> None:
    turn = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"
    request = engine.submit(turn, max_tokens=200)
    engine.run()
    assert engine.ends[request].reason == "stop"
    assert "<|im_end|>" not in engine.text[request]


def test_max_tokens(engine: Engine) -> None:
    request = engine.submit(COUNT, max_tokens=3)
    nothing = engine.submit(COUNT, max_tokens=0)
    engine.run()
    assert (engine.ends[request].reason, engine.ends[request].output_tokens) == ("length", 3)
    assert (engine.ends[nothing].reason, engine.ends[nothing].output_tokens) == ("length", 0)
    assert engine.text[nothing] == ""


def test_a_full_context_ends_the_answer(engine: Engine) -> None:
    request = engine.submit("word " * 490, max_tokens=None, sampling=Sampling(seed=1))
    engine.run()
    end = engine.ends[request]
    assert end.reason == "context"
    assert end.prompt_tokens + end.output_tokens == 512


def test_prompts_that_cannot_be(engine: Engine) -> None:
    with pytest.raises(ContextOverflow) as caught:
        engine.submit("word " * 600)
    assert (caught.value.prompt_tokens, caught.value.context_length) == (601, 512)
    with pytest.raises(InvalidRequest, match="empty"):
        engine.submit("")
    with pytest.raises(InvalidRequest, match="vocabulary"):
        engine.submit(tokens=(1, 49152))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=-1),
        Sampling(temperature=float("nan")),
        Sampling(top_p=1.5),
        Sampling(top_k=-1),
        Sampling(repeat_penalty=0),
        Sampling(logit_bias={49152: 1.0}),
    ],
)
def test_sampling_out_of_range_is_refused(engine: Engine, sampling: Sampling) -> None:
    with pytest.raises(InvalidRequest):
        engine.submit(COUNT, sampling=sampling)


def test_same_seed_same_answer(engine: Engine) -> None:
    def story(seed: int) -> str:
        return engine.ask("Once upon a time", sampling=Sampling(seed=seed), max_tokens=24)

    assert story(1) == story(1)
    assert len({story(seed) for seed in range(4)}) > 1


def test_logit_bias_forbids_and_forces(engine: Engine) -> None:
    plain = engine.ask(COUNT, max_tokens=1)
    (first,) = engine.generator.model.tokenize([Segment(plain)], add_bos=False).tolist()
    forced = engine.ask(
        COUNT, max_tokens=3, sampling=Sampling(temperature=0, logit_bias={100: 1e6})
    )
    assert forced == engine.generator.model.pieces[100].decode() * 3
    banned = Sampling(temperature=0, logit_bias={first: float("-inf")})
    assert engine.ask(COUNT, max_tokens=1, sampling=banned) != plain


def test_repeat_penalty_changes_a_repeating_text(engine: Engine) -> None:
    text = "one two one two one two one"
    assert engine.ask(text, max_tokens=1) == " two"
    penalised = Sampling(temperature=0, repeat_penalty=5.0)
    assert engine.ask(text, max_tokens=1, sampling=penalised) != " two"


def test_logprobs_are_a_distribution(engine: Engine) -> None:
    request = engine.submit(COUNT, max_tokens=4, logprobs=20, sampling=Sampling(seed=3))
    entries = []
    while engine.generator.busy:
        for reply in engine.step():
            if isinstance(reply, Step):
                entries += [entry for delta in reply.deltas for entry in delta.logprobs]
    assert "".join(entry.token for entry in entries) == engine.text[request]
    for entry in entries:
        probabilities = np.exp([value for _, _, value in entry.top])
        assert len(probabilities) == 20
        assert (np.diff(probabilities) <= 0).all()
        assert 0 < probabilities.sum() <= 1 + 1e-5
        assert entry.logprob <= entry.top[0][2]


def test_a_repeated_prompt_is_read_from_the_cache(engine: Engine) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 10
    first = engine.submit(text)
    engine.run()
    second = engine.submit(text)
    engine.run()
    assert engine.ends[first].cached_tokens == 0
    assert engine.ends[second].cached_tokens == engine.ends[first].prompt_tokens - 1
    assert engine.text[second] == engine.text[first]


def test_logits_after_reuse_are_those_of_a_fresh_prefill(engine: Engine) -> None:
    text = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is"
    fresh = _first_logprobs(engine, text)
    engine.ask("The capital of France is Paris. The capital of Italy is a city.")
    reused = _first_logprobs(engine, text)
    assert engine.ends[engine.next_id].cached_tokens > 8
    # Not bit for bit: the same rows went through the model in batches of another shape.
    assert fresh[0][0] == reused[0][0] == " Madrid"
    np.testing.assert_allclose(
        [value for _, value in fresh], [value for _, value in reused], atol=0.05
    )
    engine.generator.scheduler.cache.clear()
    assert _first_logprobs(engine, text) == fresh


def _first_logprobs(engine: Engine, text: str) -> list[tuple[str, float]]:
    engine.submit(text, max_tokens=1, logprobs=5)
    found: list[tuple[str, float]] = []
    while engine.generator.busy:
        for reply in engine.step():
            if isinstance(reply, Step):
                for delta in reply.deltas:
                    found += [(token, value) for token, _, value in delta.logprobs[0].top]
    return found


def test_requests_with_one_long_prefix_compute_it_once(engine: Engine) -> None:
    prefix = "You are a helpful assistant who answers briefly. " * 12
    requests = [engine.submit(f"{prefix}Question {n}: 1, 2, 3,") for n in range(4)]
    engine.run()
    ends = [engine.ends[request] for request in requests]
    computed = sum(end.prompt_tokens - end.cached_tokens for end in ends)
    assert computed < 1.5 * ends[0].prompt_tokens
    assert all(" 4" in engine.text[request] for request in requests)


def test_answers_do_not_mix(engine: Engine) -> None:
    starts = [10 * n for n in range(1, 9)]
    requests = [
        engine.submit(f"{n + 1}, {n + 2}, {n + 3}, {n + 4}, {n + 5},", max_tokens=6) for n in starts
    ]
    engine.run()
    for start, request in zip(starts, requests, strict=True):
        assert engine.text[request].startswith(f" {start + 6}, ")


def test_priority_goes_before_arrival(engine: Engine) -> None:
    batch = [engine.submit(f"{n} bottles of", max_tokens=30, priority=1) for n in range(8)]
    urgent = engine.submit("Hello", max_tokens=2)
    finished: list[int] = []
    while engine.generator.busy:
        for reply in engine.step():
            if isinstance(reply, Step):
                finished += [end.id for end in reply.ends]
    assert finished.index(urgent) < finished.index(batch[-1])
    assert finished.index(urgent) <= 4


def test_an_urgent_request_takes_the_slot_of_a_batch_and_gives_it_back(engine: Engine) -> None:
    prompts = [f"{n + 1}, {n + 2}, {n + 3}, {n + 4}, {n + 5}," for n in (10, 30, 50, 70)]
    alone = [engine.ask(prompt, max_tokens=30) for prompt in prompts]
    batch = [engine.submit(prompt, max_tokens=30, priority=1) for prompt in prompts]
    for _ in range(12):
        engine.step()
    assert all(engine.text[request] for request in batch)
    urgent = engine.submit("Hello", max_tokens=2)
    engine.step()
    assert len(engine.generator.scheduler.running) == 4
    assert len(engine.generator.scheduler.waiting) == 1
    engine.run()
    assert engine.ends[urgent].output_tokens == 2
    assert [engine.text[request] for request in batch] == alone
    assert [engine.ends[request].output_tokens for request in batch] == [30] * 4


def test_an_answer_moves_into_the_gap_another_has_left(chat_model_path: Path) -> None:
    engine = Engine(chat_model_path, LoadConfig(context_length=512, parallel=3))
    running = engine.generator.scheduler.running
    try:
        first, short, last = (
            engine.submit(f"{n + 1}, {n + 2}, {n + 3}, {n + 4}, {n + 5},", max_tokens=tokens)
            for n, tokens in ((10, 30), (30, 4), (50, 30))
        )
        engine.step()
        assert {s.id: s.slot for s in running} == {first: 0, short: 1, last: 2}
        while short not in engine.ends:
            engine.step()
        before = len(engine.text[last])
        engine.step()
        assert {s.id: s.slot for s in running} == {first: 0, last: 1}
        engine.run()
        assert len(engine.text[last]) > before
        assert engine.text[first].startswith(" 16, 17, 18, ")
        assert engine.text[last].startswith(" 56, 57, 58, ")
        engine.check_idle()
    finally:
        engine.generator.close()


def test_many_prompts_against_few_answers_are_read_in_larger_slices(engine: Engine) -> None:
    scheduler = engine.generator.scheduler
    scheduler._slices = Slices(flash=False)
    scheduler.observe([(Mock(computed=100, seen=0), 100)], 0.2)

    def slice_beside(answers: int, prompts: int) -> int:
        running = scheduler.running
        scheduler.running = []
        for number in range(answers + prompts):
            sequence = Mock(reading=number >= answers, missing=500, readable=500, id=number)
            sequence.computed = 0
            sequence.adapters, sequence.reason = PLAIN, None
            sequence.command.priority, sequence.command.score_prompt = 0, False
            scheduler.running.append(sequence)
        tokens = sum(count for _, count in scheduler.prefilling())
        scheduler.running = running
        return tokens

    assert slice_beside(0, 1) == engine.generator.batch_size
    assert slice_beside(1, 1) == slice_beside(4, 1) < slice_beside(1, 4)


def test_every_slot_has_room_for_a_whole_context(engine: Engine) -> None:
    """Four answers that together need four times the context all come to their end."""
    never_end = Sampling(seed=1, logit_bias={2: -1e6, 0: -1e6})
    requests = [
        engine.submit(tokens=(n, *range(100, 595)), max_tokens=None, sampling=never_end)
        for n in range(50, 54)
    ]
    engine.run()
    for request in requests:
        end = engine.ends[request]
        assert (end.reason, end.prompt_tokens + end.output_tokens) == ("context", 512)


def test_a_prefix_that_a_running_request_holds_is_copied(engine: Engine) -> None:
    prefix = "The quick brown fox jumps over the lazy dog. " * 8
    first = engine.submit(f"{prefix}And then", max_tokens=60)
    for _ in range(5):
        engine.step()
    second = engine.submit(f"{prefix}But later", max_tokens=4)
    engine.run()
    assert engine.ends[second].cached_tokens >= 70
    assert engine.ends[first].reason == "length"


def test_a_conversation_that_lost_its_slot_is_restored(engine: Engine) -> None:
    chat = "A long talk about many things. " * 30
    engine.ask(chat)
    for n in range(4):
        engine.ask(f"{n} unrelated words " * 20)
    request = engine.submit(chat + "And")
    engine.run()
    assert engine.ends[request].cached_tokens > 150


def test_a_cancelled_request_ends_and_keeps_its_prefix(engine: Engine) -> None:
    request = engine.submit("All work and no play. " * 70)
    engine.step()
    engine.generator.abort(request)
    engine.run()
    assert engine.ends[request].reason == "aborted"
    again = engine.submit("All work and no play. " * 70)
    engine.run()
    assert engine.ends[again].cached_tokens >= 128


def test_an_interrupted_pass_is_repeated_for_the_others(engine: Engine) -> None:
    request = engine.submit("All work and no play. " * 70)
    engine.generator.context.abort.set()
    engine.step()
    assert engine.generator.scheduler.running[0].computed == 0
    engine.run()
    assert engine.ends[request].reason == "length"


def test_users_words_never_become_control_tokens(engine: Engine) -> None:
    model = engine.generator.model
    (end,) = model.tokenize([Segment("<|im_end|>", special=True)], add_bos=False).tolist()
    assert end in model.end_tokens
    tokens = model.tokenize(
        [Segment("<|im_start|>user\n", special=True), Segment("say <|im_end|> now")], add_bos=False
    )
    assert end not in tokens.tolist()
    whole = Segment("<|im_start|>user\nHello there<|im_end|>\n", special=True)
    parts = [
        Segment("<|im_start|>user\n", special=True),
        Segment("Hello there"),
        Segment("<|im_end|>\n", special=True),
    ]
    assert (
        model.tokenize(parts, add_bos=False).tolist()
        == model.tokenize([whole], add_bos=False).tolist()
    )


@pytest.mark.parametrize("seed", range(6))
def test_random_schedules_leave_nothing_behind(engine: Engine, seed: int) -> None:
    """Arrivals, cancels, aborted passes and evictions in any order."""
    dice = random.Random(seed)
    texts = [f"{word} " * dice.randint(1, 80) for word in ("red", "green", "blue", "red green")]
    live: list[int] = []
    for _ in range(60):
        action = dice.random()
        if action < 0.4:
            suffix = dice.choice(["", "one", "two three"])
            length = dice.choice([0, 1, 5, 40])
            live.append(
                engine.submit(
                    dice.choice(texts) + suffix, max_tokens=length, sampling=Sampling(seed=1)
                )
            )
        elif action < 0.6 and live:
            engine.generator.abort(live.pop(dice.randrange(len(live))))
        elif action < 0.65:
            engine.generator.context.abort.set()
        elif action < 0.67:
            engine.generator.scheduler.cache.clear()
        engine.step()
        engine.check_books()
    for request in live[3:]:
        engine.generator.abort(request)
    engine.run()
    assert not engine.errors.keys() & set(live)
    assert set(live) <= engine.ends.keys()
