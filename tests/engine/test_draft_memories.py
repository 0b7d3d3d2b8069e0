"""Speculation on every kind of memory: made models, which never agree with a made draft model."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_models
import msgspec
import pytest
from engine_driver import GREEDY, Engine

from lmnb.engine import draft_model, native
from lmnb.engine.config import LoadConfig
from lmnb.engine.protocol import End, Step
from lmnb.errors import InvalidRequest

PROMPT = (5, 9, 7, 5, 9, 7, 5, 9, 7, 5, 9)
SMALL = LoadConfig(
    context_length=256, parallel=2, eval_batch_size=64, draft_tokens=0, flash_attention=False
)
"""Flash attention sums in F16: what is computed together changes log probabilities by up to 0.03."""


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


@pytest.fixture(autouse=True)
def rash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made models are never sure of anything."""
    monkeypatch.setattr(draft_model, "_SURE", 0.0)


def answer(path: Path, config: LoadConfig, **options: object) -> tuple[str, End]:
    engine = Engine(path, config)
    try:
        chosen: dict[str, Any] = {"max_tokens": 40, "sampling": GREEDY} | options
        request = engine.submit(tokens=PROMPT, **chosen)
        while engine.generator.busy:
            engine.step()
            engine.check_books()
        if request in engine.errors:
            raise engine.errors[request]
        engine.check_idle()
        return engine.text[request], engine.ends[request]
    finally:
        engine.generator.close()


def drafting(**options: object) -> LoadConfig:
    return msgspec.structs.replace(SMALL, **{"draft_tokens": None} | options)


@pytest.mark.parametrize("make", [made_models.llama, made_models.mla])
def test_a_wrong_draft_model_changes_nothing(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(tmp_path / "target.gguf", seed=1)
    other = made_models.llama(tmp_path / "draft.gguf", seed=2)
    plain, _ = answer(path, SMALL)
    found, end = answer(path, drafting(draft_tokens=3, draft_model=str(other)))
    assert found == plain
    assert end.drafted_tokens > end.accepted_tokens


def test_a_model_drafts_for_itself(tmp_path: Path) -> None:
    path = made_models.llama(tmp_path / "target.gguf", seed=1)
    plain, _ = answer(path, SMALL)
    found, end = answer(path, drafting(draft_tokens=3, draft_model=str(path)))
    assert found == plain
    assert end.accepted_tokens > 20
    assert end.drafted_tokens - end.accepted_tokens <= 3  # at the end of the answer


@pytest.mark.parametrize("full", [True, False])
def test_a_sliding_window_goes_back_behind_wrong_drafts(tmp_path: Path, *, full: bool) -> None:
    path = made_models.gemma3(tmp_path / "target.gguf", seed=1)
    other = made_models.llama(tmp_path / "draft.gguf", seed=2)
    plain, _ = answer(path, drafting(draft_tokens=0, swa_full=full), max_tokens=200)
    config = drafting(draft_tokens=5, draft_model=str(other), swa_full=full)
    found, end = answer(path, config, max_tokens=200)
    assert found == plain
    assert end.drafted_tokens > 200


@pytest.mark.parametrize("make", [made_models.mamba, made_models.jamba])
def test_memory_that_cannot_go_back_is_not_drafted_for(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    path = make(tmp_path / "target.gguf", seed=1)
    plain, end = answer(path, drafting(draft_tokens=3))
    assert end.drafted_tokens == 0
    assert plain == answer(path, SMALL)[0]
    with pytest.raises(InvalidRequest, match="cannot verify drafts"):
        answer(path, drafting(), draft_model=str(path))


def test_memory_that_cannot_go_back_does_not_draft(tmp_path: Path) -> None:
    path = made_models.llama(tmp_path / "target.gguf", seed=1)
    draft = made_models.mamba(tmp_path / "draft.gguf", seed=1)
    with pytest.raises(InvalidRequest, match="cannot draft"):
        answer(path, drafting(), draft_model=str(draft))


def certain_text(path: Path, prompt: tuple[int, ...]) -> str:
    """The answer, up to the first token that rounding could turn into another."""
    engine = Engine(path, SMALL)
    engine.submit(tokens=prompt, max_tokens=30, sampling=GREEDY, logprobs=2)
    tokens = []
    while engine.generator.busy:
        for reply in engine.step():
            if isinstance(reply, Step):
                tokens += [token for delta in reply.deltas for token in delta.logprobs]
    engine.generator.close()
    sure = itertools.takewhile(lambda token: token.top[0][2] - token.top[1][2] > 1e-3, tokens)
    return b"".join(token.raw for token in sure).decode("utf-8", "replace")


@pytest.mark.parametrize("seed", range(8))
def test_random_schedules(tmp_path: Path, seed: int) -> None:
    """Arrivals, cancels and aborted passes in any order; drafts that are right, wrong or none."""
    dice = random.Random(seed)
    path = made_models.llama(tmp_path / "target.gguf", seed=1)
    other = made_models.llama(tmp_path / "draft.gguf", seed=dice.choice([1, 2]))
    prompts = [tuple(dice.randrange(3, 40) for _ in range(dice.randint(1, 90))) for _ in range(5)]
    prompts += [prompt * 2 for prompt in prompts]
    expected = [certain_text(path, prompt) for prompt in prompts]
    engine = Engine(path, drafting(draft_tokens=4, draft_model=str(other)))
    live: dict[int, int] = {}
    for _ in range(150):
        action = dice.random()
        if action < 0.3:
            n = dice.randrange(len(prompts))
            draft = dice.choice([None, ""])
            length = dice.choice([1, 5, 30])
            live[engine.submit(tokens=prompts[n], max_tokens=length, draft_model=draft)] = n
        elif action < 0.4 and live:
            engine.generator.abort(dice.choice(list(live)))
        elif action < 0.45:
            engine.generator.context.abort.set()
        engine.step()
        engine.check_books()
    engine.run()
    for request, n in live.items():
        assert request in engine.ends
        # An answer that was cut may end in the middle of a character.
        wanted, found = (t.rstrip("\ufffd") for t in (expected[n], engine.text[request]))
        assert wanted.startswith(found) or found.startswith(wanted)
    assert sum(end.drafted_tokens for end in engine.ends.values()) > 50
    engine.check_idle()
    engine.generator.close()
