"""Grammars that take over where a text begins: the watching alone, and on the real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_driver import Engine
from hypothesis import given
from hypothesis import strategies as st
from json_schemas import INT, closed

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import ConstraintSpec, Sampling, Segment, Trigger
from lmnb.engine.prompts import Prompts
from lmnb.engine.protocol import Generate
from lmnb.engine.triggered import Triggered, Watcher

ASK = "<|im_start|>user\nWhat is the weather?<|im_end|>\n<|im_start|>assistant\n"
CALL = 'start: "<call>" c (", " c)* "</call>"\nc: "a" | "b" | "c"'


# --- the watching --------------------------------------------------------------------------


def watcher(*, leading: bool = False, opening: str = "", after: str = "") -> Watcher:
    triggers = (b"<call>", b"<call-all>", b"\xff<t>")
    return Watcher(triggers, leading=leading, opening=opening.encode(), after=after.encode())


def found(watcher: Watcher, *pieces: bytes) -> tuple[bytes, bytes] | None:
    for piece in pieces:
        if (result := watcher.find(piece)) is not None:
            return result
    return None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"Well, <call>a", (b"<call>", b"a")),
        (b"<<call<call>", (b"<call>", b"")),
        (b"<call-all>", (b"<call-all>", b"")),
        (b"<t> <call", None),
        (b"x \xff<t>", (b"\xff<t>", b"")),
        (b"<call ><cal", None),
    ],
)
def test_triggers_are_found_however_the_text_is_cut(
    text: bytes, expected: tuple[bytes, bytes] | None
) -> None:
    for size in range(1, len(text) + 1):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        result = found(watcher(), *pieces)
        assert (result is None) == (expected is None)
        if result and expected:
            assert result[0] == expected[0]
            assert expected[1].startswith(result[1])


@given(st.lists(st.sampled_from([b"<", b"call", b">", b"think", b"/", b" ", b"<call>"])))
def test_thinking_hides_triggers(pieces: list[bytes]) -> None:
    rest, calls = b"".join(pieces), False
    while not calls:  # the slow way
        thought = rest.lstrip().removeprefix(b"<think>")
        if thought == rest.lstrip():
            calls = b"<call>" in rest
            break
        _, mark, rest = thought.partition(b"</think>")
        if not mark:
            break
    result = found(watcher(opening="<think>", after="</think>"), *pieces)
    assert (result is not None) == calls


def test_thinking_that_the_prompt_has_begun() -> None:
    assert found(watcher(after="</think>"), b"a <call> ", b"b </thi", b"nk>") is None
    assert found(watcher(after="</think>"), b"<call></think> <call>x") == (b"<call>", b"x")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((b" \n", b"<ca", b"ll>x"), True),
        ((b"Hm <call>",), False),
        ((b"<cold", b"<call>"), False),
        ((b"<think>a <call></th", b"ink>\n\n<call>"), True),
        ((b"<think>a</think>Hm <call>",), False),
    ],
)
def test_triggers_at_the_beginning_only(pieces: tuple[bytes, ...], *, expected: bool) -> None:
    watching = watcher(leading=True, opening="<think>", after="</think>")
    assert (found(watching, *pieces) is not None) == expected


def test_copies_watch_on_their_own() -> None:
    first = watcher()
    assert first.find(b"<ca") is None
    second = first.copy()
    assert second.find(b"ll>") is not None
    assert first.find(b" ") is None
    assert first.find(b"ll>") is None


# --- on the real model ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(chat_model_path: Path) -> Iterator[Engine]:
    native.init(lambda text: None)
    engine = Engine(
        chat_model_path, LoadConfig(context_length=512, parallel=4, eval_batch_size=256)
    )
    yield engine
    engine.generator.close()


@pytest.fixture(autouse=True)
def rest(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "engine" in request.fixturenames:
        request.getfixturevalue("engine").check_idle()


def spec(*texts: str, text: str = CALL, **options: str) -> ConstraintSpec:
    trigger = Trigger(texts=texts or ("<call>",))
    return ConstraintSpec(kind="lark", text=text, trigger=trigger, **options)  # type: ignore[arg-type]


def start(engine: Engine, constraint: ConstraintSpec) -> Triggered:
    prompts: Prompts = engine.generator._prompts
    prepared = prompts.prepare(Generate(id=1, segments=(Segment("Hello"),), constraint=constraint))
    prepared.sampler.close()
    assert isinstance(prepared.constraint, Triggered)
    return prepared.constraint


def tokens(engine: Engine, text: str, *, special: bool = False) -> list[int]:
    segments = (Segment(text, special=special),)
    found: list[int] = engine.generator.model.tokenize(segments, add_bos=False).tolist()
    return found


def scripted(engine: Engine, text: str, constraint: ConstraintSpec, more: int = 40) -> str:
    """The answer of the model after it has been made to begin with `text`."""
    request = engine.submit(ASK, constraint=constraint, max_tokens=more)
    (sequence,) = [s for s in engine.generator.scheduler.waiting if s.id == request]
    for token in tokens(engine, text, special=True):
        engine.generator.answers._take(sequence, token, None)
    engine.run()
    return engine.text[request]


def test_a_free_answer_is_the_same_as_without(engine: Engine) -> None:
    for sampling in (Sampling(temperature=0), Sampling(seed=3)):
        free = engine.ask(ASK, sampling=sampling, max_tokens=30)
        assert engine.ask(ASK, sampling=sampling, max_tokens=30, constraint=spec()) == free
    assert free


def test_from_the_trigger_on_the_grammar_binds(engine: Engine) -> None:
    text = scripted(engine, "Well, let me see: <call>", spec())
    assert text.startswith("Well, let me see: <call>")
    said = text.partition("<call>")[2]
    assert said.endswith("</call>")
    assert set(said.removesuffix("</call>").split(", ")) <= {"a", "b", "c"}


def test_a_call_in_the_thinking_is_none(engine: Engine) -> None:
    thought = "I could write <call> here"
    options = {"after": "</think>", "opening": "<think>"}
    free = scripted(
        engine,
        f"<think>{thought}",
        ConstraintSpec(kind="lark", text=CALL, trigger=Trigger(texts=("<never>",))),
    )
    assert scripted(engine, f"<think>{thought}", spec(**options)) == free
    text = scripted(engine, f"<think>{thought}</think><call>", spec(**options))
    assert text.endswith("</call>")


def test_a_control_token_triggers_its_spelling_does_not(engine: Engine) -> None:
    text = 'start: <[5]> "a" <[7]>'
    constraint = start(engine, spec("<file_sep>", text=text))
    for token in tokens(engine, "<file_sep>"):
        constraint.accept(token)
    assert constraint.forced() == []
    (control,) = tokens(engine, "<file_sep>", special=True)
    constraint.accept(control)
    assert constraint.forced() == [tokens(engine, "a")[0], 7]


def test_a_token_may_reach_beyond_the_trigger(engine: Engine) -> None:
    pieces = engine.generator.model.pieces
    beyond = pieces.index(b':"')
    grammar = 'start: "say:" "\\"hello\\""'
    constraint = start(engine, spec("say:", text=grammar))
    for token in [*tokens(engine, "say"), beyond]:
        constraint.accept(token)
    said = b"".join(pieces[token] for token in constraint.forced())
    assert said == b'hello"'


def test_what_cannot_be_a_call_stays_free(engine: Engine) -> None:
    beyond = engine.generator.model.pieces.index(b':"')
    constraint = start(engine, spec("say:", text='start: "say:" "1"'))
    for token in [*tokens(engine, "say"), beyond]:
        constraint.accept(token)
    assert constraint.forced() == []
    for token in tokens(engine, " Then I say:"):
        constraint.accept(token)
    assert constraint.forced() == tokens(engine, "1")


def test_drafts_go_as_far_as_the_trigger(engine: Engine) -> None:
    constraint = start(engine, spec())
    guess = tokens(engine, "Well, <call>")
    assert constraint.allowed([*guess, 5, 6]) == len(guess)
    assert constraint.allowed(guess[:-1]) == len(guess) - 1
    for token in guess:
        constraint.accept(token)
    right = tokens(engine, "a, b")
    assert constraint.allowed([*right, 5]) == len(right)


def test_drafts_change_nothing(engine: Engine) -> None:
    """Guesses that reach over the trigger into the call, right ones and wrong ones."""
    bias = dict.fromkeys(tokens(engine, "<call>"), 30.0)
    sampling = Sampling(seed=5, logit_bias=bias)
    expected = engine.submit(ASK, constraint=spec(), max_tokens=60, sampling=sampling)
    engine.step()
    (sequence,) = engine.generator.scheduler.running
    engine.run()
    right = sequence.tokens[sequence.prompt_length :].tolist()
    request = engine.submit(ASK, constraint=spec(), max_tokens=60, sampling=sampling)
    engine.step()
    (sequence,) = engine.generator.scheduler.running
    while engine.generator.busy:
        done = sequence.output_length
        guesses = [*right[done : done + 3], 5, 6]
        assert sequence.constraint is not None
        allowed = sequence.constraint.allowed(guesses)
        sequence.propose(guesses[: min(allowed, sequence.limit - sequence.length - 1)])
        engine.step()
        engine.check_books()
    assert engine.text[request] == engine.text[expected]


def test_a_model_that_wants_to_call_does_so_by_itself(engine: Engine) -> None:
    """The trigger is sampled, token by token, among others that a bias makes likely."""
    schema = json.dumps({**closed(n=INT), "x-guidance": {"whitespace_flexible": False}})
    marker = tokens(engine, "<file_sep>", special=True)[0]
    text = f"start: <[{marker}]> %json {schema}"
    sampling = Sampling(temperature=0, logit_bias={marker: 1e6})
    constraint = spec("<file_sep>", text=text)
    answer = engine.ask(ASK, constraint=constraint, sampling=sampling, max_tokens=40)
    assert json.loads(answer).keys() == {"n"}
