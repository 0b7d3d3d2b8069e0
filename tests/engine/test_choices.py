"""Several answers to one prompt: the prompt is computed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_driver import Engine

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import Sampling

PROMPT = "The quick brown fox jumps over the lazy dog, and then it runs away. " * 12
CHOICES = 5


@pytest.fixture(scope="module", params=[1, 2, 4])
def engine(chat_model_path: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    native.init(lambda text: None)
    config = LoadConfig(context_length=512, parallel=request.param, eval_batch_size=128)
    engine = Engine(chat_model_path, config)
    yield engine
    engine.generator.close()


def choices(engine: Engine, seed: int = 0) -> list[str]:
    requests = [
        engine.submit(PROMPT, max_tokens=8, sampling=Sampling(seed=seed + n, temperature=1.5))
        for n in range(CHOICES)
    ]
    engine.run()
    return [engine.text[request] for request in requests]


def test_the_prompt_is_computed_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the batches themselves, not in what the engine reports."""
    engine.check_idle()
    context, sizes = engine.generator.context, []
    decode = context.decode

    def counting() -> int:
        sizes.append(context.batch.size)
        return decode()

    monkeypatch.setattr(context, "decode", counting)
    texts = choices(engine)
    ends = [engine.ends[engine.next_id - n] for n in range(CHOICES)]
    prompt, answers = ends[0].prompt_tokens, sum(end.output_tokens for end in ends)
    assert prompt > 150
    # Besides the prompt: its last token for each of the others, and a graph's worth of slack.
    assert sum(sizes) <= prompt + answers + 32 * (CHOICES - 1)
    assert sum(end.prompt_tokens - end.cached_tokens for end in ends) <= prompt + 32 * CHOICES
    assert len(set(texts)) > 1


def test_a_seed_repeats_its_answer_alone(engine: Engine) -> None:
    def alone() -> str:
        engine.generator.scheduler.cache.clear()
        return engine.ask(PROMPT, max_tokens=12, sampling=Sampling(seed=9, temperature=1.2))

    assert alone() == alone()


def test_seeds_repeat_in_batches_of_the_same_shapes(engine: Engine) -> None:
    def together() -> list[str]:
        engine.check_idle()
        return choices(engine, seed=20)

    assert together() == together()
