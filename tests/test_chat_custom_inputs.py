"""Inputs of custom tools under Lark grammars: what may be written is what the grammar allows."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import lark
import msgspec
import numpy as np
import pytest
from call_formats import FORMATS
from lark_grammars import PATCH, SUMS, custom_tool
from llguidance import LLMatcher, LLTokenizer

from lmnb.chat.conversation import OutputFormat, ToolChoice
from lmnb.chat.events import ToolCallDelta
from lmnb.chat.formats.forcing.grammar import Around, Control, call_constraint
from lmnb.chat.formats.forcing.inputs import characters, expressions, rules
from lmnb.chat.formats.forcing.inputs.automaton import automaton
from lmnb.chat.formats.forcing.inputs.writing import Escaped, Raw, Writing
from lmnb.chat.formats.forcing.lark import Lark
from lmnb.chat.formats.format import Format
from lmnb.chat.formats.reading.split import Splitter
from lmnb.chat.tool_names import adapt
from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import read_header
from lmnb.engine.grammar import Grammar, Grammars
from lmnb.engine.model import Model
from lmnb.errors import InvalidRequest, NotSupported
from lmnb.server.openai.custom_input import custom_input

REQUIRED = ToolChoice("required", parallel=False)
AUTO = ToolChoice("auto", parallel=False)
MARK = "</parameter>"


class Written:
    """What of one grammar may be written, between quotes or before a mark."""

    def __init__(self, definition: str, writing: Writing, begin: str, *end: str) -> None:
        builder = Lark({})
        inner = rules.rules(builder, definition, writing)
        parts = (builder.literal(begin), inner, *map(builder.literal, end))
        self._begin, self._end = begin, "".join(end)
        self._tokens = LLTokenizer("byte")
        source = LLMatcher.grammar_from_lark(builder.text(" ".join(parts)))
        self._start = LLMatcher(self._tokens, source, log_level=0)
        assert not self._start.is_error(), self._start.get_error()

    def allows(self, text: str) -> bool:
        matcher = self._start.deep_copy()
        tokens = self._tokens.tokenize_bytes(f"{self._begin}{text}{self._end}".encode())
        if matcher.validate_tokens(tokens) < len(tokens):
            return False
        matcher.consume_tokens(tokens)
        return bool(matcher.is_accepting())


def escaped(definition: str) -> Written:
    return Written(definition, Escaped(), '"', '"')


def raw(definition: str) -> Written:
    return Written(definition, Raw("\n", MARK), "<parameter=input>\n", "\n", MARK)


def in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


# --- regular expressions -----------------------------------------------------------------

ALPHABET = 'ab<"\\\n\t\x01é'


class RegexMaker:
    """Small random regular expressions, in which much needs escapes."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pattern(self, depth: int = 3) -> str:
        kind = self._random.randrange(7 if depth else 2)
        if kind == 0:
            return self._char()
        if kind == 1:
            return self._random.choice([".", r"\w", r"\s", r"\D", "(?s:.)", self._set()])
        if kind in {2, 3}:
            return self.pattern(depth - 1) + self.pattern(depth - 1)
        if kind == 4:
            return f"({self.pattern(depth - 1)}|{self.pattern(depth - 1)})"
        count = self._random.choice(["*", "+", "?", "{2}", "{0,2}", "{1,}"])
        return f"(?:{self.pattern(depth - 1)}){count}"

    def text(self) -> str:
        return "".join(self._random.choices(ALPHABET, k=self._random.randrange(6)))

    def _char(self) -> str:
        return re.escape(self._random.choice(ALPHABET)).replace("\n", "n").replace("\t", "t")

    def _set(self) -> str:
        some = "".join(self._char() for _ in range(self._random.randrange(1, 4)))
        return f"[{self._random.choice(['', '^'])}{some}]"


@pytest.mark.parametrize("seed", range(8))
def test_regular_expressions_allow_the_same_texts_as_in_python(seed: int) -> None:
    """Escaped in JSON, and as they are."""
    maker = RegexMaker(seed)
    matched = 0
    for _ in range(30):
        pattern = maker.pattern()
        definition = f"start: A\nA: /{pattern.replace('/', '[/]')}/"
        quoted, plain = escaped(definition), raw(definition)
        for text in {"", *(maker.text() for _ in range(25))}:
            expected = re.fullmatch(pattern, text) is not None
            matched += expected
            assert quoted.allows(in_json(text)) == expected, (pattern, text)
            assert plain.allows(text) == expected, (pattern, text)
    assert matched > 40


def test_which_escapes_are_allowed() -> None:
    anything = escaped(r"start: /(?s:.)/")
    for form in (r"\"", r"\\", r"\n", r"\r", r"\t", r"\b", r"\f", r"\u0001", r"\u001F", r"\u001f"):
        assert anything.allows(form)
        assert len(json.loads(f'"{form}"')) == 1
    for form in ('"', "\\", "\n", "\x01", r"\/", r"\u0061", r"\u000a", r"\x", r"\ud83d\ude00"):
        assert not anything.allows(form)
    assert anything.allows("😀")
    assert anything.allows("\x7f")


def test_cases_and_flags() -> None:
    either = escaped('start: "aß"i /b./is /(?i:c)d/')
    assert either.allows(in_json("Aßb\nCd"))
    assert not either.allows(in_json("aßb\ncD"))
    spaced = escaped("start: /a b  # and\\n c/x")
    assert spaced.allows("ab")


def test_classes_of_characters_stay_short() -> None:
    word = characters.named("w")
    assert len(word.intervals) > 100
    assert len(word.regex()) < 50
    assert len((characters.ALL - word).regex()) < 60
    assert "é" in word
    assert "é" not in ~word
    assert word - word == characters.Characters(())


def test_where_the_text_may_end_it_may_also_go_on() -> None:
    """The beginning of the mark commits to nothing."""
    anything = raw("start: /(.|\\n)*/")
    for text in ("</p>", "<", "</", "</parameter", "\n", "\n\n<</pa\n", "a</b>c", "</\n</p\n"):
        assert anything.allows(text)


def test_bounds_of_automata() -> None:
    for pattern in ("(a|b)*a" + "(a|b)" * 12, "a{3000}", "(((a{50}){50}){50}){50}"):
        with pytest.raises(InvalidRequest, match="too complex"):
            automaton(expressions.read(pattern))
    with pytest.raises(InvalidRequest, match="nested"):
        expressions.read("(" * 200 + ")" * 200)


def test_dead_ends_are_left_out() -> None:
    impossible = escaped(r"start: A" + '\nA: /a(b"|c[^\\s\\S]")/')
    assert impossible.allows(in_json('ab"'))
    assert not impossible.allows("ac")
    assert len(automaton(expressions.read(r"a[^\w\W]|b")).moves[0]) == 1


# --- grammars ------------------------------------------------------------------------------


@lru_cache
def parser(definition: str) -> lark.Lark:
    """Lark's own reading of a grammar. It takes no terminal that may be empty."""
    return lark.Lark(definition.replace("/(.*)/", "/(.+)/?"), lexer="dynamic_complete")


def parses(definition: str, text: str) -> bool:
    try:
        parser(definition).parse(text)
    except lark.exceptions.LarkError:
        return False
    return True


PATCHES = (
    "*** Begin Patch\n*** Update File: a.py\n@@ def f():\n-\tx = \"\\n\"\n+\ty = '</p>'\n*** End Patch",
    '*** Begin Patch\n*** Add File: ä "ö"\n+\n++\n*** Delete File: b\n*** End Patch\n',
    "*** Begin Patch\n*** Update File: a\n*** Move to: b\n@@\n \n*** End of File\n*** End Patch",
)


def test_patches() -> None:
    quoted, plain = escaped(PATCH), raw(PATCH)
    for patch in PATCHES:
        wrong = (patch[1:], patch + "\nx", patch.replace("+", "~"), patch.replace("***", "**"), "")
        for text in (patch, *wrong):
            expected = text == patch or parses(PATCH, text)
            assert parses(PATCH, text) == expected
            assert quoted.allows(in_json(text)) == expected
            assert plain.allows(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a+1*(b_2 - 'x\\'\"')", True),
        ('a #x\\" \n\t+ 1.5e3', True),
        ("[]", True),
        ("[a,(1)] / 2", True),
        ("abcdefg", False),
        ("a b", False),
        ("1*2*3*4*5", False),
        ("a #123456\n", False),
    ],
)
def test_sums(text: str, expected: bool) -> None:
    assert parses(SUMS, text) == expected
    assert escaped(SUMS).allows(in_json(text)) == expected
    assert raw(SUMS).allows(text) == expected


def test_terminals_that_share_a_beginning() -> None:
    """What is one lexeme in plain text is not, once it has escapes."""
    both = escaped('start: (A | B) "\\t"\nA: "a\\nb"\nB: "a"')
    assert both.allows(r"a\t")
    assert both.allows(r"a\nb\t")


def test_long_texts_are_no_slower_than_short_ones() -> None:
    """Rows of llguidance's parser do not grow: 2,000 items are its limit."""
    long = escaped('start: A\nA: /("[a-z]+"\\n)*/')
    assert long.allows(in_json('"word"\n' * 3000))


@pytest.mark.parametrize(
    ("definition", "error", "words"),
    [
        ("start: a", InvalidRequest, "unknown name"),
        ('a: "x"', InvalidRequest, "no start rule"),
        ('start: "a', InvalidRequest, "lexer error"),
        ("start: A\nA: B\nB: A", InvalidRequest, "circular"),
        ('start: pair{A, A}\npair{x, y}: x y\nA: "a"', InvalidRequest, "template|params"),
        ('start: A\nA.2: "a"', InvalidRequest, "priority"),
        ("start: A\n%import python.NAME -> A", InvalidRequest, "python.NAME"),
        ("start: A\n%declare A", InvalidRequest, "declare"),
        ("start: /(?=a)b/", InvalidRequest, "look-around"),
        ("start: /a(?!b)/", InvalidRequest, "look-around"),
        ("start: /\\p{L}+/", NotSupported, r"'\\p'"),
        ("start: /[[:alpha:]]/", NotSupported, "class of characters inside"),
        ('start: %json {"type": "string"}', NotSupported, "%json"),
        ("start: A\nA: /a/ & /b|a/", NotSupported, "'&'"),
        ('start: A\nA: ~"a"', NotSupported, "'~'"),
        ("start: <|im_end|>", NotSupported, "special tokens"),
        ("start[lazy]: /a/", NotSupported, "options of rules"),
        ("start: A\nA: /.{900}[ab].{900}/", InvalidRequest, "too complex"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused(
    definition: str, error: type[InvalidRequest], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        rules.check(custom_tool(definition))
    assert raised.value.param == "tools"
    assert "'write'" in raised.value.message


def twice(pattern: str, first: str = '"x"') -> str:
    """Forty terminals, each made of the one before it, as the pattern says."""
    lines = (f"A{i}: {pattern.format(f'A{i - 1}')}" for i in range(1, 41))
    return "\n".join(("start: A40", f"A0: {first}", *lines))


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        # Put together, these are 2⁴⁰ parts; llguidance has nothing against them.
        (twice("{0} | {0}"), "too complex"),
        (twice("{0}? {0}*"), "too complex"),
        (twice("{0} {0}", '""'), "too complex"),
        (twice('(({0} "y")? "y")?'), "nested too deeply"),
        # Each of these terminals is simple enough.
        ("start: A\nA: " + " | ".join(rf"/[a\n]{{0,400}}b{i}/" for i in range(40)), "complex"),
        ("start: " + " | ".join(rf"/[a\n]{{0,400}}b{i}/" for i in range(40)), "complex"),
        (r"start: /(\w\n?){0,300}/", "too complex"),
    ],
)
def test_what_takes_too_long_is_refused(definition: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        rules.check(custom_tool(definition))


def test_long_chains_of_rules() -> None:
    chain = "\n".join(f"a{i}: a{i + 1}" for i in range(3000))
    rules.check(custom_tool(f'start: a0\n{chain}\na3000: "x"'))


def test_many_terminals() -> None:
    words = "\n".join(f"A{i}: /k{i}\\n+/" for i in range(2000))
    rules.check(custom_tool(f"start: {' | '.join(f'A{i}' for i in range(2000))}\n{words}"))


def test_sets_of_characters_in_common() -> None:
    sets = [characters.named(name) for name in "wds"]
    sets += [characters.of("az09"), ~characters.of("\n"), characters.ALL, characters.of("")]
    for one in sets:
        for other in sets:
            assert one & other == ~(~one | ~other)


def test_wrong_regular_expressions_are_refused() -> None:
    fine = msgspec.structs.replace(
        custom_tool(PATCH), input_format=OutputFormat("regex", definition=r"\p{L}+")
    )
    rules.check(fine)
    wrong = msgspec.structs.replace(fine, input_format=OutputFormat("regex", definition="a("))
    with pytest.raises(InvalidRequest, match="unclosed group"):
        rules.check(wrong)


# --- calls ---------------------------------------------------------------------------------


class Walker:
    """Writes as a model of random weights would, with a leaning to line breaks and ends."""

    def __init__(self, path: Path) -> None:
        native.init(lambda text: None)
        self.model = Model.load(
            str(path), read_header(path), LoadConfig(), on_progress=lambda _: None
        )
        self.grammars = Grammars(self.model)
        self.control = Control(self.model.control_tokens, tuple(self.model.end_tokens))
        self._closers = [
            token
            for token, piece in enumerate(self.model.pieces)
            if piece and not piece.strip(b'"}])')
        ]

    def write(self, grammar: Grammar, hints: tuple[str, ...], seed: int) -> str:
        """An answer; the hints are texts it takes up where it can."""
        chance = np.random.default_rng(seed)
        vocabulary = grammar.vocabulary
        texts = [vocabulary.tokens(hint.encode()) for hint in hints]
        written: list[int] = []

        def take(tokens: list[int]) -> None:
            for token in tokens:
                grammar.accept(token)
            written.extend(tokens)

        while True:
            assert len(written) < 900
            take(grammar.forced())
            if grammar.finished:
                break
            possible = [each for each in texts if grammar.allowed(each) == len(each)]
            if possible and chance.random() < 0.2:
                take(possible[-1 if len(written) < 60 else 0])
                continue
            row = chance.normal(size=self.model.n_vocab).astype(np.float32)
            row[self._closers] += min(6.0, len(written) / 10)
            grammar.mask(row)
            token = int(row.argmax())
            assert np.isfinite(row[token])
            take([token])
            if token in self.model.end_tokens:
                break
        return b"".join(vocabulary.pieces[token] for token in written).decode()


@pytest.fixture(scope="module")
def walker(chat_model_path: Path) -> Iterator[Walker]:
    walker = Walker(chat_model_path)
    yield walker
    walker.model.close()


def input_of(form: Format, answer: str, definition: str) -> str:
    """The input of the one call of an answer, as the caller gets it."""
    splitter = Splitter(form, adapt([custom_tool(definition)]))
    parts = [*splitter.feed(answer), *splitter.finish(cut=False)]
    assert splitter.calls == 1
    return custom_input("".join(part.json for part in parts if isinstance(part, ToolCallDelta)))


RAW = ("qwen coder", "glm", "deepseek", "gemma")


@pytest.mark.parametrize("name", FORMATS)
def test_whatever_is_called_has_an_input_that_fits(walker: Walker, name: str) -> None:
    form = FORMATS[name]
    line = "\n" if name in RAW else "\\n"
    hints = (f"{line}*** End Patch", line)
    found = set()
    for definition in (PATCH, SUMS):
        spec = call_constraint(form, [custom_tool(definition)], REQUIRED, walker.control)
        assert spec is not None
        for seed in range(3):
            text = input_of(
                form, walker.write(walker.grammars.start(spec), hints, seed), definition
            )
            assert parses(definition, text), text
            found.add(text)
    assert len(found) == 6


@pytest.mark.parametrize("name", FORMATS)
def test_in_auto_mode_a_call_is_bound_from_its_marker(walker: Walker, name: str) -> None:
    form = FORMATS[name]
    spec = call_constraint(form, [custom_tool(PATCH)], AUTO, walker.control)
    assert spec is not None
    assert spec.trigger is not None
    grammar = walker.grammars.start(spec)
    line = "\n" if name in RAW else "\\n"
    answer = walker.write(grammar, (f"{line}*** End Patch", line), 2)
    assert parses(PATCH, input_of(form, answer, PATCH))


def test_beside_other_tools_and_formats(walker: Walker) -> None:
    tools = [custom_tool(PATCH, "patch"), custom_tool(SUMS, "sum")]
    around = Around(output=OutputFormat("json_schema", {"type": "object"}))
    for name in ("hermes", "qwen coder"):
        assert call_constraint(FORMATS[name], tools, REQUIRED, walker.control)
        assert call_constraint(FORMATS[name], tools, ToolChoice(), walker.control, around)
    with pytest.raises(NotSupported, match="'patch' cannot be enforced beside") as raised:
        call_constraint(FORMATS["llama 3"], tools, ToolChoice(), walker.control, around)
    assert raised.value.param == "tools"
