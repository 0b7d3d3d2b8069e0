"""Schemas for tests of structured output: the kinds that people and libraries write, and hostile ones."""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]


def closed(**properties: Schema) -> Schema:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


WORD: Schema = {"type": "string", "maxLength": 12}
INT: Schema = {"type": "integer", "minimum": -99, "maximum": 999}
NULL: Schema = {"type": "null"}

VARIED: dict[str, Schema] = {
    "flat": closed(name=WORD, age=INT),
    "optional": {
        "type": "object",
        "properties": {"a": WORD, "b": INT},
        "required": ["a"],
        "additionalProperties": False,
    },
    "free properties": {"type": "object", "additionalProperties": INT, "maxProperties": 3},
    "enum of strings": closed(kind={"enum": ["alpha", "beta", "beta max", "γάμμα"]}),
    "enum of anything": {"enum": [1, 2.5, "three", None, True, {"four": 4}, [5]]},
    "const": closed(version={"const": "2.0"}, data={"const": {"a": [1, None]}}),
    "pattern": closed(id={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"}),
    "pattern unanchored": closed(id={"type": "string", "pattern": "[0-9]{3}", "maxLength": 20}),
    "pattern unicode": closed(id={"type": "string", "pattern": r"^[а-яё]{3,8}$"}),
    "formats": closed(
        day={"type": "string", "format": "date"},
        at={"type": "string", "format": "date-time"},
        id={"type": "string", "format": "uuid"},
        host={"type": "string", "format": "ipv4"},
    ),
    "integer bounds": closed(n={"type": "integer", "minimum": 18, "maximum": 120}),
    "exclusive bounds": closed(x={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    "multiple of": closed(n={"type": "integer", "multipleOf": 25, "minimum": 0, "maximum": 10000}),
    "string lengths": closed(code={"type": "string", "minLength": 3, "maxLength": 5}),
    "array lengths": {"type": "array", "items": INT, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [WORD, INT], "items": False, "minItems": 2},
    "nested arrays": {
        "type": "array",
        "maxItems": 3,
        "items": {
            "type": "array",
            "maxItems": 3,
            "items": {"type": "array", "maxItems": 2, "items": INT},
        },
    },
    "array of objects": {
        "type": "array",
        "items": closed(x=INT, y=INT),
        "minItems": 1,
        "maxItems": 3,
    },
    "union of types": closed(value={"type": ["integer", "boolean", "null"]}),
    "any of": closed(
        value={"anyOf": [INT, closed(text=WORD), {"type": "array", "maxItems": 2, "items": NULL}]}
    ),
    "nullable": closed(value={"anyOf": [WORD, NULL], "default": None}),
    "discriminated": {
        "oneOf": [
            closed(kind={"const": "circle"}, radius=INT),
            closed(kind={"const": "box"}, width=INT, height=INT),
        ],
        "discriminator": {"propertyName": "kind"},
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": INT}, "required": ["a"]},
            {"type": "object", "properties": {"b": WORD}, "required": ["b"]},
        ],
        "additionalProperties": False,
        "properties": {"a": {}, "b": {}},
    },
    "defs": {
        "$defs": {"point": closed(x=INT, y=INT)},
        **closed(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"}),
    },
    "definitions and siblings": {
        "definitions": {"name": WORD},
        **closed(name={"$ref": "#/definitions/name", "title": "Name"}),
    },
    "recursive list": {
        "$defs": {
            "node": closed(value=INT, next={"anyOf": [NULL, {"$ref": "#/$defs/node"}]}),
        },
        "$ref": "#/$defs/node",
    },
    "recursive tree": closed(
        name=WORD, children={"type": "array", "maxItems": 2, "items": {"$ref": "#"}}
    ),
    "mutual recursion": {
        "$defs": {
            "even": closed(odd={"anyOf": [NULL, {"$ref": "#/$defs/odd"}]}),
            "odd": closed(even={"anyOf": [NULL, {"$ref": "#/$defs/even"}]}),
        },
        "$ref": "#/$defs/even",
    },
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^n_[a-z]{1,3}$": INT},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 3,
    },
    "unicode": closed(**{"größe": INT, "名前": WORD, 'quo"te': {"const": 'a\\b\n\t"é😀'}}),
    "awkward names": closed(**{"": INT, "a b": INT, "$ref_": INT, "type": {"const": "x"}}),
    "annotated": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.com/a.json",
        "title": "A",
        "description": "Of no consequence.",
        "examples": [{}],
        **closed(a={**INT, "default": 3, "description": "A number.", "deprecated": True}),
    },
    "deep": closed(a=closed(b=closed(c=closed(d=closed(e=closed(f=closed(g=INT))))))),
    "scalar": {"type": "number", "minimum": 0, "maximum": 10},
    "boolean": {"type": "boolean"},
    "records": closed(
        records={
            "type": "array",
            "minItems": 3,
            "maxItems": 3,
            "items": closed(
                id={"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
                status={"enum": ["pending", "shipped", "delivered"]},
                count={"type": "integer", "minimum": 1, "maximum": 500},
            ),
        }
    ),
}


def _nested(levels: int) -> str:
    return '{"type":"array","items":' * levels + "{}" + "}" * levels


def _chain(length: int) -> Schema:
    definitions: Schema = {
        f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(length)
    }
    return {"$ref": "#/$defs/d0", "$defs": definitions | {f"d{length}": INT}}


def _pattern(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def _text(schema: Schema) -> str:
    return json.dumps(schema)


REFUSED: dict[str, tuple[str, str]] = {
    "not": (_text({"not": {}}), "'not'"),
    "if": (_text({"if": {}, "then": {}}), "'if', 'then'"),
    "uniqueItems": (_text({"type": "array", "uniqueItems": True}), "'uniqueItems'"),
    "contains": (_text(closed(a={"type": "array", "contains": {}})), "'contains'"),
    "propertyNames": (_text({"type": "object", "propertyNames": WORD}), "'propertyNames'"),
    "format": (_text(closed(a={"type": "string", "format": "binary"})), "'binary'"),
    "oneOf": (_text({"oneOf": [{"type": "string"}, WORD]}), "'oneOf'"),
    "no JSON": ("{", "no JSON"),
    "no object": ("[]", "must be an object"),
    "wrong type": (_text({"type": "text"}), "text"),
    "properties is a list": (
        _text({"type": "object", "properties": []}),
        "properties must be an object",
    ),
    "nothing fits": (_text({"type": "integer", "minimum": 5, "maximum": 1}), "Unsatisfiable"),
    "look-ahead": (_text(_pattern("(?=a)b")), "look-around"),
    "back-reference": (_text(_pattern(r"(a)\1")), "backreferences"),
    "unclosed group": (_text(_pattern("(a")), "unclosed group"),
    "missing reference": (_text({"$ref": "#/$defs/none"}), "does not exist"),
    "remote reference": (_text({"$ref": "https://example.com/a.json"}), "does not fetch"),
    "file reference": (_text({"$ref": "file:///etc/passwd"}), "does not fetch"),
    "circular allOf": (
        _text({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, INT]}}, "$ref": "#/$defs/a"}),
        "circular",
    ),
    "200 levels": (_nested(200), "too deeply"),
    "9,000 levels": (_nested(9_000), "too deeply"),
    "100,000 levels": (_nested(100_000), "characters"),
    "chain of 4,100 references": (_text(_chain(4100)), "too many references"),
    "1,000,000 enum values": (_text({"enum": list(range(1_000_000))}), "characters"),
    "a megabyte of pattern": (_text(_pattern("a" * 1_000_000)), "characters"),
    "100,000 letters of pattern": (_text(_pattern("a" * 100_000)), "text that is too long"),
    "a long constant": (_text({"const": "x" * 100_000}), "text that is too long"),
    "5,000 groups": (_text(_pattern("(" * 5000 + "a" + ")" * 5000)), "nested parentheses"),
    "exponential allOf": (
        _text(
            {
                "allOf": [
                    {"anyOf": [closed(**{f"k{i}{j}": INT}) for j in range(9)]} for i in range(9)
                ]
            }
        ),
        "too large",
    ),
    "4,000 properties": (
        _text({"properties": {f"p{i}": {} for i in range(4000)}}),
        "too many properties",
    ),
    "costly multipleOf": (_text({"type": "integer", "multipleOf": 999_983}), "too many digits"),
    "infinite multipleOf": ('{"type":"number","multipleOf":1e999}', "too many digits"),
    "hidden lenience": (_text({"not": {}, "x-guidance": {"lenient": True}}), "'not'"),
}
"""Schemas that cannot be used, and what the error has to say."""

HOSTILE: dict[str, Schema] = {
    "nested repeats": _pattern("((a{1,1000}){1,1000}){1,1000}"),
    "nested stars": _pattern("^(a+)+$"),
    "exponential automaton": _pattern("(.|b)*a.{30}"),
    "2,000 alternatives": _pattern("|".join(f"ab{i}c" for i in range(2_000))),
    "20,000 letters": _pattern("a" * 20_000),
    "letters of all languages": _pattern("^([^a]\\w\\W\\S){1,500}$"),
    "meeting patterns": {
        "allOf": [_pattern(".*a.{10}"), _pattern(".*b.{11}"), _pattern(".*c.{12}")]
    },
    "long repeat": _pattern("a{1,1000000000}"),
    "long string": {"type": "string", "minLength": 10**9},
    "a billion items": {"type": "array", "items": INT, "minItems": 10**9},
    "a billion nested items": {
        "type": "array",
        "minItems": 1000,
        "items": {"type": "array", "minItems": 1000, "items": {"type": "array", "minItems": 1000}},
    },
    "10,000 enum values": {"enum": [f"value number {i}" for i in range(10_000)]},
    "a long constant": {"const": "x" * 20_000},
    "ten long constants": {
        "type": "array",
        "prefixItems": [{"const": str(i) * 20_000} for i in range(10)],
        "minItems": 10,
    },
    "1,000 properties": closed(**{f"p{i}": INT for i in range(1000)}),
    "a million properties": {"type": "object", "minProperties": 10**6},
    "exponential references": {
        "$defs": {
            **{
                f"d{i}": closed(a={"$ref": f"#/$defs/d{i + 1}"}, b={"$ref": f"#/$defs/d{i + 1}"})
                for i in range(60)
            },
            "d60": INT,
        },
        "$ref": "#/$defs/d0",
    },
    "chain of 2,500 references": _chain(2500),
    "90 levels": json.loads(_nested(90)),
    "a multipleOf with many states": {"type": "integer", "multipleOf": 9973},
    "extreme bounds": {"type": "integer", "maximum": 10**30},
    "zero bytes": {"enum": ["a\0b"]},
}
"""Schemas that can be used, but were made to hurt."""
