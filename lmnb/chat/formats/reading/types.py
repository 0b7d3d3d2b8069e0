"""The types that a tool's schema asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmnb.chat.conversation import Tool

_DEPTH = 16
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
    types = set(_types(schema, parameters, _DEPTH))
    if "number" in types:
        types.add("integer")
    return frozenset(types) or None


def _types(schema: Any, root: dict[str, Any], depth: int) -> Iterator[str]:
    if not isinstance(schema, dict) or depth == 0:
        return
    named = schema.get("type")
    if named is not None:
        yield from (name for name in (named if isinstance(named, list) else [named]))
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        yield from (_NAMES[type(value)] for value in values if type(value) in _NAMES)
    elif "properties" in schema:
        yield "object"
    elif "items" in schema:
        yield "array"
    if schema.get("nullable") is True:
        yield "null"
    reference = schema.get("$ref")
    if isinstance(reference, str):
        yield from _types(_referred(reference, root), root, depth - 1)
    for word in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(word) or ():
            yield from _types(part, root, depth - 1)


def _referred(reference: str, root: dict[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = (
            found.get(step.replace("~1", "/").replace("~0", "~"))
            if isinstance(found, dict)
            else None
        )
    return found
