"""Values of a JSON schema in notations other than JSON: Python's, and dicts with marks of their own.

llguidance enforces schemas on JSON only, so that schemas are read here where a model writes
something else. Numbers are JSON in all of them, and are left to llguidance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from lmnb.chat.formats.forcing import strings
from lmnb.chat.formats.forcing.lark import (
    Lark,
    Member,
    either,
    json_value,
    members,
    regex,
    sequence,
)
from lmnb.chat.formats.forcing.schemas import Schema, mapped
from lmnb.chat.json_pointer import referred

_NUMBER_KEYS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_ENFORCED = frozenset(
    [
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "definitions",
        "properties",
        "required",
        "items",
        "prefixItems",
        "additionalProperties",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "format",
    ]
) | frozenset(_NUMBER_KEYS)
_TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,31}"
_DEPTH = 8
"""References followed to see what a schema is."""
_MOST = 2000
"""Schemas looked at to see what a schema is."""
_ANY_DEPTH = 3
"""Levels of a value of which nothing is said."""


class Notation(msgspec.Struct, frozen=True):
    """How values are written: their words, and what stands between keys and members.

    `quote` stands around strings that are written as they are; "" is quotes with escapes.
    """

    true: str
    false: str
    null: str
    colon: str
    comma: str
    quote: str = ""


PYTHON = Notation("True", "False", "None", ": ", ", ")


def dict_notation(quote: str) -> Notation:
    """`{key:value,key:value}`, strings between `quote`."""
    return Notation("true", "false", "null", ":", ",", quote)


def alternatives(schema: Any, root: Schema) -> list[Schema]:
    """What a schema allows, as schemas without references, unions and several types.

    One without a type allows anything, and comes once at most. Constants are `{"const": …}`.
    """
    found = []
    for kind in _alternatives(schema, root):
        if kind or kind not in found:
            found.append(kind)
    return found


def _alternatives(schema: Any, root: Schema) -> Iterator[Schema]:
    """A reference adds nothing when it comes again. What is beyond the bounds is anything."""
    pending: list[tuple[Any, int]] = [(schema, 0)]
    followed: list[Schema] = []
    says_something = False
    for _ in range(_MOST):
        if not pending:
            break
        node, depth = pending.pop()
        if isinstance(node, dict) and "$ref" in node:
            if node in followed:
                continue
            followed.append(node)
        parts = _parts(node, root) if depth < _DEPTH and isinstance(node, dict) else None
        if parts is None:
            yield from _kinds(node)
            says_something = True
        else:
            pending += [(part, depth + 1) for part in reversed(parts)]
    if pending or not says_something:  # too many, or references to themselves alone
        yield {}


def _parts(schema: Schema, root: Schema) -> list[Any] | None:
    """What a reference, a union or a conjunction consists of, one step down; None: it is none."""
    if isinstance(reference := schema.get("$ref"), str):
        return [merged(resolve(reference, root), _without(schema, "$ref"))]
    for key in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(key), list):
            return [merged(option, _without(schema, key)) for option in options]
    if isinstance(parts := schema.get("allOf"), list):
        whole: Any = _without(schema, "allOf")
        for part in parts:
            reference = part.get("$ref") if isinstance(part, dict) else None
            if isinstance(reference, str):
                part = merged(resolve(reference, root), _without(part, "$ref"))  # noqa: PLW2901
            whole = merged(part, whole)
        return [whole]
    return None


def _kinds(schema: Any) -> Iterator[Schema]:
    """The alternatives of a schema without references, unions and conjunctions."""
    if not isinstance(schema, dict):
        yield from [] if schema is False else [{}]
    elif "const" in schema:
        yield {"const": schema["const"]}
    elif isinstance(values := schema.get("enum"), list):
        yield from ({"const": value} for value in values)
    elif isinstance(kinds := schema.get("type"), list):
        yield from ({**schema, "type": kind} for kind in kinds)
    else:
        kind = schema.get("type") or _implied(schema)
        yield {**schema, "type": kind} if kind else {}


def _without(schema: Schema, key: str) -> Schema:
    return {name: value for name, value in schema.items() if name != key}


def merged(first: Any, second: Any) -> Any:
    """Both schemas at once, as far as a look at their keywords tells."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return second if first is True else first if second is True else False
    both = {**first, **second}
    if "properties" in first and "properties" in second:
        both["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        both["required"] = [*first["required"], *second["required"]]
    return both


def resolve(reference: str, root: Schema) -> Any:
    """What a reference within the schema points to; a schema of anything if it points nowhere."""
    found = referred(reference, root)
    return found if isinstance(found, dict | bool) else True


def _implied(schema: Schema) -> str | None:
    """The type a schema means whose author left it out."""
    for kind, keys in (
        ("object", ("properties", "additionalProperties")),
        ("array", ("items", "prefixItems")),
        ("string", ("pattern", "minLength", "maxLength")),
        ("number", _NUMBER_KEYS),
    ):
        if any(key in schema for key in keys):
            return kind
    return None


def embedded(schema: Schema, root: Schema) -> Schema:
    """A part of a schema that stands alone: its references still find what they mean."""
    if '"$ref"' not in json.dumps(root):
        return schema
    part: Schema = moved(schema, "root")
    return {**part, "$defs": {"root": moved(root, "root")}}


def moved(schema: Schema, name: str) -> Schema:
    """A schema that is going to stand in the `$defs` of another."""

    def move(node: Schema) -> Schema:
        reference = node.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return node
        return {**node, "$ref": f"#/$defs/{name}{reference[1:]}"}

    result: Schema = mapped(schema, move)
    return result


def unnamed(lark: Lark, pattern: str, schema: Schema) -> str:
    """A name for a property that the schema does not name."""
    named = [lark.literal(name) for name in schema.get("properties") or () if name]
    return lark.terminal(f"{regex(pattern)} & ~({' | '.join(named)})" if named else regex(pattern))


class Values:
    """Expressions for the values of one tool's schema.

    `unenforced` collects the keywords that could not be kept.
    """

    def __init__(self, lark: Lark, notation: Notation, root: Schema, *, lenient: bool) -> None:
        self._lark = lark
        self._notation = notation
        self._root = root
        self._lenient = lenient
        self._references: dict[str, str] = {}
        self.unenforced: set[str] = set()

    def value(self, schema: Any) -> str:
        """A value that fits the schema."""
        if isinstance(schema, dict):
            self.unenforced |= schema.keys() - _ENFORCED
            reference = schema.get("$ref")
            if isinstance(reference, str) and not schema.keys() & {"properties", "required"}:
                return self._referred(reference)
        options = [self._single(option) for option in alternatives(schema, self._root)]
        return either(options) if options else json_value(schema=False, lenient=False)

    def object(self, schema: Schema) -> str:
        """Members of an object, in braces."""
        return sequence('"{"', self.members(schema, self._key), '"}"')

    def members(self, schema: Schema, key: str) -> str:
        """The members of an object, in the order of the schema; `key` is what `{}` stands in."""
        required = schema.get("required") or ()
        rows = [
            Member(key.format(name), self._lark.rule(self.value(inner)), name in required)
            for name, inner in (schema.get("properties") or {}).items()
        ]
        extra = None
        if (inner := schema.get("additionalProperties", True)) is not False:
            extra = self._unnamed(key, schema, self._lark.rule(self.value(inner)))
        return members(self._lark, rows, self._notation.comma, extra)

    @property
    def _key(self) -> str:
        """A key inside an object, and its colon."""
        mark = "" if self._notation.quote else '"'
        return f"{mark}{{}}{mark}{self._notation.colon}"

    def _unnamed(self, key: str, schema: Schema, value: str) -> str:
        """A member that the schema does not name."""
        begin, _, end = key.partition("{}")
        name = unnamed(self._lark, _NAME, schema)
        return sequence(self._lark.literal(begin), name, self._lark.literal(end), value)

    def constant(self, value: Any) -> str:
        """Exactly this value."""
        if isinstance(value, str) and not self._notation.quote:
            return either(map(self._lark.literal, (self._written(value), repr(value))))
        return self._lark.literal(self._written(value))

    def _referred(self, reference: str) -> str:
        if reference not in self._references:
            name = self._references[reference] = self._lark.name()
            self._lark.define(name, self.value(resolve(reference, self._root)))
        return self._references[reference]

    def _single(self, schema: Schema) -> str:
        if "const" in schema:
            return self.constant(schema["const"])
        kind = schema.get("type")
        if kind == "object":
            return self.object(schema)
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            return self._string(schema)
        if kind in {"integer", "number"}:
            kept = {key: schema[key] for key in ("type", *_NUMBER_KEYS) if key in schema}
            return json_value(kept, lenient=self._lenient)
        if kind == "boolean":
            return either(self._lark.literal(word) for word in self._words())
        return self._lark.literal(self._notation.null) if kind == "null" else self._anything()

    def _anything(self, depth: int = 0) -> str:
        simple = [self._single({"type": kind}) for kind in _TYPES[1:5]]
        simple.insert(0, self._string({}))
        if depth < _ANY_DEPTH:
            inner = self._lark.rule(self._anything(depth + 1))
            simple.append(f'"[" {self._repeated(inner, 0, None)} "]"')
            pair = self._unnamed(self._key, {}, inner)
            simple.append(f'"{{" {self._repeated(pair, 0, None)} "}}"')
        return either(simple)

    def _array(self, schema: Schema) -> str:
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        fixed = schema.get("prefixItems") or ()
        rest = schema.get("items", True)
        if not fixed:
            item = self._lark.rule(self.value(rest))
            return f'"[" {self._repeated(item, low, high)} "]"'
        rows = [
            Member("", self._lark.rule(self.value(inner)), place < low)
            for place, inner in enumerate(fixed)
        ]
        extra = None if rest is False or high == len(fixed) else self._lark.rule(self.value(rest))
        return sequence('"["', members(self._lark, rows, self._notation.comma, extra), '"]"')

    def _repeated(self, item: str, low: int, high: int | None) -> str:
        if high == 0:
            return ""
        comma = self._lark.literal(self._notation.comma)
        most = "" if high is None else max(high, low) - 1
        more = f"({comma} {item}){{{max(low - 1, 0)},{most}}}"
        return f"{item} {more}" if low else f"({item} {more})?"

    def _string(self, schema: Schema) -> str:
        if quote := self._notation.quote:
            return sequence(
                self._lark.literal(quote),
                strings.raw(self._lark, schema, quote, self.unenforced),
            )
        if "pattern" in schema or "format" in schema:
            return json_value({**schema, "type": "string"}, lenient=self._lenient)
        low, high = schema.get("minLength", 0), schema.get("maxLength", "")
        return either(
            self._lark.terminal(
                regex(rf"{mark}([^{mark}\\\x00-\x1f]|\\[{mark}\\nrt]){{{low},{high}}}{mark}")
            )
            for mark in ('"', "'")
        )

    def _words(self) -> tuple[str, str]:
        return self._notation.true, self._notation.false

    def _written(self, value: Any) -> str:
        notation = self._notation
        if isinstance(value, bool):
            return notation.true if value else notation.false
        if value is None:
            return notation.null
        if isinstance(value, str):
            quote = notation.quote
            return f"{quote}{value}{quote}" if quote else json.dumps(value, ensure_ascii=False)
        if isinstance(value, list):
            return "[" + notation.comma.join(map(self._written, value)) + "]"
        if isinstance(value, dict):
            pairs = (
                (key if notation.quote else json.dumps(key, ensure_ascii=False))
                + notation.colon
                + self._written(inner)
                for key, inner in value.items()
            )
            return "{" + notation.comma.join(pairs) + "}"
        return json.dumps(value)
