"""What a model may write when it calls tools: a grammar, from how it writes calls and the tools' schemas.

- `required`: the answer is one or more calls, exactly one if they must not be parallel.
- `named`: it is one call of that tool.
- `auto`: the answer is free until the text that begins a call, and from there as above. With an
  output format it is either calls or the format's text, from the beginning.
- `none`: nothing is enforced, and calls are not looked for: whatever is written is text.

Calls are written exactly as the model's template writes them, names are those of the tools, and
arguments fit their schemas, in the schema's order. What a schema leaves open is the model's choice,
with one exception (`schemas.closed`): objects that name their properties get no others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from lmnb.chat.conversation import OutputFormat, Tool, ToolChoice
from lmnb.chat.formats.forcing.arguments import arguments, keywords
from lmnb.chat.formats.forcing.lark import SPACE, Lark, either, json_value, regex, sequence
from lmnb.chat.formats.forcing.schemas import FREE, Schema, try_out, usable
from lmnb.chat.formats.forcing.values import moved
from lmnb.chat.formats.format import (
    ARGUMENTS,
    HARMONY_START,
    ID,
    INDEX,
    NAME,
    Calls,
    Format,
    HarmonyCall,
    JsonArguments,
    JsonCall,
    PythonCall,
    WrittenCall,
    tells,
)
from lmnb.chat.formats.reading.source import NO, Marker
from lmnb.chat.formats.write import example
from lmnb.engine.grammar_source import MAX_LENGTH
from lmnb.engine.options import ConstraintSpec, Trigger
from lmnb.errors import InvalidRequest, LmnbError, NotSupported

_PLACE = re.compile("(" + "|".join(map(re.escape, (NAME, ID, INDEX, ARGUMENTS))) + ")")
_WRITTEN = {ID: "/[A-Za-z0-9_-]{1,24}/", INDEX: "/0|[1-9][0-9]{0,2}/"}
_BRACKETS = "[{(\"' \t\r\n"
"""What models put white space between as they like, so that no trigger ends in it."""
_HARMONY = ("<|channel|>commentary to=functions.", NAME, " <|constrain|>json<|message|>", ARGUMENTS)
_HARMONY_EARLY = (
    f"{HARMONY_START} to=functions.",
    NAME,
    "<|channel|>commentary <|constrain|>json<|message|>",
    ARGUMENTS,
)
"""gpt-oss names the recipient after the channel or before it; it is asked for the former."""


class Control(NamedTuple):
    """The control tokens of a model: ids by their text, and those that end its answer."""

    tokens: Mapping[str, int] = {}
    ends: Collection[int] = ()


class Around(NamedTuple):
    """What stands around a constraint: the model's thinking (as in `ConstraintSpec`), and words.

    `output` is what the answer has to be where it is not a call.
    """

    opening: str | None = None
    after: str | None = None
    output: OutputFormat = OutputFormat()


def call_constraint(
    form: Format,
    tools: Sequence[Tool],
    choice: ToolChoice,
    control: Control,
    around: Around = Around(),  # noqa: B008  (immutable)
) -> ConstraintSpec | None:
    """What the engine is told of the tools; None if they bind nothing.

    Parameters
    ----------
    form
        How the model writes calls; one that knows none binds nothing.
    tools
        Under names the model can write (`lmnb.chat.tool_names`).

    Raises
    ------
    NotSupported
        A strict tool has a keyword that cannot be enforced; the message names both.
    InvalidRequest
        A strict tool's schema is wrong or too costly; the named tool is not among the tools; or
        their schemas are too long together.
    """
    if choice.mode == "none" or not tools or form.calls is None:
        return None
    tools = _chosen(tools, choice)
    whole = {tool.name: _schema(form.calls, msgspec.json.encode(tool)) for tool in tools}
    strict = {tool.name: whole[tool.name] if tool.strict else FREE for tool in tools}
    for schemas in (whole, strict):
        spec = _Builder(form, form.calls, tools, schemas, control).spec(choice, around)
        if len(spec.text) <= MAX_LENGTH:
            return spec
    raise InvalidRequest("The schemas of the tools are too long together.", param="tools")


@lru_cache(512)
def _schema(calls: Calls, encoded: bytes) -> Schema:
    """A tool's schema, as far as calls in this form can be made to fit it."""
    tool = msgspec.json.decode(encoded, type=Tool)
    schema = usable(tool).schema
    if isinstance(calls.call, JsonCall | HarmonyCall):
        return schema  # it has been tried out as JSON
    builder = _Builder(Format(), calls, (tool,), {tool.name: schema}, Control())
    try:
        try_out(builder.spec(ToolChoice("required"), Around()))
    except LmnbError as error:
        if not tool.strict:
            return FREE
        if error.param == "tools":
            raise
        raise InvalidRequest(
            f"The parameters of the tool {tool.name!r} cannot be written in this model's form of "
            f"calls: {error.message}",
            param="tools",
        ) from error
    return schema


def _chosen(tools: Sequence[Tool], choice: ToolChoice) -> tuple[Tool, ...]:
    if choice.mode != "named":
        return tuple(tools)
    found = tuple(tool for tool in tools if tool.name == choice.name)
    if not found:
        raise InvalidRequest(
            f"The tool {choice.name!r} that is to be called is not among the tools.",
            param="tool_choice",
        )
    return found


class _Builder:
    """The grammar of one request."""

    def __init__(
        self,
        form: Format,
        calls: Calls,
        tools: tuple[Tool, ...],
        schemas: Mapping[str, Schema],
        control: Control,
    ) -> None:
        self._form = form
        self._calls = calls
        self._tools = tools
        self._schemas = schemas
        self._lark = Lark(control.tokens, control.ends)

    def spec(self, choice: ToolChoice, around: Around) -> ConstraintSpec:
        """The constraint, with the trigger if there is one."""
        pieces = _pieces(self._calls)
        several = self._calls.parallel and choice.parallel and choice.mode != "named"
        trigger = None
        if choice.mode != "auto":
            start = self._turn(pieces, several=several, after=around.after)
        elif around.output.type != "text":
            start = self._calls_or_words(pieces, around, several=several)
        elif self._harmony:
            trigger = Trigger(texts=(_HARMONY[0], _HARMONY_EARLY[0]))
            start = either(self._turn(each, several=False) for each in (_HARMONY, _HARMONY_EARLY))
        else:
            trigger = self._trigger(pieces)
            marker = "" if trigger.leading else trigger.texts[0]
            start = self._turn(pieces, several=several, marker=marker, strip=True)
        return ConstraintSpec(
            kind="lark",
            text=self._lark.text(start),
            opening=around.opening,
            after=around.after,
            trigger=trigger,
            closing=choice.mode != "auto",
        )

    @property
    def _harmony(self) -> bool:
        return isinstance(self._calls.call, HarmonyCall)

    def _turn(
        self,
        pieces: tuple[str, ...],
        *,
        several: bool,
        after: str | None = None,
        marker: str = "",
        strip: bool = False,
    ) -> str:
        """All the calls of an answer.

        After thinking there may be white space. With `strip` there is none before them, and after
        the `marker` as much as the model likes, if it does not end in the middle of a tag: it has
        written it freely.
        """
        head, body = (pieces[0], pieces[1:]) if _is_literal(pieces[0]) else ("", pieces)
        call, ended = self._call(body)
        begin = self._calls.begin + head
        begin = begin.lstrip() if strip else begin
        first = self._lark.literal(begin)
        space = f"({self._lark.terminal(SPACE)})?"
        if marker:
            rest = begin[len(marker) :].lstrip()
            is_free = Marker(begin).match(f"{marker} {rest}", 0) != NO  # as readers take it
            first = sequence(
                self._lark.literal(marker), space if is_free else "", self._lark.literal(rest)
            )
        if self._harmony and not strip:
            first = sequence(f"({self._lark.literal(HARMONY_START)})?", first)
        if after is not None:
            first = sequence(space, first)
        if ended:
            return sequence(first, call)
        following = ""
        if several and not self._harmony:
            following = f"({sequence(self._lark.literal(self._calls.separator + head), call)})*"
        end, _ = self._lark.until_end(self._calls.end)
        return sequence(first, call, following, self._lark.literal(end))

    def _call(self, body: tuple[str, ...]) -> tuple[str, bool]:
        """A call of one of the tools, after what all begin with; whether it ends the answer."""
        kept: list[str] = []
        ended = False
        for piece in body:
            text, ended = self._lark.until_end(piece) if _is_literal(piece) else (piece, False)
            kept.append(text)
            if ended:
                break
        options = [sequence(*(self._piece(piece, tool) for piece in kept)) for tool in self._tools]
        return self._lark.rule(either(options)), ended

    def _piece(self, piece: str, tool: Tool) -> str:
        if piece == NAME:
            return self._lark.literal(tool.name)
        if piece in _WRITTEN:
            return self._lark.terminal(_WRITTEN[piece])
        return self._arguments(tool) if piece == ARGUMENTS else self._lark.literal(piece)

    def _arguments(self, tool: Tool) -> str:
        call, schema = self._calls.call, self._schemas[tool.name]
        if isinstance(call, PythonCall):
            return keywords(self._lark, tool, schema)
        form = call.arguments if isinstance(call, WrittenCall) else JsonArguments()
        return arguments(self._lark, form, tool, schema)

    def _trigger(self, pieces: tuple[str, ...]) -> Trigger:
        """Where a call has begun for certain: a marker, or else its beginning with a tool's name."""
        head = pieces[0] if _is_literal(pieces[0]) else ""
        begin = (self._calls.begin + head).lstrip()
        marker = self._calls.begin.strip()
        if not tells(marker):
            before = self._calls.call.begin if isinstance(self._calls.call, JsonCall) else head
            marker = (self._calls.begin + before).strip().partition("\n")[0]
        marker = marker.rstrip(_BRACKETS)
        if tells(marker):
            return Trigger(texts=(marker,))
        after_name = pieces[pieces.index(NAME) + 1][:1]
        texts = tuple(begin + tool.name + after_name for tool in self._tools)
        return Trigger(texts=texts, leading=True)

    def _calls_or_words(self, pieces: tuple[str, ...], around: Around, *, several: bool) -> str:
        call, output = self._calls.call, around.output
        if isinstance(call, JsonCall) and output.type in {"json_object", "json_schema"}:
            around_it = (self._calls.begin, call.begin, call.end, self._calls.end)
            if not "".join(around_it):
                _refuse_grammars(self._tools)
                return self._one_object(call, output)
        turn = self._turn(pieces, several=several, after=around.after)
        return either([turn, self._words(output)])

    def _one_object(self, call: JsonCall, output: OutputFormat) -> str:
        """A call that is nothing but JSON, or an answer in JSON: one schema, as for one lexer."""
        form = json.loads(example(call).replace(ARGUMENTS, json.dumps(ARGUMENTS)))
        schemas = {f"tool{i}": self._schemas[tool.name] for i, tool in enumerate(self._tools)}
        schemas["answer"] = (output.schema or {}) if output.type == "json_schema" else FREE
        options: list[Schema] = [
            _filled(form, tool.name, {"$ref": f"#/$defs/{key}"})
            for key, tool in zip(schemas, self._tools, strict=False)
        ]
        definitions = {key: moved(schema, key) for key, schema in schemas.items()}
        options.append({"$ref": "#/$defs/answer"})
        # What is strict has been checked to need no lenience.
        return json_value({"anyOf": options, "$defs": definitions}, lenient=True)

    def _words(self, output: OutputFormat) -> str:
        """An answer that is no call but has a format."""
        answer = self._form.answer
        end, _ = self._lark.until_end(answer.end if answer else "")
        begin = self._lark.literal(answer.begin) if answer else ""
        return sequence(begin, _formatted(self._lark, output), self._lark.literal(end))


def _refuse_grammars(tools: Sequence[Tool]) -> None:
    for tool in tools:
        if tool.grammar is not None:
            raise NotSupported(
                f"With this model the Lark grammar of the tool {tool.name!r} cannot be enforced "
                "beside a JSON output format.",
                hint="Leave out the format, or the tool.",
                param="tools",
            )


def _pieces(calls: Calls) -> tuple[str, ...]:
    """A call as literals and places; two literals never follow one another."""
    match calls.call:
        case WrittenCall(pieces=pieces):
            text = "".join(pieces)
        case JsonCall() as call:
            text = call.begin + example(call) + call.end
        case PythonCall():
            text = f"{NAME}({ARGUMENTS})"
        case HarmonyCall():
            return _HARMONY
    return tuple(piece for piece in _PLACE.split(text) if piece)


def _filled(form: object, name: str, arguments: Schema) -> Schema:
    """The schema of exactly one call, from what a call looks like."""
    if isinstance(form, dict):
        properties = {key: _filled(value, name, arguments) for key, value in form.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    if form == ARGUMENTS:
        return arguments
    if form == ID:
        return {"type": "string", "pattern": f"^{_WRITTEN[ID][1:-1]}$"}
    return {"const": name if form == NAME else form}


def _is_literal(piece: str) -> bool:
    return not _PLACE.fullmatch(piece)


def _formatted(lark: Lark, output: OutputFormat) -> str:
    match output.type:
        case "json_schema":
            return json_value(output.schema or {}, lenient=not output.strict)
        case "regex":
            return lark.terminal(regex(output.definition))
        case "lark":
            return lark.rule("%lark {\n" + output.definition + "\n}")
        case _:
            return json_value({"type": "object"}, lenient=False)
