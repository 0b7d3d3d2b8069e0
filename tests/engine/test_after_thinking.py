"""Where the thinking ends a grammar holds at once, in whatever tokens a model writes the border."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
from engine_driver import GREEDY, Engine
from made_models.scripted import MARKERS, Answer, scripted

from lmnb.chat.formats.format import Format, Span
from lmnb.chat.formats.reading.prompt_end import thinking_around
from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.crossing import Crossing, Crossings
from lmnb.engine.grammar import Grammars
from lmnb.engine.model import Model
from lmnb.engine.options import ConstraintSpec, Sampling, Segment, ThinkingBudget

CONTROLS = ("<think>", "</think>", "<call>", "</call>")
THOUGHT = "I look at it – again, and äöü again. " * 2
WORDS = "I would rather not."
CALL = "<call>look()</call>"
BUDGETS = (None, 0, 3, 1000)


@pytest.fixture(scope="module", autouse=True)
def native_library() -> None:
    native.init(lambda text: None)


# --- tokens across a border ----------------------------------------------------------------


def crossings(text: bytes, seen: bytes, *pieces: bytes) -> list[Crossing]:
    return list(Crossings(pieces, text).at(seen))


def test_tokens_that_end_a_text_and_go_on() -> None:
    pieces = (b">", b">\n", b">{", b">\n {", b"nk>a", b"x>a", b"end>a", b"it.<end> a", b"")
    found = crossings(b"<end>", b"so <end", *pieces)
    assert [(pieces[one.token], one.ending, one.beyond) for one in found] == [
        (b">{", b">", b"{"),
        (b">\n {", b">", b"{"),
        (b"it.<end> a", b"it.<end>", b"a"),
    ]
    assert [one.token for one in crossings(b"<end>", b"so <", *pieces)] == [6, 7]
    assert [one.token for one in crossings(b"<end>", b"so", *pieces)] == [7]


def test_what_is_complete_first_counts() -> None:
    (found,) = crossings(b"\n\n", b"a\n", b"\n\n\nb")
    assert (found.ending, found.beyond) == (b"\n", b"b")


# --- in the loop ---------------------------------------------------------------------------


@pytest.fixture(params=product((CONTROLS, ()), (None, 0, 1, 2), (0, 4)), ids=str)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A model that thinks and then does not call. Marks are control tokens or text, in any pieces."""
    controls, seed, drafts = request.param
    rest = f"{THOUGHT}\n</think>\n\n{WORDS}"
    path = scripted(
        tmp_path / "thinker.gguf",
        [
            Answer([Segment(f"<think>\n{rest}", special=True)]),
            Answer([Segment(rest, special=True)], MARKERS[0]),
            Answer([Segment(rest)], MARKERS[1]),
        ],
        controls=controls,
        seed=seed,
    )
    engine = Engine(path, LoadConfig(context_length=1024, parallel=4, draft_tokens=drafts))
    yield engine
    engine.check_idle()
    engine.generator.close()


def forced(model: Model, *, begun: bool) -> ConstraintSpec:
    """Nothing but a call, after the thinking, which has begun or may."""
    call = " ".join(
        f"<[{model.control_tokens[part]}]>" if control else f'"{part}"'
        for part, control in model.parts(CALL)
    )
    text = f"start: /[ \\t\\r\\n]{{1,4}}/? {call}"
    opening = None if begun else "<think>"
    return ConstraintSpec(kind="lark", text=text, after="</think>", opening=opening, closing=True)


def bound(tokens: int | None, *, begun: bool) -> ThinkingBudget | None:
    if tokens is None:
        return None
    return ThinkingBudget(tokens=tokens, end="\n</think>", opening="<think>", begun=begun)


def answers(engine: Engine, prompt: str) -> list[tuple[int | None, str]]:
    """Bounds and answers, of all of them at once."""
    begun = prompt.endswith("<think>\n")
    spec = forced(engine.generator.model, begun=begun)
    requests = {
        engine.submit(
            prompt,
            constraint=spec,
            thinking=bound(tokens, begun=begun),
            sampling=sampling,
            max_tokens=400,
            show_special=CONTROLS,
        ): tokens
        for tokens, sampling in product(BUDGETS, (GREEDY, Sampling(temperature=0.8)))
    }
    engine.run()
    assert not engine.errors
    return [(tokens, engine.text[request]) for request, tokens in requests.items()]


@pytest.mark.parametrize("marker", MARKERS[:2])
def test_a_forced_call_follows_thinking_that_the_prompt_began(engine: Engine, marker: str) -> None:
    """What ends it may be spelled out, too, where there is a control token for it."""
    for tokens, text in answers(engine, f"{marker} How?<think>\n"):
        thought, _, call = text.partition("</think>")
        assert re.fullmatch(rf"\s*{re.escape(CALL)}", call)
        if tokens in {None, 1000}:
            assert thought == f"{THOUGHT}\n"
        else:
            assert THOUGHT.startswith(thought.removesuffix("\n"))


def test_a_forced_call_comes_where_thinking_is_left_to_the_model(engine: Engine) -> None:
    """A model that is not to begin as it wants to says anything that is allowed."""
    for _, text in answers(engine, "How?"):
        thought, _, call = text.rpartition("</think>")
        assert not thought or thought.startswith("<think>")
        assert re.fullmatch(rf"\s*{re.escape(CALL)}", call)


def test_thinking_that_an_answer_goes_on_with_has_begun() -> None:
    form, prompt = Format(thinking=Span("<think>\n", "</think>")), "<think>\nI look"
    found = thinking_around(form, prompt, calls="free", wanted=None, continued=True)
    assert found == (None, "</think>")
    assert thinking_around(form, prompt, calls="free", wanted=None) == ("<think>", "</think>")


def test_tokens_without_a_text_are_no_control_tokens(tmp_path: Path) -> None:
    """The scripted model has one, since its answer begins with a control token."""
    path = scripted(tmp_path / "silent.gguf", [Answer(CALL)], controls=CONTROLS)
    engine = Engine(path, LoadConfig(context_length=256, parallel=1))
    model = engine.generator.model
    spec = msgspec.structs.replace(forced(model, begun=True), after=None)
    row = np.zeros(model.n_vocab, np.float32)
    Grammars(model).start(spec).mask(row)
    found = {model.text(token) for token in np.flatnonzero(np.isfinite(row)).tolist()}
    engine.generator.close()
    assert found == {"<call>", " ", "\t", "\r", "\n"}
