"""Grammars in the engine's loop, on the real model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from engine_driver import GREEDY, Engine
from json_schemas import VARIED, Schema, closed

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import ConstraintSpec, Sampling, TokenLogprob
from lmnb.engine.protocol import Step
from lmnb.errors import InvalidRequest, LmnbError

ASK = "<|im_start|>user\nWrite some JSON.<|im_end|>\n<|im_start|>assistant\n"
FLAT = VARIED["flat"]


@pytest.fixture(scope="module")
def engine(chat_model_path: Path) -> Iterator[Engine]:
    native.init(lambda text: None)
    engine = Engine(
        chat_model_path, LoadConfig(context_length=512, parallel=8, eval_batch_size=256)
    )
    yield engine
    engine.generator.close()


@pytest.fixture(autouse=True)
def rest(engine: Engine) -> Iterator[None]:
    yield
    engine.check_idle()


def json_schema(schema: Schema, **options: str) -> ConstraintSpec:
    return ConstraintSpec(kind="json_schema", text=json.dumps(schema), **options)  # type: ignore[arg-type]


def regex(pattern: str) -> ConstraintSpec:
    return ConstraintSpec(kind="regex", text=pattern)


def test_all_kinds_of_schemas_at_once(engine: Engine) -> None:
    running = {
        name: engine.submit(
            ASK,
            constraint=json_schema(schema),
            max_tokens=120,
            sampling=Sampling(seed=1, temperature=0.8),
        )
        for name, schema in VARIED.items()
    }
    engine.run()
    finished = {name: n for name, n in running.items() if engine.ends[n].reason == "stop"}
    assert not engine.errors
    # The others are numbers and recursive ones that nothing made come to an end.
    assert len(finished) >= 0.75 * len(VARIED), running.keys() - finished.keys()
    for name, request in finished.items():
        jsonschema.validate(json.loads(engine.text[request]), VARIED[name])


def test_the_answer_ends_with_the_grammar(engine: Engine) -> None:
    """No forward pass is spent on an end of text that is the only thing left."""
    request = engine.submit(ASK, constraint=regex("yes|no"), max_tokens=50)
    steps = 0
    while engine.generator.busy:
        engine.step()
        steps += 1
    assert engine.text[request] in {"yes", "no"}
    assert (engine.ends[request].reason, steps) == ("stop", 1)


def test_an_answer_without_any_choice(engine: Engine) -> None:
    text = "There is nothing to choose here."
    request = engine.submit(ASK, constraint=json_schema({"const": text}), max_tokens=50)
    engine.run()
    assert json.loads(engine.text[request]) == text
    assert engine.ends[request].reason == "stop"


def test_the_model_may_end_where_the_grammar_lets_it(engine: Engine) -> None:
    request = engine.submit(ASK, constraint=regex(r"(ha ?){2,40}"), max_tokens=100)
    engine.run()
    assert re.fullmatch(r"(ha ?){2,40}", engine.text[request])


def test_a_limit_in_mid_json_is_reported(engine: Engine) -> None:
    request = engine.submit(ASK, constraint=json_schema(FLAT), max_tokens=4)
    engine.run()
    assert (engine.ends[request].reason, engine.ends[request].output_tokens) == ("length", 4)
    assert engine.text[request].startswith('{"name":"')


def test_forced_tokens_spare_forward_passes(engine: Engine) -> None:
    request = engine.submit(ASK, constraint=json_schema(VARIED["records"]), max_tokens=200)
    steps = 0
    while engine.generator.busy:
        engine.step()
        steps += 1
    jsonschema.validate(json.loads(engine.text[request]), VARIED["records"])
    assert steps < 0.7 * engine.ends[request].output_tokens


def test_a_later_turn_finds_the_answer_in_the_cache(engine: Engine) -> None:
    request = engine.submit(ASK, constraint=json_schema(VARIED["records"]), max_tokens=200)
    engine.run()
    text, tokens = engine.text[request], engine.ends[request].output_tokens
    again = engine.submit(f"{ASK}{text}<|im_end|>\n", max_tokens=1)
    engine.run()
    prompt = engine.ends[request].prompt_tokens
    assert engine.ends[again].cached_tokens >= prompt + tokens // 2


def test_others_in_the_batch_are_not_bound(engine: Engine) -> None:
    count = "Count: 1, 2, 3, 4,"
    alone = engine.ask(count)
    constrained = engine.submit(ASK, constraint=json_schema(FLAT), max_tokens=60)
    free = engine.submit(count)
    engine.run()
    assert engine.text[free] == alone
    assert json.loads(engine.text[constrained])


def test_the_same_seed_writes_the_same(engine: Engine) -> None:
    options = {"constraint": json_schema(VARIED["records"]), "max_tokens": 200}
    first, second, other = (
        engine.ask(ASK, sampling=Sampling(seed=seed), **options) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_drafts_change_nothing(engine: Engine) -> None:
    spec = json_schema(VARIED["records"])
    expected = engine.submit(ASK, constraint=spec, max_tokens=200)
    engine.step()
    (sequence,) = engine.generator.scheduler.running
    engine.run()
    right = sequence.tokens[sequence.prompt_length :].tolist()
    request = engine.submit(ASK, constraint=spec, max_tokens=200)
    engine.step()
    (sequence,) = engine.generator.scheduler.running
    while engine.generator.busy:
        done = sequence.output_length
        guesses = [*right[done : done + 3], 5, 6]
        assert sequence.constraint is not None
        allowed = sequence.constraint.allowed(guesses)
        assert allowed >= min(3, len(right) - done)
        sequence.propose(guesses[: min(allowed, sequence.limit - sequence.length - 1)])
        engine.step()
        engine.check_books()
    assert engine.text[request] == engine.text[expected]
    assert sequence.accepted > 5


def test_logprobs_of_forced_and_sampled_tokens(engine: Engine) -> None:
    request = engine.submit(ASK, constraint=json_schema(FLAT), max_tokens=60, logprobs=2)
    entries: list[TokenLogprob] = []
    while engine.generator.busy:
        for reply in engine.step():
            if isinstance(reply, Step):
                entries += [entry for delta in reply.deltas for entry in delta.logprobs]
    assert "".join(entry.token for entry in entries) == engine.text[request]
    assert len(entries) == engine.ends[request].output_tokens
    assert entries[0].logprob == 0.0
    sampled = [entry for entry in entries if entry.logprob != 0.0]
    assert sampled
    assert all(math.isfinite(entry.logprob) and entry.logprob < 0 for entry in sampled)


def test_a_bias_moves_the_choice_within_the_grammar(engine: Engine) -> None:
    words = ["alpha", "beta", "gamma"]
    spec = json_schema(closed(kind={"enum": words}))
    for word in words:
        bias = {
            token: 100.0
            for token, piece in enumerate(engine.generator.model.pieces)
            if piece and word.encode().startswith(piece)
        }
        sampling = Sampling(temperature=0, logit_bias=bias)
        text = engine.ask(ASK, constraint=spec, max_tokens=20, sampling=sampling)
        assert json.loads(text) == {"kind": word}


def test_a_bias_that_leaves_nothing(engine: Engine) -> None:
    model = engine.generator.model
    bias = {
        token: -math.inf
        for token, piece in enumerate(model.pieces)
        if piece and piece[:1] in (b"y", b"n")
    }
    request = engine.submit(
        ASK, constraint=regex("yes|no"), sampling=Sampling(temperature=0, logit_bias=bias)
    )
    engine.run()
    error = engine.errors[request]
    assert isinstance(error, InvalidRequest)
    assert error.param == "logit_bias"


def test_stop_strings_still_stop(engine: Engine) -> None:
    request = engine.submit(ASK, constraint=json_schema(FLAT), max_tokens=60, stop=('","age',))
    engine.run()
    assert engine.ends[request].reason == "stop_string"
    assert re.fullmatch(r'\{"name":"[^"]*', engine.text[request])


def test_thinking_comes_first_and_is_free(engine: Engine) -> None:
    spec = json_schema(FLAT, after="</think>")
    request = engine.submit(f"{ASK}<think>\nI must write JSON.\n</", constraint=spec, max_tokens=3)
    engine.run()
    assert not engine.text[request].startswith("{")
    spec = json_schema(FLAT, after=",")
    request = engine.submit("Count: 1, 2, 3, 4", constraint=spec, max_tokens=80)
    engine.run()
    thinking, _, answer = engine.text[request].partition(",")
    assert "{" not in thinking
    jsonschema.validate(json.loads(answer), FLAT)


def test_a_broken_matcher_fails_its_request_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = engine.submit(ASK, constraint=json_schema(FLAT), max_tokens=60)
    fine = engine.submit(ASK, constraint=json_schema(FLAT), max_tokens=60, sampling=GREEDY)
    engine.step()
    sequence = next(s for s in engine.generator.scheduler.running if s.id == broken)
    matcher = sequence.constraint._matcher  # type: ignore[union-attr]
    matcher.consume_token(engine.generator.model.pieces.index(b" never"))
    assert matcher.is_error()
    engine.run()
    assert isinstance(engine.errors[broken], LmnbError)
    assert broken not in engine.ends
    assert "No" not in engine.text[broken]
    jsonschema.validate(json.loads(engine.text[fine]), FLAT)


def test_a_bad_grammar_is_refused_before_it_queues(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="'not'"):
        engine.submit(ASK, constraint=json_schema({"not": {}}))
    assert not engine.generator.busy


def test_random_cancels_leave_nothing_behind(engine: Engine) -> None:
    engine.errors.clear()
    dice = np.random.default_rng(0)
    names = list(VARIED)
    for _ in range(60):
        if dice.random() < 0.4:
            schema = VARIED[names[dice.integers(len(names))]]
            engine.submit(ASK, constraint=json_schema(schema), max_tokens=40)
        elif dice.random() < 0.3:
            engine.generator.abort(int(dice.integers(1, engine.next_id + 1)))
        engine.step()
        engine.check_books()
    engine.run()
    assert not engine.errors
