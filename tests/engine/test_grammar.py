"""Grammars over the real model's vocabulary: what they allow, force, refuse, and survive."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from json_schemas import HOSTILE, REFUSED, VARIED, Schema, closed

from lmnb.engine import grammar_source, native
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import read_header
from lmnb.engine.grammar import Grammar, Grammars
from lmnb.engine.model import Model
from lmnb.engine.options import ConstraintSpec, Segment
from lmnb.errors import InvalidRequest, LmnbError, NotSupported

FORMATS = jsonschema.FormatChecker(["uuid", "ipv4", "email"])
"""Without dates: RFC 3339 has a year 0, Python has not."""


class Writer:
    """Writes under a grammar as a model with random weights would, which forced tokens fit."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.grammars = Grammars(model)
        self._closers = [
            token for token, piece in enumerate(model.pieces) if piece and not piece.strip(b'"}]0')
        ]

    def start(self, schema: Schema | str, **options: str) -> Grammar:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        return self.grammars.start(ConstraintSpec(kind="json_schema", text=text, **options))  # type: ignore[arg-type]

    def write(self, grammar: Grammar, seed: int = 0, most: int = 1500) -> list[int]:
        """Tokens until nothing but the end may follow, or `most`."""
        random = np.random.default_rng(seed)
        written: list[int] = []
        while len(written) < most:
            for token in grammar.forced():
                grammar.accept(token)
                written.append(token)
            if grammar.finished:
                break
            token = self.choose(grammar, random, hurry=min(8, len(written) / 10))
            grammar.accept(token)
            if token in self.model.end_tokens:
                break
            written.append(token)
        return written

    def choose(self, grammar: Grammar, random: np.random.Generator, hurry: float) -> int:
        row = random.normal(size=self.model.n_vocab).astype(np.float32)
        row[self._closers] += hurry
        grammar.mask(row)
        token = int(row.argmax())
        assert np.isfinite(row[token])
        return token

    def text(self, tokens: list[int]) -> str:
        return b"".join(self.model.pieces[token] for token in tokens).decode()

    def tokens(self, text: str) -> list[int]:
        found: list[int] = self.model.tokenize((Segment(text),), add_bos=False).tolist()
        return found


@pytest.fixture(scope="module")
def writer(chat_model_path: Path) -> Iterator[Writer]:
    native.init(lambda text: None)
    model = Model.load(
        str(chat_model_path), read_header(chat_model_path), LoadConfig(), on_progress=lambda _: None
    )
    yield Writer(model)
    model.close()


def spec(text: str, kind: str = "json_schema", *, lenient: bool = False) -> ConstraintSpec:
    return ConstraintSpec(kind=kind, text=text, lenient=lenient)  # type: ignore[arg-type]


# --- what comes out --------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIED)
def test_whatever_is_written_fits_the_schema(writer: Writer, name: str) -> None:
    schema = VARIED[name]
    for seed in range(5):
        text = writer.text(writer.write(writer.start(schema), seed))
        jsonschema.validate(json.loads(text), schema, format_checker=FORMATS)


def test_any_object(writer: Writer) -> None:
    for seed in range(5):
        grammar = writer.grammars.start(ConstraintSpec(kind="json_object"))
        assert isinstance(json.loads(writer.text(writer.write(grammar, seed))), dict)


def test_regex(writer: Writer) -> None:
    pattern = r"(yes|no), [0-9]{1,3} times"
    texts = set()
    for seed in range(20):
        texts.add(writer.text(writer.write(writer.grammars.start(spec(pattern, "regex")), seed)))
    assert len(texts) > 5
    assert all(re.fullmatch(pattern, text) for text in texts)


def test_lark(writer: Writer) -> None:
    grammar = 'start: sum\nsum: NUMBER ("+" NUMBER)~2\nNUMBER: /[1-9][0-9]{0,2}/'
    for seed in range(20):
        text = writer.text(writer.write(writer.grammars.start(spec(grammar, "lark")), seed))
        assert re.fullmatch(r"[1-9]\d{0,2}(\+[1-9]\d{0,2}){2}", text)


# --- forced tokens ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["records", "unicode", "discriminated", "const", "deep"])
def test_forced_tokens_are_those_of_the_tokenizer(writer: Writer, name: str) -> None:
    """So that a later turn, which has the answer as text, finds it in the prefix cache."""
    schema = VARIED[name]
    example = json.loads(writer.text(writer.write(writer.start(schema), 3)))
    tokens = writer.tokens(json.dumps(example, separators=(",", ":"), ensure_ascii=False))
    grammar = writer.start(schema)
    done = forced = 0
    while done < len(tokens):
        ahead = grammar.forced()
        assert ahead == tokens[done : done + len(ahead)]
        forced += len(ahead)
        for token in ahead or tokens[done : done + 1]:
            grammar.accept(token)
            done += 1
    assert grammar.finished
    assert forced >= len(tokens) // 3


def test_forced_tokens_come_in_portions(writer: Writer) -> None:
    text = "All work and no play makes Jack a dull boy. " * 100
    grammar = writer.start({"const": text})
    portions: list[list[int]] = []
    while ahead := grammar.forced():
        portions.append(ahead)
        for token in ahead:
            grammar.accept(token)
    assert max(map(len, portions)) == 64
    assert json.loads(writer.text(list(chain.from_iterable(portions)))) == text
    assert grammar.finished


# --- refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused(writer: Writer, name: str) -> None:
    text, expected = REFUSED[name]
    with pytest.raises(InvalidRequest, match=re.escape(expected)) as caught:
        grammar_source.check(spec(text))
    assert len(caught.value.message) < 500
    with pytest.raises(InvalidRequest):
        writer.start(text)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("regex", "(", "unclosed group"),
        ("regex", "(?!x)a", "look-around"),
        ("regex", "(" * 50_000, "nest limit|unclosed"),
        ("lark", "start: ??", "Expected value"),
        ("lark", "start: missing", "missing"),
        ("lark", "start: A\nA: B\nB: A", "circular"),
        ("lark", "start: " + "(" * 50_000 + '"a"' + ")" * 50_000, "too deeply nested"),
        ("lark", 'start: %json {"type":"integer","multipleOf":999983}', "too many digits"),
        ("lark", "start: %json " + '{"not":' * 200 + "{}" + "}" * 200, "too deeply"),
        ("lark", 'start: %json {"not": {}}', 'Unimplemented keys: ."not"'),
        ("lark", "start: a\n" + 'a: "b"\n' * 50_000, "characters"),
    ],
)
def test_bad_regexes_and_grammars(kind: str, text: str, expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        grammar_source.check(spec(text, kind))


def test_a_schema_that_forces_an_answer_without_end(writer: Writer) -> None:
    schema = {"$defs": {"a": closed(x={"$ref": "#/$defs/a"})}, "$ref": "#/$defs/a"}
    with pytest.raises(InvalidRequest, match="Too many items"):
        writer.start(schema)


@pytest.mark.parametrize("text", ["start: a\na: b\nb: a", 'start: start "a"'])
def test_grammars_that_fit_no_text(writer: Writer, text: str) -> None:
    with pytest.raises(InvalidRequest, match="no text that fits"):
        writer.grammars.start(spec(text, "lark"))


def test_a_schema_that_refers_to_itself_only(writer: Writer) -> None:
    with pytest.raises(InvalidRequest, match="no text that fits"):
        writer.start({"$ref": "#"})


@pytest.mark.parametrize("name", ["not", "if", "uniqueItems", "contains", "format", "oneOf"])
def test_lenient_leaves_out_and_says_so(writer: Writer, name: str) -> None:
    text, expected = REFUSED[name]
    (warning,) = grammar_source.check(spec(text, lenient=True))
    assert expected in warning
    json.loads(writer.text(writer.write(writer.grammars.start(spec(text, lenient=True)))))
    with pytest.raises(NotSupported):
        grammar_source.check(spec(text))


def test_lenience_inside_lark_is_said_too() -> None:
    text = 'start: %json {"not": {}, "x-guidance": {"lenient": true}}'
    (warning,) = grammar_source.check(spec(text, "lark"))
    assert "'not'" in warning
    assert grammar_source.check(spec("start: <|im_end|>", "lark")) == ()


def test_lenient_is_no_licence(writer: Writer) -> None:
    for text in ("{", '{"$ref": "#/x"}', '{"type":"string","pattern":"("}'):
        with pytest.raises(InvalidRequest):
            grammar_source.check(spec(text, lenient=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_end_in_json_or_an_error(writer: Writer, name: str) -> None:
    schema = HOSTILE[name]
    try:
        grammar_source.check(spec(json.dumps(schema)))
        grammar = writer.start(schema)
        written = writer.write(grammar, most=300)
    except InvalidRequest as error:
        assert len(error.message) < 500  # noqa: PT017
        return
    if grammar.finished:
        jsonschema.validate(json.loads(writer.text(written)), schema)


def test_a_long_chain_of_rules() -> None:
    rules = "\n".join(f"r{i}: r{i + 1} r{i + 1}" for i in range(10_000))
    assert grammar_source.check(spec(f'start: r0\n{rules}\nr10000: "a"', "lark")) == ()


def test_a_forbidden_token_is_an_error_and_stays_one(writer: Writer) -> None:
    grammar = writer.start(VARIED["flat"])
    wrong = writer.tokens("No")[0]
    assert grammar.allowed([wrong]) == 0
    with pytest.raises(LmnbError, match="grammar of the answer failed"):
        grammar.accept(wrong)
    with pytest.raises(LmnbError):
        grammar.mask(np.zeros(writer.model.n_vocab, np.float32))


# --- compiled grammars -----------------------------------------------------------------


def test_answers_with_one_schema_do_not_meet(writer: Writer) -> None:
    first, second = writer.start(VARIED["flat"]), writer.start(VARIED["flat"])
    for token in first.forced():
        first.accept(token)
    assert second.forced()[0] in writer.tokens('{"name')
    assert json.loads(writer.text(writer.write(second)))


def test_compiled_grammars_are_kept_within_bounds(writer: Writer) -> None:
    for i in range(100):
        writer.start({"const": i})
    compiled = writer.grammars._compiled
    assert len(compiled) == 32
    (last,) = (matcher for key, matcher in compiled.items() if key[1] == '{"const": 99}')
    writer.start({"const": 99})
    assert compiled[("json_schema", '{"const": 99}', False)] is last


# --- thinking --------------------------------------------------------------------------


def accept(writer: Writer, grammar: Grammar, text: str) -> None:
    for token in writer.tokens(text):
        row = np.zeros(writer.model.n_vocab, np.float32)
        grammar.mask(row)
        assert np.isfinite(row[token]), (text, writer.model.pieces[token])
        grammar.accept(token)


def test_it_begins_after_the_thinking(writer: Writer) -> None:
    grammar = writer.start(VARIED["flat"], after="</think>")
    assert grammar.forced() == []
    accept(writer, grammar, 'Hm. {"name": 3} <think> < / think> </thi')
    assert not grammar.finished
    accept(writer, grammar, "</think>")
    assert json.loads(writer.text(writer.write(grammar)))
    assert grammar.finished


def test_thinking_cannot_end_the_answer(writer: Writer) -> None:
    grammar = writer.start(VARIED["flat"], after="</think>")
    row = np.zeros(writer.model.n_vocab, np.float32)
    grammar.mask(row)
    ends = sorted(writer.model.end_tokens)
    assert np.isneginf(row[ends]).all()
    assert np.isfinite(np.delete(row, ends)).all()
    assert grammar.allowed([writer.tokens("So")[0], ends[0]]) == 1


def test_what_follows_the_marker_in_one_token_counts(writer: Writer) -> None:
    token = writer.model.pieces.index(b":{")
    grammar = writer.start(VARIED["flat"], after=":")
    accept(writer, grammar, "Well")
    grammar.accept(token)
    assert json.loads("{" + writer.text(writer.write(grammar)))
    space = writer.model.pieces.index(b"\n\n")
    grammar = writer.start(VARIED["flat"], after="\n")
    grammar.accept(space)
    assert json.loads(writer.text(writer.write(grammar)))


@pytest.mark.parametrize(
    ("after", "thought"), [(":", "So"), ("</think>", "So </think"), (" so", "And")]
)
def test_no_token_ends_the_thinking_and_goes_on_wrongly(
    writer: Writer, after: str, thought: str
) -> None:
    """Precisely those are forbidden, of all tokens that there are."""
    grammar = writer.grammars.start(ConstraintSpec(kind="regex", text="[a-f!]+", after=after))
    for token in writer.model.continuation(thought):
        grammar.accept(token)
    row = np.zeros(writer.model.n_vocab, np.float32)
    row[sorted(writer.model.end_tokens)] = -np.inf
    expected = row.copy()
    for token, piece in enumerate(writer.grammars._vocabulary.pieces):  # type: ignore[union-attr]
        beyond = (thought.encode() + piece).partition(after.encode())[2].lstrip()
        if not re.fullmatch(rb"[a-f!]*", beyond):
            expected[token] = -np.inf
    grammar.mask(row)
    assert np.flatnonzero(row != expected).tolist() == []
    assert np.isneginf(expected).sum() > 10 + len(writer.model.end_tokens)


def test_a_model_that_wants_to_end_the_thinking_and_go_on_wrongly_ends_it(writer: Writer) -> None:
    pieces = writer.model.pieces
    grammar = writer.start(VARIED["array lengths"], after=":")
    row = np.zeros(writer.model.n_vocab, np.float32)
    row[pieces.index(b":{")] = 9
    grammar.mask(row)
    assert pieces[int(row.argmax())] == b":"
    grammar.accept(int(row.argmax()))
    assert grammar.begun


def test_the_model_may_think_or_answer_at_once(writer: Writer) -> None:
    options = {"opening": "<think>", "after": "</think>"}
    thinking = writer.start(VARIED["flat"], **options)
    assert thinking.forced() == []
    accept(writer, thinking, "<think>I see.</think>")
    assert json.loads(writer.text(writer.write(thinking)))
    answering = writer.start(VARIED["flat"], **options)
    row = np.zeros(writer.model.n_vocab, np.float32)
    answering.mask(row)
    allowed = {writer.model.pieces[token] for token in np.flatnonzero(np.isfinite(row))}
    assert allowed == {b'{"', b"<"}
    accept(writer, answering, '{"')
    assert json.loads('{"' + writer.text(writer.write(answering)))


def test_drafts_reach_into_the_answer_only_after_the_thinking(writer: Writer) -> None:
    grammar = writer.start(VARIED["flat"], after="</think>")
    tokens = writer.tokens("so</think>No")
    assert grammar.allowed(tokens) == len(writer.tokens("so</think>"))
    grammar = writer.start(VARIED["flat"])
    tokens = writer.tokens('{"name":"Jo","age":7}')
    assert grammar.allowed(tokens) == len(tokens)
    assert grammar.allowed([*tokens[:-1], *writer.tokens("No")]) == len(tokens) - 1
