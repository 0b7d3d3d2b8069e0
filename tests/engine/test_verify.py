"""The verify loop: drafts and forced tokens change how many passes an answer takes, nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_driver import Engine

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.constraint import Row
from lmnb.engine.context import MAX_DRAFTS
from lmnb.engine.options import Sampling
from lmnb.engine.protocol import Step
from lmnb.engine.sequence import Sequence

COUNT = "Count: 1, 2, 3, 4,"


@pytest.fixture(scope="module")
def engine(chat_model_path: Path) -> Iterator[Engine]:
    native.init(lambda text: None)
    engine = Engine(
        chat_model_path, LoadConfig(context_length=256, parallel=2, eval_batch_size=128)
    )
    yield engine
    engine.generator.close()


@pytest.fixture(autouse=True)
def rest(engine: Engine) -> Iterator[None]:
    yield
    engine.check_idle()


def tokens(engine: Engine, text: str, **options: object) -> list[int]:
    """The tokens of an answer."""
    engine.submit(text, **options)  # type: ignore[arg-type]
    engine.step()
    (sequence,) = engine.generator.scheduler.running
    engine.run()
    return sequence.tokens[sequence.prompt_length :].tolist()  # type: ignore[no-any-return]


def answer_with_drafts(
    engine: Engine, text: str, guesses: list[list[int]], **options: object
) -> tuple[str, Sequence, int]:
    """The answer when these are the drafts of its decode passes; and how many passes it took."""
    request = engine.submit(text, **options)  # type: ignore[arg-type]
    engine.step()
    (sequence,) = engine.generator.scheduler.running
    passes = 0
    while engine.generator.busy:
        if passes < len(guesses):
            sequence.propose(guesses[passes])
        engine.step()
        engine.check_books()
        passes += 1
    return engine.text[request], sequence, passes


def test_right_drafts_spare_passes(engine: Engine) -> None:
    plain = engine.ask(COUNT, max_tokens=12)
    right = tokens(engine, COUNT, max_tokens=12)
    text, sequence, passes = answer_with_drafts(
        engine, COUNT, [right[1:6], right[7:11]], max_tokens=12
    )
    assert text == plain
    assert (sequence.drafted, sequence.accepted) == (9, 9)
    assert passes == 2  # 1 + 5 + 1 and 4 + 1


def test_wrong_drafts_change_nothing(engine: Engine) -> None:
    plain = engine.ask(COUNT, max_tokens=12)
    right = tokens(engine, COUNT, max_tokens=12)
    wrong = [[right[1], 77, 78], [5, 6, 7], [right[4], right[5], 99], [0]]
    text, sequence, passes = answer_with_drafts(engine, COUNT, wrong, max_tokens=12)
    assert text == plain
    assert (sequence.drafted, sequence.accepted) == (10, 3)
    assert passes == 11 - 3


def test_a_stop_string_inside_a_draft_ends_the_answer(engine: Engine) -> None:
    right = tokens(engine, COUNT, max_tokens=12)
    text, sequence, _ = answer_with_drafts(
        engine, COUNT, [right[1:10]], max_tokens=12, stop=(" 7",)
    )
    assert text == " 5, 6,"
    assert sequence.reason == "stop_string"
    assert engine.ends[sequence.id].output_tokens < 9


def test_the_same_seed_draws_the_same_answer(engine: Engine) -> None:
    options = {"sampling": Sampling(seed=5, temperature=0.7), "max_tokens": 16}
    right = tokens(engine, COUNT, **options)
    text, sequence, _ = answer_with_drafts(
        engine, COUNT, [right[1:4], [1, 2], right[6:10]], **options
    )
    assert text == "".join(engine.generator.model.pieces[token].decode() for token in right)
    assert sequence.accepted == 7


def test_logprobs_of_drafted_tokens(engine: Engine) -> None:
    def logprobs(guesses: list[int]) -> list[tuple[str, float]]:
        engine.generator.scheduler.cache.clear()
        engine.submit(COUNT, max_tokens=6, logprobs=1)
        found: list[tuple[str, float]] = []
        while engine.generator.busy:
            for sequence in engine.generator.scheduler.running:
                if guesses and sequence.output_length == 1:
                    sequence.propose(guesses)
            for reply in engine.step():
                if isinstance(reply, Step):
                    for delta in reply.deltas:
                        found += [(entry.token, entry.logprob) for entry in delta.logprobs]
        return found

    plain = logprobs([])
    drafted = logprobs(tokens(engine, COUNT, max_tokens=6)[1:5])
    assert [token for token, _ in drafted] == [token for token, _ in plain]
    np.testing.assert_allclose([p for _, p in drafted], [p for _, p in plain], atol=0.05)


def test_more_rows_with_logits_than_reserved_are_refused(engine: Engine) -> None:
    """llama.cpp would end the process on an assertion."""
    batch = engine.generator.context.batch
    batch.clear()
    rows = 2 + MAX_DRAFTS + 1
    batch.add(np.ones(rows, np.int32), 0, 0, rows)
    with pytest.raises(AssertionError, match="bad batch"):
        engine.generator.context.decode()


class Script:
    """A grammar that allows one text only, and forces all of it but what it leaves to the model."""

    begun = True

    def __init__(self, text: list[int], free: set[int]) -> None:
        self.text, self.free, self.position = text, free, 0
        self.asked: list[int] = []

    @property
    def finished(self) -> bool:
        return self.position == len(self.text)

    def mask(self, row: Row) -> None:
        allowed = row[self.text[self.position]]
        row[:] = -np.inf
        row[self.text[self.position]] = allowed
        self.asked.append(self.position)

    def accept(self, token: int) -> None:
        assert token == self.text[self.position]
        self.position += 1

    def forced(self) -> list[int]:
        end = self.position
        while end < len(self.text) and end not in self.free:
            end += 1
        return self.text[self.position : end]

    def allowed(self, tokens: list[int]) -> int:
        rest = self.text[self.position :]
        return next((n for n, t in enumerate(tokens) if rest[n : n + 1] != [t]), len(tokens))


def constrained(
    engine: Engine, script: Script, *, drafts: bool = False, **options: object
) -> tuple[int, Sequence]:
    """An answer under the grammar: the number of steps it took, and its sequence."""
    request = engine.submit(COUNT, **options)  # type: ignore[arg-type]
    (sequence,) = engine.generator.scheduler.waiting
    sequence.constraint = script
    engine.generator.answers.take_forced(sequence)
    steps = 0
    while engine.generator.busy:
        if drafts and not sequence.reading and sequence.output_length:
            sequence.propose(script.text[script.position : script.position + 14])
        engine.step()
        engine.check_books()
        steps += 1
    assert request in engine.ends
    return steps, sequence


@pytest.mark.parametrize("drafts", [False, True])
def test_forced_tokens_are_taken_without_being_sampled(engine: Engine, *, drafts: bool) -> None:
    text = list(range(1000, 1040))
    script = Script(text, free={5, 6, 20})
    steps, sequence = constrained(engine, script, drafts=drafts, max_tokens=None)
    assert sequence.tokens[sequence.prompt_length :].tolist() == text
    assert script.asked == [5, 6, 20]
    assert engine.ends[sequence.id].reason == "stop"
    pieces = engine.generator.model.pieces
    assert engine.text[sequence.id].encode() == b"".join(pieces[token] for token in text)
    # The prompt with the first forced tokens; 5; 6 and what follows it; 20 needs no pass after it.
    assert steps == (2 if drafts else 3)


def test_forced_tokens_respect_the_limit(engine: Engine) -> None:
    script = Script(list(range(1000, 1040)), free={5, 20})
    _, sequence = constrained(engine, script, max_tokens=10)
    assert (sequence.reason, sequence.output_length) == ("length", 10)
    again = Script(list(range(1000, 1040)), free=set())
    _, sequence = constrained(engine, again, max_tokens=3)
    assert (sequence.reason, sequence.output_length) == ("length", 3)


def test_forced_tokens_have_logprob_zero(engine: Engine) -> None:
    script = Script(list(range(1000, 1010)), free={5})
    request = engine.submit(COUNT, max_tokens=None, logprobs=1)
    (sequence,) = engine.generator.scheduler.waiting
    sequence.constraint = script
    found: list[float] = []
    while engine.generator.busy:
        for reply in engine.step():
            if isinstance(reply, Step):
                found += [entry.logprob for delta in reply.deltas for entry in delta.logprobs]
    assert len(found) == 10 == engine.ends[request].output_tokens
    sampled = {0, 5}  # the first, since this grammar came too late to force it
    assert [value == 0.0 for value in found] == [n not in sampled for n in range(10)]


@pytest.mark.parametrize("seed", range(4))
def test_random_drafts_and_schedules(engine: Engine, seed: int) -> None:
    """Arrivals, cancels and aborted passes, with drafts that are right, wrong or both."""
    dice = random.Random(seed)
    expected = {n: tokens(engine, f"{COUNT} {n}", max_tokens=30) for n in (5, 6)}
    live: dict[int, int] = {}
    for _ in range(80):
        action = dice.random()
        if action < 0.3:
            n = dice.choice([5, 6])
            live[engine.submit(f"{COUNT} {n}", max_tokens=dice.choice([2, 9, 30]))] = n
        elif action < 0.4 and live:
            engine.generator.abort(dice.choice(list(live)))
        elif action < 0.45:
            engine.generator.context.abort.set()
        room = MAX_DRAFTS
        for sequence in engine.generator.scheduler.running:
            most = min(sequence.limit - sequence.length - 1, 6, room)
            if sequence.output_length and not sequence.reading and most > 0:
                right = expected[live[sequence.id]][sequence.output_length :]
                drafts = [*right[: dice.randint(0, 5)], dice.randrange(1000)][:most]
                room -= len(drafts)
                sequence.propose(drafts)
        engine.step()
        engine.check_books()
    engine.run()
    pieces = engine.generator.model.pieces
    for request, n in live.items():
        whole = b"".join(pieces[token] for token in expected[n]).decode()
        assert whole.startswith(engine.text[request])
        assert request in engine.ends
