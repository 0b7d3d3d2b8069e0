"""The arguments of a call, as a model writes them: JSON, tags, a dict of its own, Python's keywords."""

from __future__ import annotations

from typing import Any

from lmnb.chat.conversation import Tool
from lmnb.chat.formats.forcing import strings
from lmnb.chat.formats.forcing.inputs.rules import rules
from lmnb.chat.formats.forcing.inputs.writing import Escaped, Raw
from lmnb.chat.formats.forcing.lark import Lark, Member, either, json_value, members, sequence
from lmnb.chat.formats.forcing.schemas import Schema
from lmnb.chat.formats.forcing.values import (
    PYTHON,
    Values,
    alternatives,
    dict_notation,
    embedded,
    unnamed,
)
from lmnb.chat.formats.format import Arguments, DictArguments, JsonArguments, TaggedArguments
from lmnb.errors import InvalidRequest, NotSupported

_KEY = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"


def arguments(lark: Lark, form: Arguments, tool: Tool, schema: Schema) -> str:
    """All the arguments of a call.

    Raises
    ------
    NotSupported
        The tool is strict, and has a keyword that cannot be enforced on what is not JSON.
    InvalidRequest
        A required argument has a name that cannot be written.
    """
    if tool.grammar is not None:
        return _Custom(lark, tool.grammar, next(iter(schema["properties"]))).all(form)
    match form:
        case JsonArguments():
            return json_value(schema, lenient=not tool.strict)
        case TaggedArguments():
            return _Tagged(lark, form, tool, schema).all()
        case DictArguments(quote=quote):
            values = Values(lark, dict_notation(quote), schema, lenient=not tool.strict)
            written = values.object(schema)
            _refuse(tool, values.unenforced)
            return written


def keywords(lark: Lark, tool: Tool, schema: Schema) -> str:
    """Arguments as Python writes them in a call. Raises as `arguments`."""
    if tool.grammar is not None:
        return _Custom(lark, tool.grammar, next(iter(schema["properties"]))).keyword()
    values = Values(lark, PYTHON, schema, lenient=not tool.strict)
    for name in schema.get("required") or ():
        if not name.isidentifier():
            raise _unwritable(tool, name)
    properties = schema.get("properties") or {}
    kept = {name: inner for name, inner in properties.items() if name.isidentifier()}
    written = values.members({**schema, "properties": kept}, "{}=")
    _refuse(tool, values.unenforced)
    return written


class _Custom:
    """The one argument of a custom tool, a text of a Lark grammar."""

    def __init__(self, lark: Lark, grammar: str, name: str) -> None:
        self._lark = lark
        self._grammar = grammar
        self._name = name

    def all(self, form: Arguments) -> str:
        """The argument, and what stands around it."""
        match form:
            case JsonArguments():
                return self._quoted(f'{{"{self._name}": ', "}")
            case TaggedArguments(raw_strings=False):
                return self._quoted(f"{form.key_begin}{self._name}{form.key_end}", form.value_end)
            case TaggedArguments():
                mark = form.typed[0] if form.typed else ""
                begin = f"{form.key_begin}{self._name}{form.key_end}{mark}"
                return self._raw(begin, form.value_end)
            case DictArguments(quote=quote):
                return sequence(self._raw(f"{{{self._name}:{quote}", quote), '"}"')

    def keyword(self) -> str:
        """The argument as Python writes it: the escapes of JSON are Python's, too."""
        return self._quoted(f"{self._name}=", "")

    def _quoted(self, begin: str, end: str) -> str:
        text = rules(self._lark, self._grammar, Escaped())
        return sequence(self._lark.literal(f'{begin}"'), text, self._lark.literal(f'"{end}'))

    def _raw(self, begin: str, end: str) -> str:
        """White space before the mark is part of it: readers take it off."""
        border = end[: len(end) - len(end.lstrip())]
        mark, control = self._lark.parts(end.strip())[0]
        writing = Raw(border, mark if control is None else "")
        text = rules(self._lark, self._grammar, writing)
        parts = (begin, border, end[len(border) :])
        head, space, tail = (self._lark.literal(part) for part in parts)
        return sequence(head, text, space, tail)


class _Tagged:
    """Arguments each between their own tags."""

    def __init__(self, lark: Lark, form: TaggedArguments, tool: Tool, schema: Schema) -> None:
        self._lark = lark
        self._form = form
        self._tool = tool
        self._schema = schema
        self._unenforced: set[str] = set()

    def all(self) -> str:
        """The arguments, in the order of the schema."""
        required = self._schema.get("required") or ()
        rows = []
        for name, inner in (self._schema.get("properties") or {}).items():
            if self._writable(name):
                tag = f"{self._form.key_begin}{name}{self._form.key_end}"
                rows.append(Member(tag, self._value(inner), name in required))
            elif name in required:
                raise _unwritable(self._tool, name)
        written = members(self._lark, rows, self._form.separator, self._extra())
        _refuse(self._tool, self._unenforced)
        return written

    def _writable(self, name: str) -> bool:
        mark = self._form.key_end.strip()
        return name == name.strip() and "\n" not in name and not (mark and mark in name)

    def _extra(self) -> str | None:
        inner = self._schema.get("additionalProperties", True)
        if inner is False:
            return None
        return self._lark.rule(
            sequence(
                self._lark.literal(self._form.key_begin),
                unnamed(self._lark, _KEY, self._schema),
                self._lark.literal(self._form.key_end),
                self._value(inner),
            )
        )

    def _value(self, schema: Any) -> str:
        """A value, and the end of its tag."""
        end = self._form.value_end
        kinds = alternatives(schema, self._schema)
        text = [kind for kind in kinds if _is_text(kind)]
        if not self._form.raw_strings:
            return sequence(self._json(schema), self._lark.literal(end))
        marks = self._form.typed or ("", "")
        options = []
        if text:
            options.append(sequence(self._lark.literal(marks[0]), self._text(text, end)))
        others = [kind for kind in kinds if not _is_text(kind) or (not kind and self._form.typed)]
        # A text of any kind may also look like a number; then it is read as one.
        if others and (self._form.typed or not any(_is_free(kind) for kind in text)):
            mark = self._lark.literal(marks[1])
            options += [
                sequence(mark, self._json(kind), self._lark.literal(end)) for kind in others
            ]
        return self._lark.rule(either(options))

    def _json(self, schema: Any) -> str:
        if not isinstance(schema, dict):
            schema = {}
        if "const" not in schema:
            schema = embedded(schema, self._schema)
        return json_value(schema, lenient=not self._tool.strict)

    def _text(self, kinds: list[Schema], end: str) -> str:
        constants = [kind["const"] for kind in kinds if "const" in kind]
        options = [strings.constants(self._lark, constants, end)] if constants else []
        options += [
            strings.raw(self._lark, kind, end, self._unenforced)
            for kind in kinds
            if "const" not in kind
        ]
        return either(options)


def _is_text(kind: Schema) -> bool:
    """Whether a value of this kind is written as a text; one of no kind may be."""
    if "const" in kind:
        return isinstance(kind["const"], str)
    return bool(kind.get("type", "string") == "string")


def _is_free(kind: Schema) -> bool:
    return not kind.keys() & {"const", "pattern", "format", "minLength", "maxLength"}


def _refuse(tool: Tool, keys: set[str]) -> None:
    """What cannot be enforced outside of JSON is refused if the tool insists on it."""
    if keys and tool.strict:
        raise NotSupported(
            f"The parameters of the tool {tool.name!r} use {', '.join(map(repr, sorted(keys)))}, "
            "which cannot be enforced in the way this model writes arguments.",
            hint="Leave it out, or set the tool's 'strict' to false.",
            param="tools",
        )


def _unwritable(tool: Tool, name: str) -> InvalidRequest:
    return InvalidRequest(
        f"The model cannot write {name!r}, a required parameter of the tool {tool.name!r}: "
        "its form of calls has no place for such a name.",
        hint="Rename the parameter.",
        param="tools",
    )
