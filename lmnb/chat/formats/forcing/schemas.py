"""Schemas of tools as grammars take them: without what binds nothing, and closed where they are silent.

A tool whose schema cannot be enforced is no reason to refuse a request that does not insist on it
(agents bring dozens of tools): what cannot be is left out, and a warning says so. A strict tool's
is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from llguidance import LLTokenizer

from lmnb.chat.conversation import Tool
from lmnb.engine import grammar_source
from lmnb.engine.options import ConstraintSpec
from lmnb.errors import InvalidRequest, LmnbError

Schema = dict[str, Any]

_INSIDE = ("items", "additionalProperties", "additionalItems", "not", "if", "then", "else")
_INSIDE_RARE = ("contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SILENT = frozenset(
    [
        "title",
        "description",
        "default",
        "example",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
        "$schema",
        "$id",
        "discriminator",
        "contentEncoding",
        "contentMediaType",
    ]
)
"""Keywords that bind nothing."""
_COMBINING = frozenset({"allOf", "not", "if", "dependentSchemas"})
_ALTERNATIVES = frozenset({"anyOf", "oneOf", "$ref"})
_NAMING = frozenset({"properties", "required"})
FREE: Schema = {"type": "object", "additionalProperties": True}
"""Any arguments."""


class Usable(NamedTuple):
    """A schema that can be enforced, and what of the tool's own is not."""

    schema: Schema
    warnings: tuple[str, ...]


def warnings(tools: tuple[Tool, ...]) -> tuple[str, ...]:
    """What the calls of these tools may break, in words for the caller.

    Raises
    ------
    NotSupported
        A strict tool's schema has a keyword that cannot be enforced.
    InvalidRequest
        A strict tool's schema is wrong, or too costly.
    """
    return tuple(warning for tool in tools for warning in usable(tool).warnings)


def usable(tool: Tool) -> Usable:
    """The tool's schema for a grammar. Raises as `warnings`."""
    try:
        text = json.dumps(tool.parameters or {"type": "object", "properties": {}})
    except RecursionError:
        text = "[" * (grammar_source.MAX_DEPTH + 2) + "]" * (grammar_source.MAX_DEPTH + 2)
    return _usable(tool.name, text, tool.strict)


@lru_cache(512)
def _usable(name: str, text: str, strict: bool) -> Usable:
    try:
        return _checked(name, text, strict=strict)
    except LmnbError as error:
        reason = error.message.rstrip(".")
        if not strict:
            return Usable(
                FREE, (f"The arguments of the tool {name!r} are not enforced: {reason}.",)
            )
        raise type(error)(
            f"The parameters of the tool {name!r} cannot be enforced: {reason}.",
            hint=error.hint,
            param="tools",
        ) from error


def _checked(name: str, text: str, *, strict: bool) -> Usable:
    schema = grammar_source.read(text)
    if schema.get("type", "object") != "object":
        raise InvalidRequest("They must be an object.")
    schema = closed(bare(schema)) | {"type": "object"}
    if not schema.keys() - {"type", "properties"} and not schema.get("properties"):
        schema["additionalProperties"] = False  # how a tool without parameters is written
    spec = ConstraintSpec(kind="json_schema", text=json.dumps(schema), lenient=not strict)
    found = grammar_source.check(spec)
    try_out(spec)
    return Usable(schema, tuple(f"Tool {name!r}: {warning}" for warning in found))


def bare(schema: Any) -> Any:
    """The schema without the keywords that bind nothing; they would only lengthen the grammar."""

    def without(node: Schema) -> Schema:
        return {
            key: value
            for key, value in node.items()
            if key not in _SILENT and not key.startswith("x-")
        }

    return mapped(schema, without)


def closed(schema: Schema) -> Schema:
    """Objects that name their properties get no others, where the schema leaves it open.

    Whatever fits the result fits the schema. A model would have to invent further properties, and
    weak ones do not stop. Where schemas are combined nothing is closed: one part's properties may
    be the other's additional ones.
    """
    if any(_combines(node) for node in nodes(schema)):
        return schema

    def close(node: Schema) -> Schema:
        silent = "additionalProperties" not in node and "patternProperties" not in node
        return node | {"additionalProperties": False} if node.get("properties") and silent else node

    result: Schema = mapped(schema, close)
    return result


def _combines(node: Schema) -> bool:
    keys = node.keys()
    return bool(keys & _COMBINING) or bool(keys & _NAMING and keys & _ALTERNATIVES)


def nodes(schema: Any) -> Iterator[Schema]:
    """The schema and all schemas in it."""
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending += (child for _, child in _children(node))


def _children(node: Schema) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Schemas directly inside, each with the way to it."""
    for key in (*_INSIDE, *_INSIDE_RARE):
        if isinstance(node.get(key), dict):
            yield (key,), node[key]
    for key in (*_LISTS, "items"):
        if isinstance(node.get(key), list):
            yield from (((key, str(place)), child) for place, child in enumerate(node[key]))
    for key in _MAPS:
        if isinstance(node.get(key), dict):
            yield from (((key, name), child) for name, child in node[key].items())


def mapped(node: Any, change: Callable[[Schema], Schema]) -> Any:
    """A copy in which every schema has been changed, from outside to inside."""
    if not isinstance(node, dict):
        return node
    copy = dict(change(node))
    for way, child in list(_children(copy)):
        key, *inner = way
        if not inner:
            copy[key] = mapped(child, change)
            continue
        if copy[key] is node.get(key):  # not yet a copy
            copy[key] = list(copy[key]) if isinstance(copy[key], list) else dict(copy[key])
        place = int(inner[0]) if isinstance(copy[key], list) else inner[0]
        copy[key][place] = mapped(child, change)
    return copy


def try_out(spec: ConstraintSpec) -> None:
    """Raise what `grammar_source.compiled` raises where no text fits, for any model."""
    grammar_source.compiled(spec, _bytes())


@lru_cache(1)
def _bytes() -> LLTokenizer:
    """A vocabulary of all bytes: whether any text fits a grammar does not depend on the model."""
    return LLTokenizer("byte")
