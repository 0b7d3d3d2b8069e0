"""Scored prompts: the log probabilities of their tokens are those the same tokens have as an answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import made_models
import pytest
from engine_driver import GREEDY, Engine

from lmnb.engine.config import LoadConfig
from lmnb.engine.options import TokenLogprob
from lmnb.engine.protocol import Generate, Reply, Step

BOUND = 0.05
"""See `test_memory.BOUND`."""
KINDS: dict[str, Callable[..., Path]] = {
    "attention": made_models.llama,
    "window": made_models.gemma3,
    "recurrent": made_models.mamba,
    "hybrid": made_models.jamba,
}


class Scorer(Engine):
    """An engine whose requests are scored or not.

    `said` is what was said of the tokens of each answer, and of its prompt.
    """

    def __init__(self, path: Path, config: LoadConfig) -> None:
        super().__init__(path, config)
        self.said: dict[int, tuple[list[TokenLogprob], list[TokenLogprob]]] = {}

    def ask_for(self, tokens: list[int], *, score: bool = False, answer: int = 0) -> int:
        self.next_id += 1
        command = Generate(
            id=self.next_id,
            tokens=tuple(tokens),
            sampling=GREEDY,
            max_tokens=answer,
            logprobs=2,
            score_prompt=score,
        )
        self.text[command.id] = ""
        self.generator.submit(command, self.generator.prompt(command))
        return command.id

    def step(self) -> list[Reply]:
        replies = super().step()
        for reply in replies:
            for delta in reply.deltas if isinstance(reply, Step) else ():
                said, scored = self.said.setdefault(delta.id, ([], []))
                said.extend(delta.logprobs)
                scored.extend(delta.prompt)
        return replies


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [256, 20])
def test_scores_are_those_of_an_answer(kind: str, batch: int, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path / "model.gguf")
    engine = Scorer(path, LoadConfig(context_length=512, parallel=3, eval_batch_size=batch))
    draw = random.Random(1)
    prompt = [draw.randrange(256) for _ in range(70)]
    answered = engine.ask_for(prompt, answer=40)
    engine.run()
    answer, nothing = engine.said[answered]
    assert not nothing
    assert len(answer) == 40
    ids = engine.generator.model.pieces
    whole = prompt + [ids.index(token.raw) for token in answer]
    # Beside others, with a prefix in the cache: two are scored, one reads, one answers.
    others = [engine.ask_for(prompt[:30], answer=30), engine.ask_for(prompt[::-1], answer=5)]
    scored = [engine.ask_for(whole, score=True), engine.ask_for(whole, score=True, answer=3)]
    engine.run()
    assert not engine.errors
    for request, length in zip(scored, (0, 3), strict=True):
        after, scores = engine.said[request]
        assert [token.raw for token in scores] == [ids[token] for token in whole]
        for said, score in zip(answer, scores[len(prompt) :], strict=True):
            assert score.raw == said.raw
            assert abs(score.logprob - said.logprob) < BOUND
            assert abs(score.top[0][2] - said.top[0][2]) < BOUND
        assert len(after) == length
        end = engine.ends[request]
        assert (end.reason, end.prompt_tokens, end.output_tokens) == ("length", 110, length)
    assert all(not engine.said[other][1] for other in others)
    engine.check_idle()
    engine.generator.close()


def test_a_prompt_of_one_token_is_scored(tmp_path: Path) -> None:
    engine = Scorer(made_models.llama(tmp_path / "model.gguf"), LoadConfig(context_length=256))
    request = engine.ask_for([65], score=True, answer=1)
    engine.run()
    after, scores = engine.said[request]
    assert (len(after), [score.token for score in scores]) == (1, ["A"])
    engine.generator.close()


def test_a_scored_prompt_that_gives_way_is_scored_once(tmp_path: Path) -> None:
    """An urgent request takes its slot in the middle of reading."""
    config = LoadConfig(context_length=512, parallel=1, eval_batch_size=20)
    engine = Scorer(made_models.llama(tmp_path / "model.gguf"), config)
    prompt = [n % 250 for n in range(100)]
    alone = engine.ask_for(prompt, score=True)
    engine.run()
    request = engine.ask_for(prompt[1:], score=True)
    engine.step()
    engine.step()
    engine.submit("urgent", priority=-1)
    engine.run()
    assert [one.token for one in engine.said[request][1]] == [
        one.token for one in engine.said[alone][1][1:]
    ]
    engine.check_idle()
    engine.generator.close()
