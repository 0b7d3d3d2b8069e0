"""JSON schemas in the plain words that templates know: one type each, no references, no alternatives.

Most templates print a tool's schema as JSON, and models read all of it. Others walk through it and
print types of their own: they know `type` as a single word, and neither `$ref` nor `anyOf`. For
those a schema is put into plainer words here. It binds nobody: what the model writes is read, and
forced, by the schema as it was given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from lmnb.chat.json_pointer import referred

Schema = dict[str, Any]
Schemas = Literal["rich", "plain", "closed"]
"""`rich`: as given. `plain`: in plain words. `closed`: and all objects say what else is in them."""

_MOST = 2000
"""Schemas within a schema, references resolved; what is beyond becomes an object of any kind."""
_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
_REWRITTEN = {"type", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "const"}
_REWRITTEN |= {"properties", "items", "description", "enum", "additionalProperties", "nullable"}


def plain_parameters(parameters: Mapping[str, Any], *, closed: bool = False) -> Schema:
    """A tool's parameters in plain words."""
    plain = _Plain(parameters, closed=closed).schema(parameters, ())
    plain = {"type": "object", "properties": {}} | plain
    for added in ("description", "additionalProperties"):
        if added not in parameters:
            plain.pop(added, None)
    return plain


class _Plain:
    def __init__(self, root: Mapping[str, Any], *, closed: bool) -> None:
        self._root = root
        self._closed = closed
        self._left = _MOST

    def schema(self, given: Any, inside: tuple[str, ...]) -> Schema:
        """`inside` are the references on the way here: one that leads back into itself ends."""
        self._left -= 1
        if not isinstance(given, Mapping) or self._left < 0:
            return {"type": "object", "description": ""}
        given, inside = self._followed(given, inside)
        chosen, inside = self._followed(self._one_of_several(given, inside), inside)
        return self._node(chosen, inside)

    def _followed(
        self, given: Mapping[str, Any], inside: tuple[str, ...]
    ) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """What `$ref` leads to, with what stands beside it; through several of them, if need be."""
        while isinstance(reference := given.get("$ref"), str):
            target = None if reference in inside else referred(reference, self._root)
            target = target if isinstance(target, Mapping) else {"type": "object"}
            rest = {key: value for key, value in given.items() if key != "$ref"}
            given = {**target, **rest}
            inside = (*inside, reference)
        return given, inside

    def _node(self, given: Mapping[str, Any], inside: tuple[str, ...]) -> Schema:
        kinds = [kind for kind in _kinds(given) if kind != "null"]
        kind = kinds[0] if kinds else "string"
        plain: Schema = {"type": kind}
        note = f"Or {', '.join(kinds[1:])}." if len(kinds) > 1 else ""
        plain["description"] = _sentences(given.get("description"), note)
        if values := _values(given):
            plain["enum"] = values
        if given.get("nullable") is True or "null" in _kinds(given):
            plain["nullable"] = True
        if kind == "array":
            plain["items"] = self.schema(given.get("items", {"type": "string"}), inside)
        if kind == "object":
            properties = given.get("properties")
            if isinstance(properties, Mapping):
                plain["properties"] = {
                    str(key): self.schema(value, inside) for key, value in properties.items()
                }
            more = given.get("additionalProperties")
            if isinstance(more, Mapping):
                plain["additionalProperties"] = self.schema(more, inside)
            elif self._closed:
                plain["additionalProperties"] = {"type": "string", "description": ""}
        return plain | {key: value for key, value in given.items() if key not in _REWRITTEN}

    def _one_of_several(
        self, given: Mapping[str, Any], inside: tuple[str, ...]
    ) -> Mapping[str, Any]:
        """All of `allOf` put together; the first of alternatives, the others as words."""
        for part in _schemas(given.get("allOf")):
            given = _both(given, self._followed(part, inside)[0])
        options = [*_schemas(given.get("anyOf")), *_schemas(given.get("oneOf"))]
        if not options:
            return given
        real = [option for option in options if option.get("type") != "null"]
        note = ""
        if len(real) > 1:
            note = "Or " + " or ".join(_short(option) for option in real[1:]) + "."
        chosen = _both(given, real[0] if real else {})
        return {
            **chosen,
            "description": _sentences(chosen.get("description"), note),
            "nullable": len(real) < len(options) or given.get("nullable"),
        }


def _kinds(given: Mapping[str, Any]) -> list[str]:
    kind = given.get("type")
    if isinstance(kind, str):
        return [kind]
    if isinstance(kind, list):
        return [each for each in kind if isinstance(each, str)]
    if "properties" in given:
        return ["object"]
    if "items" in given:
        return ["array"]
    return list(dict.fromkeys(_KINDS.get(type(value), "object") for value in _values(given)))


def _values(given: Mapping[str, Any]) -> list[Any]:
    values = given.get("enum", [given["const"]] if "const" in given else [])
    return [value for value in values if value is not None] if isinstance(values, list) else []


def _schemas(given: Any) -> Iterable[Mapping[str, Any]]:
    return [part for part in given if isinstance(part, Mapping)] if isinstance(given, list) else []


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two schemas that both hold, as far as words go; what `one` says of the same counts."""
    left = {key: value for key, value in one.items() if key not in {"anyOf", "oneOf", "allOf"}}
    both = {**other, **left}
    for key in ("properties", "required"):
        first, second = other.get(key), left.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            both[key] = {**first, **second}
        elif isinstance(first, list) and isinstance(second, list):
            both[key] = [*first, *(each for each in second if each not in first)]
    return both


def _short(option: Mapping[str, Any]) -> str:
    kind = option.get("type")
    return kind if isinstance(kind, str) and kind != "object" else json.dumps(option)


def _sentences(description: Any, note: str) -> str:
    words = description if isinstance(description, str) else ""
    return " ".join(part for part in (words, note) if part)
