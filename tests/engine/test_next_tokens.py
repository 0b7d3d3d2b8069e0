"""Multi-token prediction with made models: answers stay what they are, and take fewer passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import made_models
import numpy as np
import pytest
from engine_driver import Engine

from lmnb.engine import draft_model, native, next_tokens, placement
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import read_header
from lmnb.engine.options import Sampling

PROMPT = tuple(range(40, 90))
TWO = {"context_length": 512, "parallel": 2, "eval_batch_size": 64}


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


@pytest.fixture(autouse=True)
def rash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made models are never sure of anything."""
    monkeypatch.setattr(next_tokens, "_SURE", 0.0)
    monkeypatch.setattr(draft_model, "_SURE", 0.0)


@pytest.fixture
def random_model(tmp_path: Path) -> Path:
    return made_models.next_tokens(tmp_path / "random.gguf", seed=1)


@pytest.fixture
def agreeing_model(tmp_path: Path) -> Path:
    return made_models.next_tokens(tmp_path / "agreeing.gguf", seed=1, agreeing=True)


class Run:
    """An engine that drafts `count` tokens at a time (0: none), and what it was asked."""

    def __init__(self, path: Path, count: int | None) -> None:
        self.engine = Engine(path, LoadConfig(draft_tokens=count, **TWO))  # type: ignore[arg-type]
        self.steps = 0

    def ask(self, *prompts: tuple[int, ...], tokens: int = 40, **options: object) -> list[str]:
        asked = [
            self.engine.submit(tokens=prompt, max_tokens=tokens, **options)  # type: ignore[arg-type]
            for prompt in prompts
        ]
        while self.engine.generator.busy:
            self.engine.step()
            self.engine.check_books()
            self.steps += 1
        assert not self.engine.errors
        self.ends = [self.engine.ends[request] for request in asked]
        self.engine.check_idle()
        return [self.engine.text[request] for request in asked]


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Run]]:
    """`plain` and `drafting`, on the model that the test names."""
    path = request.getfixturevalue(request.param)
    found = {"plain": Run(path, 0), "drafting": Run(path, 3)}
    yield found
    for run in found.values():
        run.engine.generator.close()


both = pytest.mark.parametrize("runs", ["random_model", "agreeing_model"], indirect=True)
agreeing = pytest.mark.parametrize("runs", ["agreeing_model"], indirect=True)


@both
def test_answers_are_what_they_are_without(runs: dict[str, Run]) -> None:
    assert runs["drafting"].ask(PROMPT) == runs["plain"].ask(PROMPT)
    [end] = runs["drafting"].ends
    assert end.drafted_tokens > 0
    assert runs["plain"].ends[0].drafted_tokens == 0


@agreeing
def test_a_layer_that_is_right_spares_passes(runs: dict[str, Run]) -> None:
    assert runs["drafting"].ask(PROMPT) == runs["plain"].ask(PROMPT)
    [end] = runs["drafting"].ends
    assert end.accepted_tokens == end.drafted_tokens > 20
    assert runs["drafting"].steps < runs["plain"].steps / 2


@both
def test_several_answers_at_once(runs: dict[str, Run]) -> None:
    prompts = (PROMPT, PROMPT[::-1], PROMPT[10:] * 4, PROMPT[:3])
    found = runs["drafting"].ask(*prompts)
    assert all(end.drafted_tokens for end in runs["drafting"].ends)
    assert found == [runs["plain"].ask(prompt)[0] for prompt in prompts]


@agreeing
def test_what_the_cache_had_is_not_needed(runs: dict[str, Run]) -> None:
    engine = runs["drafting"].engine
    first, again = (engine.submit(tokens=PROMPT, max_tokens=40) for _ in range(2))
    engine.run()
    assert engine.text[first] == engine.text[again]
    assert engine.ends[again].cached_tokens == len(PROMPT) - 1
    assert engine.ends[again].accepted_tokens > 20


@both
def test_sampled_answers_with_a_seed(runs: dict[str, Run]) -> None:
    sampling = Sampling(temperature=0.8, seed=7)
    found = [run.ask(PROMPT, sampling=sampling) for run in runs.values()]
    assert found[0] == found[1]


@agreeing
def test_an_answer_that_was_left_alone_for_long_is_caught_up_with(runs: dict[str, Run]) -> None:
    """States of tokens for which nobody asked for drafts are read before they become many."""
    generator = runs["drafting"].engine.generator
    runs["drafting"].engine.submit(tokens=PROMPT, max_tokens=200)
    generator.speculation.enabled = False
    for _ in range(80):
        runs["drafting"].engine.step()
    trail = generator._next_tokens._trails[0]  # type: ignore[union-attr]
    assert len(trail.rows) <= next_tokens._MOST_UNREAD + 1
    generator.speculation.enabled = True
    runs["drafting"].engine.run()
    end = runs["drafting"].engine.ends[1]
    assert end.accepted_tokens == end.drafted_tokens > 50
    assert runs["drafting"].engine.text[1] == runs["plain"].ask(PROMPT, tokens=200)[0]


def test_a_file_without_the_layer_it_announces_goes_without(tmp_path: Path) -> None:
    path = made_models.next_tokens(tmp_path / "made.gguf", layer=False)
    run = Run(path, None)
    assert run.engine.generator._next_tokens is None
    assert run.ask(PROMPT)
    run.engine.generator.close()


def test_the_layer_is_looked_for_in_the_last_of_several_files(tmp_path: Path) -> None:
    header = read_header(made_models.next_tokens(tmp_path / "whole.gguf"))
    for part in (1, 2):
        name = tmp_path / f"made-{part:05}-of-00002.gguf"
        (made_models.llama if part == 1 else made_models.next_tokens)(name)
    first = tmp_path / "made-00001-of-00002.gguf"
    without = replace(header, tensors=read_header(first).tensors)
    assert placement.predicts_ahead(first, without, LoadConfig())
    assert not placement.predicts_ahead(first, without, LoadConfig(draft_tokens=0))


@agreeing
def test_two_drafters_at_once(runs: dict[str, Run], random_model: Path) -> None:
    """A draft model for one answer, the model's own layer for the other."""
    run = runs["drafting"]
    for named in ((str(random_model), None), (None, str(random_model))):
        asked = [
            run.engine.submit(tokens=PROMPT, max_tokens=60, draft_model=name) for name in named
        ]
        run.engine.run()
        texts = [run.engine.text[request] for request in asked]
        assert texts == runs["plain"].ask(PROMPT, tokens=60) * 2
        assert all(run.engine.ends[request].drafted_tokens for request in asked)


@agreeing
def test_after_numbers_that_are_none_the_layer_begins_anew(runs: dict[str, Run]) -> None:
    run = runs["drafting"]
    layer = run.engine.generator._next_tokens
    assert layer is not None
    run.ask(PROMPT)
    for trail in layer._trails:
        trail.rows = np.full((3, layer._width), np.nan, np.float32)
    run.engine.generator._wipe_first = True
    run.ask(PROMPT)
    assert run.ends[0].accepted_tokens == run.ends[0].drafted_tokens > 20


def test_guesses_are_those_of_the_layer_alone(random_model: Path) -> None:
    """What the layer guesses depends on the text, not on how it was split into passes."""
    found = []
    for batch in (64, 16):
        config = LoadConfig(context_length=512, parallel=1, eval_batch_size=batch, draft_tokens=3)
        engine = Engine(random_model, config)
        engine.submit(tokens=PROMPT, max_tokens=12)
        while (
            not engine.generator.scheduler.running or engine.generator.scheduler.running[0].reading
        ):
            engine.step()
        sequence = engine.generator.scheduler.running[0]
        layer = engine.generator._next_tokens
        assert layer is not None
        found.append((sequence.tokens.tolist(), layer.draft([sequence], 4, alone=True)))
        engine.run()
        engine.generator.close()
    assert found[0] == found[1]
    assert np.size(found[0][1]) == 4
