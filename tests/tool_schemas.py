"""Random schemas of tools: all that people write in them, by a seed."""

from __future__ import annotations

import random
from typing import Any

from lmnb.chat.conversation import Tool

Schema = dict[str, Any]

_NOUNS = [
    "city",
    "country",
    "order",
    "user",
    "file",
    "invoice",
    "flight",
    "hotel",
    "ticket",
    "product",
    "account",
    "message",
    "event",
    "task",
    "report",
    "sensor",
    "recipe",
    "song",
    "book",
    "route",
]
_VERBS = ["get", "find", "create", "update", "cancel", "book", "send", "list", "check", "convert"]
_STRINGS = [
    "name",
    "title",
    "query",
    "reason",
    "note",
    "address",
    "subject",
    "code",
    "path",
    "label",
]
_NUMBERS = [
    "count",
    "limit",
    "page",
    "year",
    "quantity",
    "priority",
    "age",
    "radius",
    "price",
    "weight",
]
_FLAGS = ["active", "verbose", "urgent", "recursive", "public"]
_LISTS = ["tags", "items", "ids", "steps", "recipients"]
_OBJECTS = ["options", "filter", "location", "owner", "range"]
_CHOICES = (
    ["low", "medium", "high"],
    ["asc", "desc"],
    ["celsius", "fahrenheit"],
    ["open", "closed", "in progress"],
    ["EUR", "USD", "JPY"],
)


class ToolMaker:
    """Makes tools, always the same ones for a seed."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._defs: dict[str, Schema] = {}

    def tool(self) -> Tool:
        """One tool with one to five parameters."""
        self._defs = {}
        name = f"{self._dice.choice(_VERBS)}_{self._dice.choice(_NOUNS)}"
        schema = self._object(depth=0, most=5)
        if self._dice.random() < 0.15:
            schema["properties"]["tree"] = self._recursive()
        if self._defs:
            schema["$defs"] = self._defs
        return Tool(name, f"{name.replace('_', ' ').capitalize()}.", schema)

    def _object(self, depth: int, most: int) -> Schema:
        names = self._dice.sample(
            [*_STRINGS, *_NUMBERS, *_FLAGS, *_LISTS, *_OBJECTS], self._dice.randint(1, most)
        )
        properties = {name: self._property(name, depth) for name in names}
        required = [name for name in names if self._dice.random() < 0.6]
        schema: Schema = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        if self._dice.random() < 0.3:
            schema["additionalProperties"] = False
        return schema

    def _property(self, name: str, depth: int) -> Schema:
        if name in _NUMBERS:
            found = self._number()
        elif name in _FLAGS:
            found = {"type": "boolean"}
        elif name in _LISTS:
            found = self._array(depth)
        elif name in _OBJECTS and depth < 2:
            found = self._object(depth + 1, 3)
            if self._dice.random() < 0.3:
                self._defs[name] = found
                found = {"$ref": f"#/$defs/{name}"}
        else:
            found = self._string()
        if self._dice.random() < 0.5 and "$ref" not in found:
            found["description"] = f"The {name}."
        return found

    def _string(self) -> Schema:
        kind = self._dice.random()
        if kind < 0.25:
            return {"type": "string", "enum": self._dice.choice(_CHOICES)}
        if kind < 0.35:
            return {"type": "string", "format": self._dice.choice(["date", "date-time", "uuid"])}
        if kind < 0.45:
            return {"type": "string", "pattern": "^[A-Z]{2,3}-[0-9]{2,4}$"}
        if kind < 0.55:
            return {"type": "string", "minLength": 2, "maxLength": self._dice.randint(5, 40)}
        if kind < 0.65:
            return {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
        return {"type": "string"}

    def _number(self) -> Schema:
        schema: Schema = {"type": self._dice.choice(["integer", "integer", "number"])}
        if self._dice.random() < 0.7:
            schema["minimum"] = self._dice.randint(0, 10)
        if self._dice.random() < 0.6:
            schema["maximum"] = self._dice.randint(20, 1000)
        return schema

    def _array(self, depth: int) -> Schema:
        if depth < 2 and self._dice.random() < 0.25:
            items = self._object(depth + 1, 2)
        else:
            items = self._string() if self._dice.random() < 0.6 else self._number()
        schema: Schema = {"type": "array", "items": items}
        if self._dice.random() < 0.4:
            schema["minItems"] = 1
        if self._dice.random() < 0.4:
            schema["maxItems"] = self._dice.randint(2, 5)
        return schema

    def _recursive(self) -> Schema:
        self._defs["node"] = {
            "type": "object",
            "properties": {
                "label": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["label"],
        }
        return {"$ref": "#/$defs/node"}
