from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmnb.notebook.arguments import Parser, integer, number, split, variable
from lmnb.notebook.failures import HelpShown, UsageMistake
from lmnb.notebook.interpolate import interpolate
from lmnb.notebook.magics import claude


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="%%ask")
    parser.add_argument("-m", "--model")
    parser.add_argument("--temperature", type=number(0, 2))
    parser.add_argument("--max-tokens", type=integer(1))
    parser.add_argument("-o", "--out", type=variable)
    parser.add_argument("--raw", action="store_true")
    return parser


@pytest.fixture
def commands() -> Parser:
    parser = Parser(prog="%lm")
    sub = parser.add_subparsers(dest="command")
    sub.add_parser("load").add_argument("model")
    sub.add_parser("unload").add_argument("--all", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  -m  a ", ["-m", "a"]),
        ('-s "be brief"', ["-s", "be brief"]),
        ("-s 'say \"hi\"'", ["-s", 'say "hi"']),
        ('--system="be brief"', ["--system=be brief"]),
        ('-s ""', ["-s", ""]),
        (r"-m C:\models\a.gguf", ["-m", r"C:\models\a.gguf"]),
        ("-m a # the small one", ["-m", "a"]),
        ("-m a#1", ["-m", "a#1"]),
        ('-s "# no comment"', ["-s", "# no comment"]),
        ("-s {{persona}}", ["-s", "{{persona}}"]),
    ],
)
def test_split(line: str, words: list[str]) -> None:
    assert split(line) == words


@given(st.lists(st.text(st.characters(exclude_characters="\\"))))
def test_split_reads_what_a_shell_would_quote(words: list[str]) -> None:
    assert split(shlex.join(words)) == words


@given(st.text(st.characters(exclude_characters="'\"")))
def test_split_keeps_every_character_but_space_and_comments(line: str) -> None:
    words = split(line)
    assert "".join("".join(words).split()) == "".join(words)
    assert "".join(line.split()).startswith("".join(words))


def test_values_are_converted(parser: Parser) -> None:
    args = parser.parse_line("-m a --temperature 0.5 --max-tokens 7 -o answer --raw")
    assert (args.model, args.temperature, args.max_tokens, args.out, args.raw) == (
        "a",
        0.5,
        7,
        "answer",
        True,
    )


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("--temprature 1", "unknown option --temprature", "Did you mean --temperature?"),
        ("--zzz", "unknown option --zzz", "%%ask?"),
        ("hello", "unknown word hello", "The message stands below"),
        ("-m my model", "unknown word model", "Quotes keep words together"),
        ("--temperature hot", "--temperature: invalid number value: 'hot'", "%%ask?"),
        ("--temperature 3", "--temperature: 3 is not between 0 and 2", "%%ask?"),
        ("--temperature nan", "--temperature: nan is not", "%%ask?"),
        ("--max-tokens 0", "--max-tokens: 0 is not at least 1", "%%ask?"),
        ("-o 1x", "'1x' cannot be the name of a variable", "%%ask?"),
        ("-o class", "'class' cannot be the name of a variable", "%%ask?"),
        ("-m", "-m: expected one argument", "%%ask?"),
        ("-m a --model b", "--model is given twice", "%%ask?"),
        ("-m 'a", "The quote ' is never closed", "other kind of quotes"),
        ("--rawest", "unknown option --rawest", "Did you mean --raw?"),
    ],
)
def test_mistakes(parser: Parser, line: str, message: str, hint: str) -> None:
    with pytest.raises(UsageMistake) as caught:
        parser.parse_line(line)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "\n" not in caught.value.message


def test_an_unknown_command_names_the_close_one(commands: Parser) -> None:
    with pytest.raises(UsageMistake, match="unknown command unlod") as caught:
        commands.parse_line("unlod x")
    assert caught.value.hint == "Did you mean unload?"


def test_an_unknown_option_of_a_command_is_compared_with_its_own(commands: Parser) -> None:
    with pytest.raises(UsageMistake, match="%lm unload: unknown option --al") as caught:
        commands.parse_line("unload --al")
    assert caught.value.hint == "Did you mean --all?"


def test_a_name_with_a_space_wants_quotes(commands: Parser) -> None:
    with pytest.raises(UsageMistake, match="%lm unload: unknown word model") as caught:
        commands.parse_line("unload model")
    assert caught.value.hint == (
        "Quotes keep words together. %lm unload -h lists what can be given."
    )


def test_a_missing_word_is_named(commands: Parser) -> None:
    with pytest.raises(UsageMistake, match=r"%lm load: .*model"):
        commands.parse_line("load")


def test_help_is_not_an_error(parser: Parser, commands: Parser) -> None:
    with pytest.raises(HelpShown) as caught:
        parser.parse_line("-m a -h")
    assert "usage: %%ask" in caught.value.text
    with pytest.raises(HelpShown) as caught:
        commands.parse_line("unload -h")
    assert "--all" in caught.value.text


def test_parsing_twice_starts_afresh(parser: Parser) -> None:
    assert parser.parse_line("-m a").model == "a"
    assert parser.parse_line("-m b").model == "b"
    assert parser.parse_line("").model is None


def test_interpolate() -> None:
    names = {"name": "Ada", "n": 3, "größe": 1.5}
    assert interpolate("Hi {{name}}, {{ n }} × {{größe}}", names).text == "Hi Ada, 3 × 1.5"


def test_unknown_names_stay_as_typed() -> None:
    assert interpolate("{{a}} {{b}} {{a}}", {"b": 1}) == ("{{a}} 1 {{a}}", ("a",))


@pytest.mark.parametrize(
    "text",
    ["print({'a': 1})", "{a}", "{{}}", "{{ }}", "{{a b}}", "{{a.b}}", "{{1a}}", "$a", "{{a\n}}"],
)
def test_nothing_else_is_a_reference(text: str) -> None:
    assert interpolate(text, {"a": 1, "b": 2}) == (text, ())


def test_values_are_not_interpolated_again() -> None:
    assert interpolate("{{a}}", {"a": "{{b}}", "b": 1}).text == "{{b}}"


@given(st.text(), st.dictionaries(st.from_regex(r"[a-z]\w{0,5}", fullmatch=True), st.integers()))
def test_interpolate_touches_only_references(text: str, names: dict[str, int]) -> None:
    result = interpolate(text, names)
    if "{{" not in text:
        assert result == (text, ())


@pytest.mark.parametrize(
    ("line", "thinking"),
    [
        ("", None),
        ("--thinking", True),
        ("--thinking --new", True),
        ("--thinking 300", 300),
        ("--thinking high", "high"),
        ("--no-thinking", False),
    ],
)
def test_how_to_think(line: str, thinking: object) -> None:
    found = claude.parser.parse_line(line).thinking
    assert (type(found), found) == (type(thinking), thinking)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--thinking hard", "neither a number of tokens nor minimal, low"),
        ("--thinking 0", "neither a number of tokens"),
        ("--thinking --no-thinking", "not allowed with"),
        ("--max-steps 0", "at least 1"),
        ("--tools 3x", "cannot be the name of a variable"),
        ("--tools f,g.", "cannot be the name of a variable"),
        ("--schema", "expected one argument"),
        ("--schema A --schema B", "given twice"),
    ],
)
def test_mistakes_in_the_options_of_a_cell(line: str, words: str) -> None:
    with pytest.raises(UsageMistake) as raised:
        claude.parser.parse_line(line)
    assert words in str(raised.value)


def test_images_may_be_repeated_and_tools_are_a_list() -> None:
    args = claude.parser.parse_line("--image a.png --image figure --tools f,g.h")
    assert (args.image, args.tools) == (["a.png", "figure"], ["f", "g.h"])
