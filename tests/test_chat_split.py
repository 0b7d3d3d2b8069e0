"""Answers taken apart: for every kind of call the same events, wherever the text is cut."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

import pytest
from call_formats import FORMATS
from hypothesis import given
from hypothesis import strategies as st

from lmnb.chat.conversation import Tool, ToolCall
from lmnb.chat.events import TextDelta, ThinkingDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from lmnb.chat.formats.format import Calls, Format, JsonCall, Span, WrittenCall
from lmnb.chat.formats.reading.split import Part, Splitter
from lmnb.chat.formats.reading.types import parameter_types
from lmnb.chat.formats.write import write_calls
from lmnb.chat.tool_names import MOST_CHARACTERS, Adapted, adapt
from lmnb.engine.options import TokenLogprob

PROPERTIES: dict[str, Any] = {
    "text": {"type": "string"},
    "count": {"type": "integer"},
    "ratio": {"type": "number"},
    "deep": {"type": "object"},
    "items": {"type": "array"},
    "sure": {"type": "boolean"},
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
}
TOOLS = adapt(
    [
        Tool("find.things", parameters={"type": "object", "properties": PROPERTIES}),
        Tool("now", parameters={"type": "object", "properties": {}}),
    ]
)
NONE = adapt(())

FORMATS = FORMATS | {
    "cohere": Format(
        thinking=Span("<|START_THINKING|>", "<|END_THINKING|>"),
        answer=Span("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        calls=Calls(
            begin="<|START_ACTION|>[\n    ",
            call=JsonCall(name_key="tool_name", arguments_key="parameters", id_key="tool_call_id"),
            separator=",\n    ",
            end="\n]<|END_ACTION|>",
        ),
    ),
    "mistral with ids": Format(
        thinking=Span("[THINK]", "[/THINK]"),
        calls=Calls(
            call=WrittenCall(
                pieces=("[TOOL_CALLS]", "{name}", "[CALL_ID]", "{id}", "[ARGS]", "{arguments}")
            )
        ),
    ),
    "kimi with ids": Format(
        calls=Calls(
            begin="<|section|>",
            call=WrittenCall(pieces=("<|call|>", "{id}", "<|argument|>", "{arguments}", "<|end|>")),
            end="<|section_end|>",
        )
    ),
    "json in tags": Format(
        calls=Calls(
            call=WrittenCall(pieces=("<function=", "{name}", ">", "{arguments}", "</function>"))
        )
    ),
    "functionary": Format(
        answer=Span(">>>all\n", ""),
        calls=Calls(call=WrittenCall(pieces=(">>>", "{name}", "\n", "{arguments}"))),
    ),
}

WEAK = {"llama 3", "python alone"}
"""Those whose calls begin with a bracket, and are none after words."""

PIECES = [
    "",
    " ",
    "\n",
    '"',
    "'",
    "\\",
    "\\n",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    "=",
    "<",
    "word",
    "12",
    "true",
    "null",
    "é漢🦊",
    "\t",
    "\x01",
    "<tool_call>",
    "</tool_call>",
    "</function>",
    "<think>",
    "</think>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|tool_call_end|>",
    "<|end|>x",
    "```",
    # Tags that end values end them only if a tag follows.
    "</parameter>x",
    "</arg_value>x",
    "</｜DSML｜parameter>x",
    '<|"|>x',
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9).map(abs) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b_c", "key"]), inner, max_size=3)
    ),
    max_leaves=5,
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXTS,
        "count": st.integers(-(10**9), 10**9),
        "ratio": st.floats(-1e9, 1e9),
        "deep": st.dictionaries(st.sampled_from(["a", "b_c"]), JSON, max_size=2),
        "items": st.lists(JSON, max_size=3),
        "sure": st.booleans(),
        "maybe": st.none() | TEXTS.filter(lambda text: text.strip() not in {"null", "None"}),
    },
)
CUTS = st.lists(st.integers(0, 2000), max_size=30)


def pieces_of(text: str, cuts: Iterable[int]) -> list[str]:
    edges = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def split(
    form: Format,
    pieces: Sequence[str],
    prompt: str = "",
    *,
    tools: Adapted = TOOLS,
    cut: bool = False,
    **more: Any,
) -> list[Part]:
    splitter = Splitter(form, tools, prompt, **more)
    parts = [part for piece in pieces for part in splitter.feed(piece)]
    return parts + splitter.finish(cut=cut)


def told(parts: Iterable[Part]) -> list[tuple[str, ...]]:
    """What the events say, however it is distributed over them."""
    found: list[tuple[str, ...]] = []
    for part in parts:
        match part:
            case TextDelta(text=text):
                entry: tuple[str, ...] = ("text", text)
            case ThinkingDelta(text=text):
                entry = ("thinking", text)
            case ToolCallStart(name=name):
                entry = ("call", name)
            case ToolCallDelta(json=text):
                entry = ("json", text)
            case ToolCallEnd():
                entry = ("end",)
        if found and entry[0] == found[-1][0] and len(entry) == 2 and entry[0] != "call":
            entry = (entry[0], found.pop()[1] + entry[1])
        found.append(entry)
    return found


def answer(form: Format, thought: str, words: str, calls: Sequence[tuple[str, Any]]) -> str:
    """An answer as the model writes it, and the end of the prompt with which it begins."""
    assert form.calls is not None
    made = [
        ToolCall(f"functions.{TOOLS.name(name)}:{i}", TOOLS.name(name), json.dumps(arguments))
        for i, (name, arguments) in enumerate(calls)
    ]
    text = ""
    if thought:
        assert form.thinking is not None
        text = form.thinking.begin + thought + form.thinking.end
    if form is FORMATS["harmony"]:
        said = f"<|channel|>commentary<|message|>{words}<|end|>" if words else ""
        text = "<|start|>assistant".join(filter(None, (text, said, "" if calls else None)))
        return text + "<|start|>assistant" * bool(calls and text) + write_calls(form.calls, made)
    if words:
        text += words if form.answer is None else form.answer.begin + words + form.answer.end
    return text + "\n\n" + write_calls(form.calls, made)


def expected(thought: str, words: str, calls: Sequence[tuple[str, Any]]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [("thinking", thought)] * bool(thought)
    found += [("text", words)] * bool(words)
    for name, arguments in calls:
        found += [("call", name), ("json", arguments), ("end",)]
    return found


def parsed(found: Iterable[tuple[str, ...]]) -> list[tuple[Any, ...]]:
    return [("json", json.loads(entry[1])) if entry[0] == "json" else entry for entry in found]


# --- every kind of call -------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_any_split_gives_what_was_written(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    count = data.draw(st.integers(0, 3))
    calls = [
        ("find.things", data.draw(ARGUMENTS)) if data.draw(st.booleans()) else ("now", {})
        for _ in range(count)
    ]
    thought = ""
    if form.thinking is not None:
        thought = data.draw(
            st.sampled_from(["", "I think.", 'Call <tool_call>\n{"name": "now"} !'])
        )
    words = data.draw(st.sampled_from(["", "Some words.", "Two\n\n {lines} of <b> [1] words."]))
    if calls and name in WEAK:
        words = ""
    text = answer(form, thought, words, calls)
    if not calls:
        text = text.rstrip("\n")
    found = split(form, pieces_of(text, data.draw(CUTS)), "<|start|>assistant")
    assert parsed(told(found)) == expected(thought, words, calls)


@pytest.mark.parametrize("name", FORMATS)
def test_every_character_may_come_alone(name: str) -> None:
    form = FORMATS[name]
    thought = "So.\n\nThen:" if form.thinking else ""
    calls = [("find.things", {"text": "a\n b", "deep": {"a": [1, None]}}), ("now", {})]
    words = "" if name in WEAK else "Words."
    text = answer(form, thought, words, calls)
    found = split(form, list(text), "<|start|>assistant")
    assert parsed(told(found)) == expected(thought, words, calls)


@pytest.mark.parametrize("name", FORMATS)
def test_cut_anywhere_nothing_leaks_and_the_cut_shows(name: str) -> None:
    form = FORMATS[name]
    value = {"text": 'one "two" } three', "count": 12}
    words = [("text", "Words.")] * (name not in WEAK)
    text = answer(form, "", "Words." * len(words), [("find.things", value)])
    whole = "".join(entry[1] for entry in told(split(form, [text])) if entry[0] == "json")
    begin = text.index("Words.") + len("Words.") if words else 1
    ended = False
    for length in range(begin, len(text)):
        found = told(split(form, [text[:length]], cut=True))
        kinds = [entry[0] for entry in found]
        if "call" in kinds:
            assert found[: len(words) + 1] == [*words, ("call", "find.things")]
            assert whole.startswith("".join(entry[1] for entry in found if entry[0] == "json"))
            assert ended <= ("end" in kinds)
            ended = "end" in kinds
        else:
            # The beginning of a marker, or of what may be anything, is words so far.
            assert kinds == ["text"] or (name in WEAK and not kinds)
            assert name in WEAK or "find" not in found[0][1]
    # Only what stands behind the arguments can be missing from a call that has ended.
    if name not in {"functionary", "mistral 3", "mistral with ids", "glm", "json values"}:
        assert ended


@pytest.mark.parametrize("name", FORMATS)
def test_without_tools_calls_are_words(name: str) -> None:
    form = FORMATS[name]
    text = answer(form, "", "", [("now", {})])
    found = told(split(form, [text], tools=NONE))
    assert [entry[0] for entry in found] == ["text"]


# --- what only looks like it ----------------------------------------------------------------

HERMES, LLAMA, CODER = FORMATS["hermes"], FORMATS["llama 3"], FORMATS["qwen coder"]
GEMMA, PYTHON, GLM = FORMATS["gemma"], FORMATS["python"], FORMATS["glm"]
HARMONY, KIMI, ALONE = FORMATS["harmony"], FORMATS["kimi"], FORMATS["python alone"]
FUNCTIONARY, MISTRAL = FORMATS["functionary"], FORMATS["mistral 3"]
TAGS = FORMATS["json in tags"]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, "  A <tool, a <tool_ca"),
        (HERMES, "The <tool_call> marker, and </tool_call> too.\n"),
        (HERMES, "It writes <tool_call>\n[1, 2]\n</tool_call> there"),
        (HERMES, '<tool_call>\n{"no": "name"}\n</tool_call>'),
        (HERMES, '<tool_call>{"name": "now"'[:-8]),
        (HERMES, "A <think> in the middle </think> of words."),
        (LLAMA, '{"name": "Bob", "age": 3}'),
        (LLAMA, '{"a": 1}\n\n{"name": 5}'),
        (LLAMA, 'In line: {"name": "now", "parameters": {}}'),
        (LLAMA, "{"),
        (LLAMA, 'For example:\n```json\n{"name": "now", "parameters": {}}\n```'),
        (LLAMA, 'So:\n{"name": "now", "parameters": {}}'),
        (LLAMA, '{"type":\n' * 300),
        (LLAMA, '{"function":' * 500),
        (HERMES, '<tool_call>{"arguments": {"a":' * 100),
        (HERMES, '<tool_call>{"id": "' * 100),
        (HERMES, "<tool_call>" + '{"function":' * 500),
        (HERMES, '<tool_call>{"id": [' + "1, " * 40_000),
        (ALONE, "[1, 2]\n[now] [other(a=1)]"),
        (ALONE, "Try:\n[now()]"),
        (CODER, "Write <function=now> or <function=\nother></function> or <function=x>"),
        (CODER, "<function=other>\n<parameter=a>\nx\n</parameter>\n</function>"),
        (FUNCTIONARY, '>>> d\n{"a": 1}\n>>> now\nx\n>>>'),
        (CODER, "<tool_call>\nno function</tool_call>"),
        (CODER, "<tool_call>\n<function=a b>x"),
        (GLM, "<tool_call> is a marker: <tool_call>"),
        (TAGS, 'The tag "<function=now>" begins a call, "</function>" ends it.'),
        (TAGS, "The tag '<function=now>[1]</function>' calls now."),
        (GEMMA, "<|tool_call>call: me"),
        (PYTHON, "<|tool_call_start|>[no call]"),
        (Format(), " <think>x</think> <tool_call>\n"),
    ],
)
def test_what_is_no_call_is_text(form: Format, text: str) -> None:
    for pieces in ([text], pieces_of(text, range(0, len(text), 4)), list(text)[:3000]):
        assert told(split(form, pieces)) == [("text", "".join(pieces))]


@given(st.sampled_from(list(FORMATS)), st.text("<>|{}[]() \nabT_", max_size=30), CUTS)
def test_other_text_stays_as_it_is(name: str, text: str, cuts: list[int]) -> None:
    found = split(FORMATS[name], pieces_of(text, cuts), prompt="")
    # An answer of harmony begins behind a mark, to which the white space belongs.
    wanted = text.lstrip() if name == "harmony" else text
    assert "".join(entry[1] for entry in told(found)) == wanted


# --- what models write otherwise than their templates ---------------------------------------


@pytest.mark.parametrize(
    ("form", "text", "wanted"),
    [
        (HERMES, '<tool_call>{"arguments": {"a":1} , "name":"now"}</tool_call>', {"a": 1}),
        (HERMES, '<tool_call>{"name": "now", "arguments": "{\\"a\\": \\"x\\\\ny\\"}"}', {"a": "x\ny"}),
        (HERMES, '<tool_call>{"name": "now", "arguments": ""}</tool_call>', {}),
        (HERMES, '<tool_call>{"name": "now", "arguments": null}</tool_call>', {}),
        (HERMES, '<tool_call>{"name": "now", "arguments": "x"}</tool_call>', {"argument_1": "x"}),
        (HERMES, '<tool_call>{"name": "now", "arguments": [1]}</tool_call>', {"argument_1": [1]}),
        (HERMES, '<tool_call>{"name": "now", "arguments": "{\\"q\\": \\"b"}</tool_call>', {"argument_1": '{"q": "b'}),
        (HERMES, '<tool_call>{"name": "now", "arguments": {"\\ud800": "a\\ud83e\\udd8a\\ud83e\\ud83e\\udd8a\\udd8a\\ud83eb\\ud83e"}}</tool_call>', {"\ufffd": "a🦊\ufffd🦊\ufffd\ufffdb\ufffd"}),
        (MISTRAL, '[TOOL_CALLS]now[ARGS] "\\n {\\"a\\": 1}"', {"a": 1}),
        (CODER, '<tool_call>\n<function=now>\n<parameter=a>\n["\\udc00"]\n</parameter>\n</function>\n</tool_call>', {"a": ["\ufffd"]}),
        (HARMONY, "<|channel|>commentary to=functions.now<|message|>[1]<|call|>", {"argument_1": [1]}),
        (HERMES, '<tool_call>{"name": "now"}</tool_call>', {}),
        (HERMES, '<tool_call>{"name": "now", "parameters": {"a": 1}}', {"a": 1}),
        (HERMES, '<tool_call>{"type": "function", "function": {"name": "now", "arguments": {"a": 1}}}</tool_call>', {"a": 1}),
        (HERMES, "<tool_call>{'name': 'now', 'arguments': {'a': True, 'b': [None,],}}</tool_call>", {"a": True, "b": [None]}),
        (HERMES, '<tool_call>{"name": "now", "arguments": {"a": "1\n2", "b": "\\d\\\'"}}</tool_call>', {"a": "1\n2", "b": "\\d'"}),
        (HERMES, '<tool_call>{"name": "now", "arguments": {"a": [1, {"b": 2}</tool_call>', {"a": [1, {"b": 2}]}),
        (HERMES, '<tool_call>{"name": "now", "arguments": {"a": {"b": 1}', {"a": {"b": 1}}),
        (HERMES, '<tool_call>{"name": "now", "arguments": {a: yes, "b" 2 "c": 3}}</tool_call>', {"a": "yes", "b": 2, "c": 3}),
        (LLAMA, ' {"type": "function", "name": "now", "parameters": {"a": 1}}', {"a": 1}),
        (KIMI, "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}", {}),
        (CODER, "<tool_call><function=now><parameter=a>x</parameter></function></tool_call>", {"a": "x"}),
        (CODER, "<tool_call>\n<function=now>\n<parameter=a>\nx\n</parameter>\n</tool_call>", {"a": "x"}),
        (CODER, "<tool_call>\n<function=now>\n<parameter=a>\nx\n</parameter>", {"a": "x"}),
        (CODER, "<tool_call>\n<function=now>\n</function>\n</tool_call>\n", {}),
        (CODER, "<function=now>\n<parameter=a>\nx\n</parameter>\n</function>\n</tool_call>", {"a": "x"}),
        (CODER, "<function=now>\n</function>", {}),
        (GLM, "<tool_call>now</tool_call>", {}),
        (GLM, "<tool_call>now<arg_key>a</arg_key><arg_value>[1]</arg_value></tool_call>", {"a": [1]}),
        (GEMMA, '<|tool_call>call:now{a:"x",b:{c:yes},d:[1,<|"|>y<|"|>]}<tool_call|>', {"a": "x", "b": {"c": "yes"}, "d": [1, "y"]}),
        (PYTHON, "<|tool_call_start|>[now(a='it\\'s', b=-1.5, c={'k': (1, None)}, d=False)]<|tool_call_end|>", {"a": "it's", "b": -1.5, "c": {"k": [1, None]}, "d": False}),
        (HARMONY, " to=functions.now<|channel|>commentary <|constrain|>json<|message|>{}<|call|>", {}),
        (HARMONY, "<|channel|>analysis to=functions.now<|message|>{}", {}),
    ],
)  # fmt: skip
def test_what_is_meant_is_understood(form: Format, text: str, wanted: Any) -> None:
    for pieces in ([text], list(text)):
        found = parsed(told(split(form, pieces, "<|start|>assistant")))
        assert found == [("call", "now"), ("json", wanted), ("end",)]


def test_positions_take_the_names_of_the_schema() -> None:
    text = '<|tool_call_start|>[find_things("x", 3, sure=True)]<|tool_call_end|>'
    found = parsed(told(split(PYTHON, list(text))))
    assert found[1] == ("json", {"text": "x", "count": 3, "sure": True})


def test_unknown_tools_are_called() -> None:
    text = '<tool_call>\n{"name": "nothing", "arguments": {"a": 1}}\n</tool_call>'
    assert told(split(HERMES, [text])) == [("call", "nothing"), ("json", '{"a": 1}'), ("end",)]


def test_a_call_that_never_ends_has_no_end() -> None:
    text = '<tool_call>\n{"name": "now", "arguments": {"a": "never en'
    for cut in (True, False):
        splitter = Splitter(HERMES, TOOLS)
        parts = splitter.feed(text) + splitter.finish(cut=cut)
        assert told(parts) == [("call", "now"), ("json", '{"a": "never en')]
        assert splitter.is_cut
        assert splitter.calls == 0


def test_text_as_arguments_is_the_first_argument() -> None:
    text = '<tool_call>{"name": "find_things", "arguments": "a word"}</tool_call>'
    assert parsed(told(split(HERMES, [text])))[1] == ("json", {"text": "a word"})


def test_what_comes_after_broken_arguments_is_read() -> None:
    broken = '<tool_call>{"name": "now", "arguments": "{\\"q\\": \\"b"}</tool_call>'
    found = told(split(HERMES, list(f'{broken} And: <tool_call>{{"name": "now"}}</tool_call>')))
    assert [entry[0] for entry in found] == ["call", "json", "end", "text", "call", "json", "end"]


def test_the_longest_name_is_read_back() -> None:
    name = "n" * MOST_CHARACTERS
    text = f"<|section|><|call|>functions.{name}:12<|argument|>{{}}<|end|><|section_end|>"
    found = told(split(FORMATS["kimi with ids"], list(text), tools=adapt([Tool(name)])))
    assert found == [("call", name), ("json", "{}"), ("end",)]


def test_words_after_calls_are_not_lost() -> None:
    text = '<tool_call>{"name": "now"}</tool_call>\n</tool_call>\n\nThere. <tool_call>{"name": "now"}</tool_call>'
    found = told(split(HERMES, list(text)))
    call = [("call", "now"), ("json", "{}"), ("end",)]
    assert found == [*call, ("text", "There."), *call]


def test_calls_without_their_first_tag_follow_words_and_each_other() -> None:
    call = "<function=now>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>\n"
    for text in (f"I look.\n{call}{call}There.", f"I look.\n{call}<tool_call>\n{call}There."):
        for pieces in ([text], list(text)):
            read = [("call", "now"), ("json", '{"a":1}'), ("end",)]
            found = told(split(CODER, pieces))
            assert found == [("text", "I look."), *read, *read, ("text", "There.")]


def test_what_seems_to_hold_other_calls_is_not_read_once_for_each() -> None:
    for form, unit in (
        (LLAMA, '{"type":\n'),
        (HERMES, '<tool_call>{"arguments": {"a":'),
        (HERMES, '<tool_call>{"function": '),
        (CODER, "<tool_call>\n<function="),
    ):
        short, long = (work(form, unit * count) for count in (200, 800))
        assert long < 6 * short


def test_white_space_is_not_read_again_with_each_piece() -> None:
    for before in ("<tool_call>\n<function=now>", "<tool_call>\n<function=now>\n<parameter=a>\n1"):
        short, long = (work(CODER, before + "\n" * count) for count in (300, 1200))
        assert long < 6 * short


def work(form: Format, text: str) -> int:
    """How many functions are called to read a text that comes in pieces of four characters."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        split(form, pieces_of(text, range(0, len(text), 4)))
    finally:
        sys.setprofile(before)
    return calls


def test_a_long_conversation_in_harmony() -> None:
    text = (
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two."
        "<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
        "<|start|>assistant<|channel|>final<|message|>Done.<|return|>"
    )
    for pieces in ([text], list(text)):
        assert told(split(HARMONY, pieces, "<|start|>user<|end|><|start|>assistant")) == [
            ("thinking", "One.\n\nTwo."),
            ("text", "I look."),
            ("call", "now"),
            ("json", "{}"),
            ("end",),
            ("text", "\n\nDone."),
        ]


# --- types ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "written", "wanted"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": "string"}, " {a} \n", " {a} \n"),
        ({"type": "integer"}, " 12 ", 12),
        ({"type": "integer"}, "a dozen", "a dozen"),
        ({"type": "number"}, "1e3", 1000.0),
        ({"type": "boolean"}, "True", True),
        ({"type": "object"}, '{"a": 1,}', {"a": 1}),
        ({"type": "array"}, "['x', None]", ["x", None]),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "5", 5),
        ({"type": "integer", "nullable": True}, "null", None),
        ({"$ref": "#/$defs/word"}, "5", "5"),
        ({"enum": ["1", "2"]}, "2", "2"),
        ({"enum": [1, 2]}, "2", 2),
        ({}, "5", 5),
        ({}, "NaN", "NaN"),
        (None, '{"b": [1]}', {"b": [1]}),
        (None, "some words", "some words"),
    ],
)
def test_types_are_those_of_the_schema(schema: Any, written: str, wanted: Any) -> None:
    properties = {} if schema is None else {"a": schema}
    parameters = {"properties": properties, "$defs": {"word": {"type": "string"}}}
    text = f"<tool_call>\n<function=f>\n<parameter=a>\n{written}\n</parameter>\n</function>\n</tool_call>"
    tools = adapt([Tool("f", parameters=parameters)])
    found = parsed(told(split(CODER, list(text), tools=tools)))
    assert found == [("call", "f"), ("json", {"a": wanted}), ("end",)]


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": [["x"], 1, "string"]}, {"string"}),
        ({"type": {"x": 1}}, None),
        ({"anyOf": 5, "oneOf": {"a": 1}, "allOf": [None, True, {"type": "array"}]}, {"array"}),
        ({"enum": 5}, None),
        ({"enum": [["x"], {}, None]}, {"array", "object", "null"}),
        ({"$ref": ["x"]}, None),
        ({"$ref": "#/$defs/nowhere/0"}, None),
        ({"$ref": "elsewhere#/$defs/self"}, None),
        ({"$ref": "#/$defs/self/anyOf/30"}, {"string"}),
        ({"$ref": "#/$defs/self"}, {"string"}),
        ({"$ref": "#/$defs/0"}, {"integer"}),
    ],
)
def test_types_of_odd_schemas(schema: Any, wanted: set[str] | None) -> None:
    itself = {"anyOf": [*([{"$ref": "#/$defs/self"}] * 30), {"type": "string"}]}
    level = {str(i): {"oneOf": [{"$ref": f"#/$defs/{i + 1}"}] * 30} for i in range(30)}
    defs = {"self": itself, **level, "30": {"type": "integer"}}
    found = parameter_types(Tool("f", parameters={"properties": {"a": schema}, "$defs": defs}), "a")
    assert found == wanted


# --- ids --------------------------------------------------------------------------------------


def ids(form: Format, text: str, taken: Iterable[str] = ()) -> list[str]:
    parts = split(form, [text], taken=taken)
    return [part.id for part in parts if isinstance(part, ToolCallStart)]


def test_ids_are_unique() -> None:
    one, two = ids(HERMES, '<tool_call>{"name": "now"}</tool_call>' * 2)
    assert one != two
    assert re.fullmatch(r"call_[0-9a-f]{24}", one)


def test_an_id_that_the_model_wrote_is_kept_if_it_is_good_and_new() -> None:
    form = FORMATS["mistral with ids"]
    text = "[TOOL_CALLS]now[CALL_ID]aB3dE6gH9[ARGS]{}"
    assert ids(form, text) == ["aB3dE6gH9"]
    assert ids(form, text, taken=["aB3dE6gH9"]) != ["aB3dE6gH9"]
    first, second = ids(form, text * 2)
    assert first == "aB3dE6gH9" != second
    assert ids(form, text.replace("aB3dE6gH9", "0")) != ["0"]
    assert ids(form, text.replace("aB3dE6gH9", "functions.now:0")) != ["functions.now:0"]


def test_a_name_in_an_id_is_found() -> None:
    text = "<|section|><|call|>functions.find_things:12<|argument|>{}<|end|><|section_end|>"
    parts = split(FORMATS["kimi with ids"], list(text))
    assert isinstance(parts[0], ToolCallStart)
    assert parts[0].name == "find.things"
    assert "." not in parts[0].id  # Messages would change it, and not know it again


# --- prompts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "continued", "wanted"),
    [
        ("<|assistant|>", False, [("text", "Hm.</think>\n\nYes.")]),
        ("<|assistant|><think>\n", False, [("thinking", "Hm."), ("text", "Yes.")]),
        ("<think>\n\n</think>\n\n", False, [("text", "Hm.</think>\n\nYes.")]),
        ("Write <think> first.<|assistant|>", False, [("text", "Hm.</think>\n\nYes.")]),
        ("<think>\nI thought", True, [("thinking", "Hm."), ("text", "Yes.")]),
        ("<think>a</think> It is", True, [("text", "Hm.</think>\n\nYes.")]),
    ],
)
def test_thinking_that_the_prompt_has_begun(
    prompt: str, continued: bool, wanted: list[tuple[str, str]]
) -> None:
    text = "Hm.</think>\n\nYes."
    for pieces in ([text], list(text)):
        assert told(split(HERMES, pieces, prompt, continued=continued)) == wanted


def test_a_continued_answer_keeps_its_white_space() -> None:
    assert told(split(HERMES, [" and more"], "It is", continued=True)) == [("text", " and more")]
    found = split(HERMES, [" more</think>"], "<think>One", continued=True)
    assert told(found) == [("thinking", " more")]


def test_a_marker_that_the_prompt_has_begun() -> None:
    form = FORMATS["functionary"]
    assert told(split(form, list("all\nHello"), "<|assistant|>\n>>>")) == [("text", "Hello")]
    found = told(split(form, list("now\n{}"), "<|assistant|>\n>>>"))
    assert found == [("call", "now"), ("json", "{}"), ("end",)]


# --- tokens -------------------------------------------------------------------------------------


def test_logprobs_go_with_their_words() -> None:
    tokens = ["<think>", "\n", "Hm", "</think>", "\n\n", "It", " is", ". ", "<tool_call>", '{"name']
    tokens += ['": "now"}', "</tool_call>", "Ye", "s"]
    splitter = Splitter(HERMES, TOOLS)
    parts: list[Part] = []
    end = 0
    for token in tokens:
        end += len(token)
        entry = TokenLogprob(token, token.encode(), -1.0)
        parts += splitter.feed(token, (end,), (entry,))
    parts += splitter.finish(cut=False)
    found = [
        entry.token for part in parts if isinstance(part, TextDelta) for entry in part.logprobs
    ]
    assert found == ["It", " is", ". ", "Ye", "s"]
    assert splitter.thinking_tokens == 4


def test_tokens_without_text_are_not_lost() -> None:
    splitter = Splitter(Format(), NONE)
    tokens = [("a", 1), ("", 1), ("🦊", 2), ("", 2)]
    parts: list[Part] = []
    for text, end in tokens:
        parts += splitter.feed(text, (end,), (TokenLogprob(text, b"", -1.0),))
    parts += splitter.finish(cut=True)
    assert [part.text for part in parts if isinstance(part, TextDelta)] == ["a", "🦊", ""]
    assert sum(len(part.logprobs) for part in parts if isinstance(part, TextDelta)) == 4
