"""When the text of an answer is sent. The clock stands still, so that nothing is due by time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_driver import Engine

from lmnb.engine import native, sequence
from lmnb.engine.config import LoadConfig
from lmnb.engine.protocol import Failed, Step
from lmnb.engine.sequence import SEND_INTERVAL, Sequence
from lmnb.errors import LmnbError

COUNT = "Count: 1, 2, 3, 4,"


@pytest.fixture(scope="module")
def engine(chat_model_path: Path) -> Iterator[Engine]:
    native.init(lambda text: None)
    engine = Engine(
        chat_model_path,
        LoadConfig(context_length=512, parallel=2, eval_batch_size=64, draft_tokens=0),
    )
    yield engine
    engine.generator.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time is its only element."""
    time = [1000.0]
    monkeypatch.setattr(sequence, "monotonic", lambda: time[0])
    return time


def generated(engine: Engine, answer: Sequence) -> str:
    tokens = answer.tokens[answer.prompt_length :].tolist()
    return b"".join(engine.generator.model.pieces[token] for token in tokens).decode()


def pieces(engine: Engine, clock: list[float], tick: float) -> list[str]:
    engine.submit(COUNT, max_tokens=12)
    found = []
    while engine.generator.busy:
        for reply in engine.step():
            if isinstance(reply, Step):
                found += [delta.text for delta in reply.deltas]
        clock[0] += tick
    return found


def test_the_first_text_and_the_last_are_sent_at_once(engine: Engine, clock: list[float]) -> None:
    every = pieces(engine, clock, SEND_INTERVAL)
    assert len(every) == 12
    assert pieces(engine, clock, 0.0) == [every[0], "".join(every[1:])]
    some = pieces(engine, clock, SEND_INTERVAL / 2.5)
    assert [len(some), "".join(some)] == [5, "".join(every)]


def test_nothing_is_held_back_while_a_prompt_is_read(engine: Engine, clock: list[float]) -> None:
    request = engine.submit(COUNT, max_tokens=40)
    for _ in range(5):
        engine.step()
    [answer] = engine.generator.scheduler.running
    assert engine.text[request] != generated(engine, answer)
    other = engine.submit("word " * 300, max_tokens=1)
    engine.step()
    reader = engine.generator.scheduler.running[-1]
    steps = 0
    while reader.reading:
        assert engine.text[request] == generated(engine, answer)
        engine.step()
        steps += 1
    assert steps > 1
    engine.run()
    assert engine.ends[other].output_tokens == 1


def test_who_gives_way_has_sent_everything(engine: Engine, clock: list[float]) -> None:
    for n in (10, 20):
        engine.submit(f"{n}, {n + 1}, {n + 2},", max_tokens=30, priority=1)
    for _ in range(6):
        engine.step()
    engine.submit("Hello", max_tokens=2)
    engine.step()
    [waiting] = engine.generator.scheduler.waiting
    assert waiting.output_length > 3
    assert engine.text[waiting.id] == generated(engine, waiting)
    engine.run()


def test_what_was_held_back_comes_before_an_error(engine: Engine, clock: list[float]) -> None:
    request = engine.submit(COUNT, max_tokens=30)
    for _ in range(5):
        engine.step()
    [answer] = engine.generator.scheduler.running
    whole = generated(engine, answer)
    assert engine.text[request] != whole
    engine.generator._fail(answer, LmnbError("broken"))
    replies = engine.step()
    assert isinstance(replies[-1], Failed)
    assert engine.text[request] == whole
