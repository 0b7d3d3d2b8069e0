"""The types that a tool's schema asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmnb.chat.conversation import Tool
from lmnb.chat.json_pointer import referred

_NAMES = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def parameter_types(tool: Tool, key: str) -> frozenset[str] | None:
    """Types of JSON schema that an argument may have; None: the schema does not say.

    Alternatives (`anyOf`, `oneOf`, `nullable`, lists of types) are taken together, references
    (`$ref`) are followed inside the schema. A value that is `integer` or `number` has both names.
    """
    parameters = tool.parameters or {}
    properties = parameters.get("properties")
    schema = properties.get(key) if isinstance(properties, dict) else None
    if schema is None:
        schema = parameters.get("additionalProperties")
    types = set(_types(schema, parameters))
    if "number" in types:
        types.add("integer")
    return frozenset(types) or None


def _types(schema: Any, root: dict[str, Any]) -> Iterator[str]:
    """Of the schema and all its alternatives, each of them once, however they refer to each other."""
    pending, seen = [schema], set[int]()
    while pending:
        node = pending.pop()
        if not isinstance(node, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        yield from _own(node)
        if isinstance(reference := node.get("$ref"), str):
            pending.append(referred(reference, root))
        for word in ("anyOf", "oneOf", "allOf"):
            pending += _list(node.get(word))


def _own(node: dict[str, Any]) -> Iterator[str]:
    """The types that a schema itself names, or means."""
    named = node.get("type")
    if named is not None:
        yield from (name for name in _list(named) or [named] if isinstance(name, str))
    elif "enum" in node or "const" in node:
        values = _list(node["enum"]) if "enum" in node else [node["const"]]
        yield from (_NAMES[type(value)] for value in values if type(value) in _NAMES)
    elif "properties" in node:
        yield "object"
    elif "items" in node:
        yield "array"
    if node.get("nullable") is True:
        yield "null"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
