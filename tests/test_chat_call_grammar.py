"""Grammars of calls in every form, over the real model's vocabulary."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from call_formats import FORMATS
from json_schemas import HOSTILE, REFUSED
from llguidance import LLMatcher

from lmnb.chat import tool_check
from lmnb.chat.conversation import OutputFormat, Request, Tool, ToolCall, ToolChoice
from lmnb.chat.formats.forcing import schemas
from lmnb.chat.formats.forcing.grammar import Around, Control, call_constraint
from lmnb.chat.formats.forcing.values import alternatives
from lmnb.chat.formats.format import Calls, Format, JsonCall, Span, WrittenCall
from lmnb.chat.formats.write import write_calls
from lmnb.engine import grammar_source, native
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import read_header
from lmnb.engine.grammar import Vocabulary
from lmnb.engine.model import Model
from lmnb.engine.options import ConstraintSpec, Segment, Trigger
from lmnb.errors import InvalidRequest, NotSupported

WEATHER = Tool(
    "get_weather",
    "Tells the weather.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["C", "F"]},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "ratio": {"type": "number"},
            "urgent": {"type": "boolean"},
            "places": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["city"],
    },
)
NOW = Tool("now")
TOOLS = (WEATHER, NOW)
ARGUMENTS = {
    "city": 'Paris, "x" <b> {1}\n[2] \'é😀',
    "days": 3,
    "unit": "C",
    "note": None,
    "ratio": 0.5,
    "urgent": True,
    "places": ["a", "b c"],
}
REQUIRED = ToolChoice("required")
AUTO = ToolChoice("auto")


class Judge:
    """Says what a grammar allows."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.vocabulary = Vocabulary(model)
        self.control = Control(model.control_tokens, tuple(model.end_tokens))

    def matcher(self, spec: ConstraintSpec | None) -> LLMatcher:
        assert spec is not None
        return grammar_source.compiled(spec, self.vocabulary.tokenizer)

    def fits(self, spec: ConstraintSpec | None, text: str, *, spelled: bool = False) -> bool:
        """Whether the whole text is an answer; `spelled` without control tokens in it."""
        matcher = self.matcher(spec)
        segments = (Segment(text, special=not spelled),)
        tokens = self.model.tokenize(segments, add_bos=False).tolist()
        if matcher.validate_tokens(tokens) < len(tokens):
            return False
        matcher.consume_tokens(tokens)
        return bool(matcher.is_accepting())


@pytest.fixture(scope="module")
def judge(chat_model_path: Path) -> Iterator[Judge]:
    native.init(lambda text: None)
    header = read_header(chat_model_path)
    model = Model.load(str(chat_model_path), header, LoadConfig(), on_progress=lambda _: None)
    yield Judge(model)
    model.close()


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall("abc123XYZ", name, json.dumps(arguments, ensure_ascii=False))


def written(form: Format, *said: ToolCall) -> str:
    assert form.calls is not None
    text = write_calls(form.calls, said)
    return text.removesuffix("<|call|>")  # gpt-oss's end of the answer


# --- what is allowed -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["required", "auto"])
@pytest.mark.parametrize("name", FORMATS)
def test_calls_as_the_templates_write_them(judge: Judge, name: str, mode: str) -> None:
    form = FORMATS[name]
    spec = call_constraint(form, TOOLS, ToolChoice(mode), judge.control)  # type: ignore[arg-type]
    for arguments in (ARGUMENTS, {"city": ""}, {"city": "x", "unit": "F"}):
        assert judge.fits(spec, written(form, call("get_weather", **arguments)))
    assert judge.fits(spec, written(form, call("now")))
    several = written(form, call("now"), call("get_weather", city="x"), call("now"))
    assert form.calls is not None
    assert judge.fits(spec, several) == form.calls.parallel


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_call_of_the_tools(judge: Judge, name: str) -> None:
    form = FORMATS[name]
    spec = call_constraint(form, TOOLS, REQUIRED, judge.control)
    good = {"city": "x"}
    wrong = [
        call("get_time", **good),
        call("get_weather"),
        call("get_weather", **good, days=15),
        call("get_weather", **good, days="three"),
        call("get_weather", **good, unit="K"),
        call("get_weather", **good, other=1),
        call("now", **good),
    ]
    for one in wrong:
        assert not judge.fits(spec, written(form, one)), one
    for text in ("", "Hello", written(form, call("now"))[:-1]):
        assert not judge.fits(spec, text)


@pytest.mark.parametrize("name", FORMATS)
def test_one_call_only_and_the_named_tool(judge: Judge, name: str) -> None:
    form = FORMATS[name]
    one, two = written(form, call("now")), written(form, call("now"), call("now"))
    single = ToolChoice("required", parallel=False)
    for choice in (single, ToolChoice("named", name="now")):
        spec = call_constraint(form, TOOLS, choice, judge.control)
        assert judge.fits(spec, one)
        assert not judge.fits(spec, two)
    other = call("get_weather", city="x")
    assert judge.fits(call_constraint(form, TOOLS, single, judge.control), written(form, other))
    assert not judge.fits(spec, written(form, other))


def test_what_binds_nothing(judge: Judge) -> None:
    form = FORMATS["hermes"]
    assert call_constraint(form, TOOLS, ToolChoice("none"), judge.control) is None
    assert call_constraint(form, (), AUTO, judge.control) is None
    assert call_constraint(Format(), TOOLS, REQUIRED, judge.control) is None
    with pytest.raises(InvalidRequest, match="'search' that is to be called"):
        call_constraint(form, TOOLS, ToolChoice("named", name="search"), judge.control)


# --- control tokens ------------------------------------------------------------------------


def test_markers_that_are_control_tokens_are_not_spelled_out(judge: Judge) -> None:
    form = Format(
        calls=Calls(
            begin="<file_sep>",
            call=WrittenCall(pieces=("<gh_stars>", "{name}", "<filename>", "{arguments}")),
            end="<issue_start>",
        )
    )
    for choice in (REQUIRED, AUTO):
        spec = call_constraint(form, TOOLS, choice, judge.control)
        text = written(form, call("now"), call("get_weather", city="x"))
        assert judge.fits(spec, text)
        assert not judge.fits(spec, text, spelled=True)


def test_values_end_at_control_tokens(judge: Judge) -> None:
    """Their text may stand in a value; the token ends it."""
    swapped = msgspec.json.encode(FORMATS["gemma"]).replace(rb"<|\"|>", b"<empty_output>")
    form = msgspec.json.decode(swapped, type=Format)
    spec = call_constraint(form, TOOLS, REQUIRED, judge.control)
    said = call("get_weather", city='a "b" <c>', unit="F", places=["", "x"])
    assert judge.fits(spec, written(form, said))
    assert not judge.fits(spec, written(form, said), spelled=True)


@pytest.mark.parametrize("place", ["call", "calls"])
def test_nothing_is_asked_for_after_a_token_that_ends_the_answer(judge: Judge, place: str) -> None:
    end = "<|im_end|>\n"
    form = Format(
        calls=Calls(
            call=JsonCall(begin="<c>", end="</c>" + (end if place == "call" else "")),
            end=end if place == "calls" else "",
        )
    )
    spec = call_constraint(form, TOOLS, ToolChoice("required"), judge.control)
    assert judge.fits(spec, '<c>{"name": "now", "arguments": {}}</c>')


# --- in auto -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "texts", "leading"),
    [
        ("hermes", ("<tool_call>",), False),
        ("mistral", ("[TOOL_CALLS]",), False),
        ("openai", ("Action: ```json",), False),
        ("qwen coder", ("<tool_call>",), False),
        ("python", ("<|tool_call_start|>",), False),
        ("json values", ("<invoke name=",), False),
        ("llama 3", ('{"name": "get_weather"', '{"name": "now"'), True),
        ("python alone", ("[get_weather(", "[now("), True),
        (
            "harmony",
            ("<|channel|>commentary to=functions.", "<|start|>assistant to=functions."),
            False,
        ),
    ],
)
def test_where_a_call_begins(
    judge: Judge, name: str, texts: tuple[str, ...], *, leading: bool
) -> None:
    spec = call_constraint(FORMATS[name], TOOLS, AUTO, judge.control)
    assert spec is not None
    assert spec.trigger == Trigger(texts=texts, leading=leading)


def test_white_space_after_the_marker_is_free(judge: Judge) -> None:
    spec = call_constraint(FORMATS["hermes"], TOOLS, AUTO, judge.control)
    body = '{"name": "now", "arguments": {}}\n</tool_call>'
    for space in ("\n", "", " ", "\n\n"):
        assert judge.fits(spec, f"<tool_call>{space}{body}")
    assert not judge.fits(spec, f"<tool_call>x{body}")


def test_no_white_space_in_the_middle_of_a_tag(judge: Judge) -> None:
    """Readers would not take it for a call."""
    spec = call_constraint(FORMATS["json values"], TOOLS, AUTO, judge.control)
    assert judge.fits(spec, '<invoke name="now"></invoke>')
    assert not judge.fits(spec, '<invoke name= "now"></invoke>')


def test_gpt_oss_names_the_recipient_early_or_late(judge: Judge) -> None:
    auto = call_constraint(FORMATS["harmony"], TOOLS, AUTO, judge.control)
    assert judge.fits(
        auto,
        "<|start|>assistant to=functions.now<|channel|>commentary <|constrain|>json<|message|>{}",
    )
    forced = call_constraint(FORMATS["harmony"], TOOLS, REQUIRED, judge.control)
    late = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}"
    assert judge.fits(forced, late)
    assert judge.fits(forced, "<|start|>assistant" + late)


# --- thinking, and other formats -----------------------------------------------------------


def test_thinking_is_told_to_the_engine(judge: Judge) -> None:
    around = Around(opening="<think>", after="</think>")
    for choice in (REQUIRED, AUTO):
        spec = call_constraint(FORMATS["hermes"], TOOLS, choice, judge.control, around)
        assert spec is not None
        assert (spec.opening, spec.after) == ("<think>", "</think>")
    spec = call_constraint(FORMATS["hermes"], TOOLS, REQUIRED, judge.control, around)
    text = written(FORMATS["hermes"], call("now"))
    assert judge.fits(spec, text)
    assert judge.fits(spec, "\n\n" + text)


@pytest.mark.parametrize(
    ("output", "good", "bad"),
    [
        (
            OutputFormat(
                "json_schema", {"type": "object", "properties": {"a": {"type": "integer"}}}
            ),
            '{"a": 3}',
            "3",
        ),
        (OutputFormat("json_object"), '{"a": 3}', "3"),
        (OutputFormat("regex", definition="yes|no/never"), "no/never", "maybe"),
        (OutputFormat("lark", definition='start: "a" b\nb: "b"+'), "abb", "a"),
    ],
)
def test_the_answer_is_calls_or_has_the_format(
    judge: Judge, output: OutputFormat, good: str, bad: str
) -> None:
    for name in ("hermes", "llama 3", "mistral"):
        form = FORMATS[name]
        spec = call_constraint(form, TOOLS, AUTO, judge.control, Around(output=output))
        assert spec is not None
        assert spec.trigger is None
        assert judge.fits(spec, good)
        assert judge.fits(spec, written(form, call("now")))
        assert not judge.fits(spec, bad)
        forced = call_constraint(form, TOOLS, REQUIRED, judge.control, Around(output=output))
        assert not judge.fits(forced, good)
    answering = msgspec.structs.replace(FORMATS["hermes"], answer=Span("<response>", "</response>"))
    spec = call_constraint(answering, TOOLS, AUTO, judge.control, Around(output=output))
    assert judge.fits(spec, f"<response>{good}</response>")


# --- schemas -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - {"nothing fits"}))  # an option none takes
def test_strict_tools_that_cannot_be_enforced_are_refused(judge: Judge, name: str) -> None:
    text, expected = REFUSED[name]
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        pytest.skip("no value")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        schema = {"type": "object", "properties": {"a": schema}}
    tool = Tool("search", parameters=schema, strict=True)
    with pytest.raises(InvalidRequest, match="'search'") as caught:
        call_constraint(FORMATS["hermes"], (tool,), REQUIRED, judge.control)
    assert caught.value.param == "tools"
    if expected.startswith("'"):
        assert isinstance(caught.value, NotSupported)
        assert expected in caught.value.message


@pytest.mark.parametrize("name", [*REFUSED, *HOSTILE])
def test_other_tools_are_enforced_as_far_as_possible(judge: Judge, name: str) -> None:
    try:
        schema = json.loads(REFUSED[name][0]) if name in REFUSED else HOSTILE[name]
    except (ValueError, RecursionError):
        pytest.skip("no value")
    tool = Tool("search", parameters={"type": "object", "properties": {"a": schema}})
    for form in ("hermes", "qwen coder", "gemma", "python"):
        spec = call_constraint(FORMATS[form], (tool, NOW), REQUIRED, judge.control)
        assert judge.fits(spec, written(FORMATS[form], call("now")))
    if name in REFUSED and name not in {"hidden lenience", "nothing fits"}:
        assert any("'search'" in warning for warning in schemas.warnings((tool,)))


_SELF = {"anyOf": [*([{"$ref": "#/$defs/self"}] * 30), {"type": "string"}]}
_STRICTER = {
    "anyOf": [*({"$ref": "#/$defs/x", "minLength": i} for i in range(30)), {"type": "integer"}]
}


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"$ref": "#/$defs/self"}, [{"type": "string"}]),
        ({"$ref": "#/$defs/0"}, [{}]),  # deeper than anybody looks
        ({"$ref": "#/$defs/24"}, [{"type": "integer"}]),
        ({"$ref": "#/$defs/nowhere"}, [{}]),
        ({"$ref": "#/$defs/loop"}, [{}]),
        (False, []),
        ({"anyOf": [False, {"const": 1}, True, {}]}, [{"const": 1}, {}]),
    ],
)
def test_alternatives_are_found_once(schema: Any, wanted: list[schemas.Schema]) -> None:
    levels = {str(i): {"oneOf": [{"$ref": f"#/$defs/{i + 1}"}] * 30} for i in range(27)}
    defs = {
        "self": _SELF,
        "x": _STRICTER,
        "loop": {"$ref": "#/$defs/loop"},
        **levels,
        "27": {"type": "integer"},
    }
    assert alternatives(schema, {"$defs": defs}) == wanted


def test_too_many_alternatives_end_with_anything() -> None:
    found = alternatives({"$ref": "#/$defs/x"}, {"$defs": {"x": _STRICTER}})
    assert {"type": "integer"} in found
    assert found[-1] == {"type": "integer"}
    many: schemas.Schema = {"anyOf": [{"type": "string", "minLength": i} for i in range(3000)]}
    found = alternatives(many, many)
    assert len(found) <= 2000
    assert found[-1] == {}


def test_tools_that_are_too_long_together_keep_the_strict_ones(judge: Judge) -> None:
    long = {"type": "object", "properties": {"a": {"enum": [f"value {i}" for i in range(3000)]}}}
    tools = [Tool(f"t{i}", parameters=long) for i in range(8)]
    spec = call_constraint(FORMATS["hermes"], [*tools, WEATHER], REQUIRED, judge.control)
    assert judge.fits(spec, written(FORMATS["hermes"], call("t1", a="other")))
    strict = [msgspec.structs.replace(tool, strict=True) for tool in tools]
    with pytest.raises(InvalidRequest, match="too long together"):
        call_constraint(FORMATS["hermes"], strict, REQUIRED, judge.control)


def test_tools_are_checked_before_anything_is_loaded() -> None:
    def checked(mode: str = "auto", *, strict: bool = False) -> tuple[str, ...]:
        schema = {"properties": {"a": {"type": "array", "uniqueItems": True}}}
        tool = Tool("mein.werkzeug", parameters=schema, strict=strict)
        choice = ToolChoice(mode)  # type: ignore[arg-type]
        request = Request(model="m", tools=(NOW, tool, WEATHER), tool_choice=choice)
        return asyncio.run(tool_check.check(request))

    (warning,) = checked()
    assert "'mein.werkzeug'" in warning
    assert "'uniqueItems'" in warning
    assert checked("none", strict=True) == ()
    with pytest.raises(NotSupported, match=r"'mein.werkzeug'.*'uniqueItems'"):
        checked(strict=True)


def test_objects_are_closed_where_that_cannot_contradict() -> None:
    inner = {"type": "object", "properties": {"b": {"title": "B"}}}
    named = {"type": "object", "properties": {"a": inner, "title": {}}}
    assert schemas.closed(schemas.bare(named)) == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "a": {"type": "object", "properties": {"b": {}}, "additionalProperties": False},
            "title": {},
        },
    }
    for combined in (
        {"allOf": [inner, {"type": "object", "properties": {"c": {}}}]},
        {**inner, "anyOf": [{"required": ["b"]}, {"required": ["x"]}]},
        {"type": "object", "properties": {"o": {"not": inner}}},
    ):
        assert schemas.closed(combined) == combined
