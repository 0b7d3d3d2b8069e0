"""Bounds on thinking: counted right, ended with the family's mark, whatever else is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from call_formats import FORMATS
from engine_driver import Engine
from made_models.scripted import MARKERS, Answer, scripted

from lmnb.chat.formats.format import Format, Span
from lmnb.chat.formats.reading.prompt_end import thinking_budget
from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.grammar import CONTROL, Grammars
from lmnb.engine.options import ConstraintSpec, Segment, ThinkingBudget, Trigger
from lmnb.engine.protocol import Step
from lmnb.engine.thinking import ThinkingLimit, Thoughts, _is_whole

# --- counting ------------------------------------------------------------------------------


def counted(
    *pieces: bytes, opening: str = "<think>", end: str = "</think>", begun: bool = False
) -> tuple[int, bool]:
    """Tokens of thinking, and whether it goes on; the same in copies made on the way."""
    thoughts = Thoughts(opening.encode(), end.encode(), begun=begun)
    for piece in pieces:
        copy = thoughts.copy()
        copy.feed(b"something else")
        thoughts.feed(piece)
    return thoughts.count, thoughts.now


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((b"<think>", b"a", b"b"), (2, True)),
        ((b"<", b"think", b">\n", b"a", b"b", b"</", b"think>", b"c"), (3, False)),
        ((b" \n", b"<think>a", b"b</think>c", b"d"), (0, False)),
        ((b"<think>a</think>", b"\n", b"<think>", b"b"), (1, True)),
        ((b"Hm", b"<think>", b"b"), (0, False)),
        ((b"<thinking>", b"b"), (0, False)),
        ((b"<th", b"e <think>", b"b"), (0, False)),
    ],
)
def test_tokens_of_thinking(pieces: tuple[bytes, ...], expected: tuple[int, bool]) -> None:
    assert counted(*pieces) == expected


def test_thinking_that_the_prompt_began() -> None:
    assert counted(b"a", b"b", begun=True) == (2, True)
    assert counted(b"a", b"</think>", b"b", begun=True, opening="") == (1, False)


def test_marks_elsewhere_are_words() -> None:
    """Also those that are control tokens: somebody writes about them, as in a call's arguments."""
    control = CONTROL + b"<think>"
    thoughts = Thoughts(control, CONTROL + b"</think>", begun=False)
    for token in (b'{"q": "a ', control, b' b"}'):
        thoughts.feed(token)
    assert (thoughts.count, thoughts.now, thoughts.over) == (0, False, True)


ANALYSIS, FINAL, CALL = (
    b"<|channel|>analysis<|message|>",
    b"<|channel|>final<|message|>",
    b" to=functions.f<|channel|>commentary<|message|>",
)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((ANALYSIS, b"a", b"<|end|>", b"<|start|>", b"assistant", ANALYSIS, b"b"), (2, True)),
        ((ANALYSIS, b"a", b"<|end|>", ANALYSIS, b"b"), (2, True)),
        (
            (FINAL, b"a", b"<|end|><|start|>assistant<|cha", b"nnel|>analysis<|message|>", b"b"),
            (1, True),
        ),
        ((FINAL, b"a", ANALYSIS, b"b"), (0, False)),
        ((CALL, b'{"q": "', ANALYSIS, b"b", b'"}'), (0, False)),
        (
            (FINAL, b"a", b"<|end|>", b"<|start|>assistant", CALL, b'{"q": "', ANALYSIS, b"b"),
            (0, False),
        ),
    ],
)
def test_any_message_may_be_thinking(pieces: tuple[bytes, ...], expected: tuple[int, bool]) -> None:
    thoughts = Thoughts(ANALYSIS, b"<|end|>", begun=False, between=b"<|start|>assistant")
    for piece in pieces:
        thoughts.feed(piece)
    assert (thoughts.count, thoughts.now) == expected
    assert not thoughts.over


def test_characters_are_not_cut() -> None:
    assert [_is_whole("ä€😀".encode()[:length]) for length in range(10)] == [
        *(True, False, True, False, False, True, False, False, False, True)
    ]
    thoughts = Thoughts(b"", b"</think>", begun=True)
    for byte in "a😀".encode():
        thoughts.feed(bytes([byte]))
    assert not any(_spent(text, 2) for text in (b"a\xf0", b"a\xf0\x9f", b"a\xf0\x9f\x98"))
    assert _spent("a😀".encode(), 2)
    assert _spent(b"a" + 5 * b"\xf0", 2)  # it makes no character of it


def _spent(text: bytes, budget: int) -> bool:
    thoughts = Thoughts(b"", b"</think>", begun=True)
    for byte in text:
        thoughts.feed(bytes([byte]))
    return thoughts.is_spent(budget)


# --- in the loop ---------------------------------------------------------------------------

THOUGHT = "I look, and I look, and I look at it – again and again. " * 3
SHORT = "It rains."
WORDS = f"\n\n{SHORT}"
BEGUN = f"{MARKERS[0]} How?<think>\n"
"""A prompt that begins the thinking."""
CONTROLS = ("<think>", "</think>")
BUDGETS = (0, 1, 7, 20)
END = "\n\n\n\n</think>"
"""So long that the scripted model loses its place, and goes on with what follows the thought."""


@pytest.fixture(scope="module", params=["control tokens", "text"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A model that thinks for long; its marks are control tokens, or text like any other."""
    native.init(lambda text: None)
    rest = [Segment(f"{THOUGHT}\n</think>", special=True), Segment(WORDS)]
    whole = [Segment(f"<think>\n{THOUGHT}\n</think>", special=True), Segment(WORDS)]
    path = scripted(
        tmp_path_factory.mktemp("scripted") / "thinker.gguf",
        [Answer(whole), Answer(rest, MARKERS[0])],
        controls=CONTROLS if request.param == "control tokens" else (),
    )
    engine = Engine(path, LoadConfig(context_length=1024, parallel=4, draft_tokens=0))
    yield engine
    engine.generator.close()


@pytest.fixture(autouse=True)
def rest(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "engine" in request.fixturenames:
        request.getfixturevalue("engine").check_idle()


def budget(tokens: int, *, begun: bool = False) -> ThinkingBudget:
    return ThinkingBudget(tokens=tokens, end=END, opening="<think>", begun=begun)


def ask(engine: Engine, tokens: int, prompt: str = "How?", **options: object) -> str:
    """The answer, thinking included."""
    options = {"max_tokens": 400, "show_special": CONTROLS} | options
    begun = prompt.endswith("<think>\n")
    request = engine.submit(prompt, thinking=budget(tokens, begun=begun), **options)  # type: ignore[arg-type]
    engine.run()
    assert not engine.errors
    return engine.text[request]


@pytest.mark.parametrize("tokens", BUDGETS)
def test_the_end_is_written_and_the_answer_goes_on(engine: Engine, tokens: int) -> None:
    text = ask(engine, tokens)
    thought, end, words = text.removeprefix("<think>").partition(END)
    assert (end, words) == (END, WORDS)
    assert f"\n{THOUGHT}".startswith(thought)
    if tokens:
        assert len(ask(engine, tokens - 1)) < len(text)


@pytest.mark.parametrize("tokens", BUDGETS)
def test_thinking_that_the_prompt_began_ends_too(engine: Engine, tokens: int) -> None:
    """With nothing left to think, the end is all that it may write."""
    text = ask(engine, tokens, prompt=BEGUN)
    thought, end, words = text.partition(END)
    assert end == END
    assert THOUGHT.startswith(thought)
    assert bool(thought) == bool(tokens)
    if tokens:  # else the scripted model has not begun its answer
        assert words == WORDS


def test_several_answers_at_once_have_bounds_of_their_own(engine: Engine) -> None:
    alone = [ask(engine, tokens) for tokens in BUDGETS]
    options = {"max_tokens": 400, "show_special": CONTROLS}
    requests = [engine.submit("How?", thinking=budget(tokens), **options) for tokens in BUDGETS]  # type: ignore[arg-type]
    engine.run()
    assert [engine.text[request] for request in requests] == alone
    assert len(set(alone)) == len(BUDGETS)


def test_more_than_it_thinks_changes_nothing(engine: Engine) -> None:
    free = engine.ask("How?", max_tokens=400, show_special=CONTROLS)
    assert free == f"<think>\n{THOUGHT}\n</think>{WORDS}"
    assert ask(engine, 1000) == free


def test_one_pass_is_spent_on_the_end(engine: Engine) -> None:
    request = engine.submit(
        BEGUN, thinking=budget(2, begun=True), max_tokens=60, show_special=CONTROLS
    )
    steps = 0
    while engine.generator.busy:
        engine.step()
        steps += 1
    forced = len(engine.generator.model.continuation(END)) - 1
    assert engine.text[request].endswith(f"{END}{WORDS}")
    assert steps == engine.ends[request].output_tokens - forced


def test_limits_and_stop_strings_go_first(engine: Engine) -> None:
    assert ask(engine, 7, stop=("rain",)).endswith("</think>\n\nIt ")
    assert ask(engine, 20, stop=("look,",)) == "<think>\nI "
    request = engine.submit("How?", thinking=budget(50), max_tokens=5, show_special=CONTROLS)
    engine.run()
    assert engine.ends[request].reason == "length"
    assert "</think>" not in engine.text[request]


def test_what_is_written_comes_piece_by_piece(engine: Engine) -> None:
    request = engine.submit("How?", thinking=budget(7), max_tokens=400, show_special=CONTROLS)
    pieces: list[str] = []
    while engine.generator.busy:
        for reply in engine.step():
            if isinstance(reply, Step):
                pieces += [delta.text for delta in reply.deltas]
    assert len(pieces) > 1
    assert "".join(pieces) == engine.text[request]


def test_log_probabilities_of_what_is_forced(engine: Engine) -> None:
    request = engine.submit(
        "How?", thinking=budget(3), max_tokens=400, show_special=CONTROLS, logprobs=0
    )
    found = []
    while engine.generator.busy:
        for reply in engine.step():
            if isinstance(reply, Step):
                found += [one for delta in reply.deltas for one in delta.logprobs]
    assert len(found) == engine.ends[request].output_tokens - 1  # but for the end of the answer
    assert all(one.logprob <= 0 for one in found)


@pytest.mark.parametrize("tokens", [1, 20, 1000])
def test_a_grammar_begins_after_it(engine: Engine, tokens: int) -> None:
    """Nothing of the answer is bound before its thinking is over, whoever ends it."""
    spec = ConstraintSpec(
        kind="lark", text='start: /\\s{0,2}/ "It " ("rains" | "snows") "!"', after="</think>"
    )
    text = ask(engine, tokens, prompt=BEGUN, constraint=spec)
    thought, _, words = text.partition("</think>")
    assert THOUGHT.startswith(thought.rstrip())
    assert words == f"{WORDS[:-1]}!"


def test_a_grammar_that_leaves_the_choice_to_think(engine: Engine) -> None:
    model = engine.generator.model
    spec = ConstraintSpec(kind="regex", text="yes|no", after="</think>", opening="<think>")
    limit = ThinkingLimit(model, budget(2), Grammars(model).start(spec))
    row = np.zeros(model.n_vocab, np.float32)
    for token in (*model.continuation("<think>"), *model.continuation("ab")):
        limit.mask(row)
        assert np.isfinite(row[token])
        row.fill(0)
        limit.accept(token)
    assert limit.allowed([ord("a")]) == 0
    assert limit.forced() == []
    end = model.continuation(END)
    for token in end:
        limit.mask(row)
        assert np.flatnonzero(np.isfinite(row)).tolist() == [token]
        row.fill(0)
        limit.accept(token)
    limit.mask(row)
    assert {model.pieces[token][:1] for token in np.flatnonzero(np.isfinite(row))} == {b"y", b"n"}


def wanted(limit: ThinkingLimit, token: int) -> int:
    """What is next where the model wants this token most."""
    row = np.zeros(limit._model.n_vocab, np.float32)
    row[token] = 1
    limit.mask(row)
    (found,) = np.flatnonzero(np.isfinite(row)).tolist()
    limit.accept(found)
    return int(found)


def test_the_rest_of_an_end_that_has_begun(engine: Engine) -> None:
    model = engine.generator.model
    limit = ThinkingLimit(model, budget(3, begun=True), None)
    for token in model.continuation("a\n\n"):
        limit.accept(token)
    rest = model.continuation("\n\n</think>")
    assert wanted(limit, ord("a")) == rest[0]
    assert limit.forced() == rest[1:]


def test_the_end_in_the_tokens_that_the_model_wants(engine: Engine) -> None:
    """White space is left to it. A control token is not begun by what spells it out."""
    model = engine.generator.model
    limit = ThinkingLimit(model, budget(1, begun=True), None)
    limit.accept(ord("a"))
    assert wanted(limit, ord("\n")) == ord("\n")
    assert limit.forced() == []
    if "</think>" in model.control_tokens:
        assert wanted(limit, ord("<")) == ord("\n")
        assert limit.forced() == model.continuation("\n\n</think>")
    else:
        assert [wanted(limit, ord(letter)) for letter in "</thin"] == [*b"</thin"]
        assert wanted(limit, ord("g")) == ord("k")
        assert limit.forced() == [ord(">")]


def test_a_call_may_begin_after_it(engine: Engine) -> None:
    """A grammar that waits for a text does not find it in the thinking."""
    spec = ConstraintSpec(
        kind="lark",
        text='start: " look," " they."',
        after="</think>",
        trigger=Trigger(texts=(" look,",)),
    )
    assert ask(engine, 7, prompt=BEGUN, constraint=spec).endswith(f"{END}{WORDS}")
    trigger = Trigger(texts=("It",))
    spec = msgspec.structs.replace(spec, text="start: /It[a-z ]{1,9}!/", trigger=trigger)
    text = ask(engine, 7, prompt=BEGUN, constraint=spec)
    assert f"{END}\n\nIt" in text
    assert text.endswith("!")


CHANNELS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>", "<|call|>")
THINKS = Format(thinking=Span("<think>", "</think>"))
MARKED = '{"q": "a <think> b </think> c"}'


@pytest.mark.parametrize("controls", [(), CONTROLS], ids=["text", "control tokens"])
@pytest.mark.parametrize(
    ("form", "text"),
    [
        pytest.param(THINKS, f"<think></think><|call_begin|>f:0{MARKED}<|call_end|>", id="empty"),
        pytest.param(THINKS, "<think>\n\n</think>\n\nIt rains <think>!", id="white space"),
        pytest.param(
            msgspec.structs.replace(THINKS, answer=Span("<response>", "</response>")),
            f"<|tool_call|>[{MARKED}]",
            id="marks in a call",
        ),
        pytest.param(
            Format(thinking=Span("", "[BEGIN]"), answer=Span("", "[END]")),
            "[BEGIN]In Zürich [BEGIN] it rains.[END]",
            id="only an end",
        ),
        pytest.param(
            FORMATS["harmony"],
            " to=functions.f<|channel|>commentary json<|message|>"
            '{"q": "a <|channel|>analysis<|message|> b"}',
            id="channels in a call",
        ),
        pytest.param(
            FORMATS["harmony"],
            "<|channel|>final<|message|>It writes <|channel|>analysis<|message|> then.",
            id="channels in words",
        ),
    ],
)
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_an_answer_without_thoughts_stays_as_it_is(
    form: Format, text: str, controls: tuple[str, ...], seed: int | None, tmp_path: Path
) -> None:
    bound = thinking_budget(form, "<|start|>assistant", 0)
    answer = Answer([Segment(text, special=True)])
    path = scripted(tmp_path / "none.gguf", [answer], controls=(*controls, *CHANNELS), seed=seed)
    engine = Engine(path, LoadConfig(context_length=512, parallel=1, draft_tokens=0))
    shown = (*CONTROLS, *CHANNELS)
    assert engine.ask("How?", max_tokens=200, show_special=shown, thinking=bound) == text
    engine.generator.close()


def test_a_model_that_thinks_again_at_once_is_not_kept_from_it_for_ever(tmp_path: Path) -> None:
    thoughts = f"<think>{THOUGHT}</think>"
    path = scripted(
        tmp_path / "again.gguf",
        [
            Answer(
                [Segment(thoughts, special=True), Segment(f"\n\n{thoughts}{SHORT}", special=True)]
            )
        ],
        controls=CONTROLS,
    )
    engine = Engine(path, LoadConfig(context_length=1024, parallel=1, draft_tokens=0))
    text = engine.ask("How?", max_tokens=600, show_special=CONTROLS, thinking=budget(3))
    engine.generator.close()
    first, rest = text.split(END)
    assert f"<think>{THOUGHT}".startswith(first)
    assert rest.endswith(f"{thoughts}{SHORT}")


def test_thoughts_of_several_messages_are_bounded_together(tmp_path: Path) -> None:
    """As gpt-oss writes them. Its headers are text to llama.cpp; thoughts may come after words."""
    harmony = FORMATS["harmony"]
    bound = thinking_budget(harmony, "<|start|>assistant", 3)
    assert bound is not None
    thought = f"{bound.opening}{THOUGHT}{bound.end}<|start|>assistant"
    said = f"<|channel|>commentary<|message|>Well.<|end|><|start|>assistant{thought}{thought}"
    answer = Answer([Segment(f"{said}<|channel|>final<|message|>{SHORT}", special=True)])
    path = scripted(tmp_path / "harmony.gguf", [answer], controls=CHANNELS, end="<|return|>")
    engine = Engine(path, LoadConfig(context_length=1024, parallel=1, draft_tokens=0))
    assert "<|channel|>" not in engine.generator.model.control_tokens
    text = engine.ask("How?", max_tokens=600, show_special=CHANNELS, thinking=bound)
    engine.generator.close()
    first, *others = text.split(bound.opening)[1:]
    for each in (first, *others):
        assert len(each.partition(bound.end)[0]) < len(THOUGHT) / 3
    assert bound.end in first


def test_no_further_message_of_thinking_begins(tmp_path: Path) -> None:
    """Once the bound is reached, as soon as a header would tell it from others."""
    bound = thinking_budget(FORMATS["harmony"], "<|start|>assistant", 2)
    assert bound is not None
    path = scripted(tmp_path / "none.gguf", [Answer("It rains.")], controls=CHANNELS)
    engine = Engine(path, LoadConfig(context_length=512, parallel=1))
    model = engine.generator.model
    limit = ThinkingLimit(model, bound, None)

    def possible(letters: bytes) -> bytes:
        row = np.full(model.n_vocab, -100, np.float32)
        row[list(letters)] = 1
        limit.mask(row)
        return bytes(letter for letter in letters if np.isfinite(row[letter]))

    begin = model.continuation("<|channel|>")
    for token in (*begin, *model.continuation("analysis<|message|>")):
        limit.mask(row := np.zeros(model.n_vocab, np.float32))
        assert np.isfinite(row[token])
        limit.accept(token)
    for token in b"ab":
        assert possible(b"xy") == b"xy"
        limit.accept(token)
    for token in model.continuation("<|end|><|start|>assistant"):
        limit.accept(token)
    assert limit.allowed([*begin, ord("a")]) == len(begin)
    assert limit.allowed([*begin, ord("f")]) == len(begin) + 1
    for token in begin:
        assert possible(b"af") == b"af"
        limit.accept(token)
    assert possible(b"afc") == b"fc"
    for token in model.continuation("final<|message|>"):
        limit.accept(token)
    assert possible(b"af") == b"af"
    engine.generator.close()


REPEATED = "1, 2, 3, 4, 5, " * 6
LOOKING_UP = LoadConfig(context_length=512, parallel=1, draft_tokens=8)


def test_drafts_do_not_go_beyond_it(chat_model_path: Path) -> None:
    """The real model, which goes on with what repeats, and guesses from it."""
    texts = []
    for config in (LOOKING_UP, msgspec.structs.replace(LOOKING_UP, draft_tokens=0)):
        engine = Engine(chat_model_path, config)
        end = len(engine.generator.model.continuation("</think>"))
        for tokens in (6, 16):
            bound = ThinkingBudget(tokens=tokens, end="</think>", begun=True)
            request = engine.submit(REPEATED, thinking=bound, max_tokens=tokens + end)
            engine.run()
            texts.append(engine.text[request])
            assert texts[-1].endswith("</think>")
            assert engine.ends[request].output_tokens == tokens + end
            assert (engine.ends[request].accepted_tokens > 1) == (config is LOOKING_UP)
        engine.generator.close()
    assert texts[:2] == texts[2:]
