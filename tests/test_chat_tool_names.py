"""Tools under names, and with schemas, that any template and model can take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmnb.chat.conversation import Tool
from lmnb.chat.rendering.schemas import plain_parameters
from lmnb.chat.tool_names import MOST_CHARACTERS, MOST_NESTED, adapt, whole_schema
from lmnb.errors import InvalidRequest

NAMES = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=8)
KEYWORDS = [
    "type",
    "properties",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "$defs",
    "items",
    "enum",
    "const",
    "required",
    "description",
    "additionalProperties",
    "a",
    "b",
]
SCHEMAS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(KEYWORDS),
            st.one_of(inner, st.sampled_from(["#", "#/$defs/a", "object", "null", "array"])),
            max_size=5,
        ),
    ),
    max_leaves=15,
)


@given(NAMES)
def test_names_are_plain_different_and_mapped_back(names: list[str]) -> None:
    adapted = adapt([Tool(name) for name in names])
    written = [tool.name for tool in adapted.tools]
    assert len(set(written)) == len(names)
    for name, new in zip(names, written, strict=True):
        assert new.isascii()
        assert new.replace("_", "a").replace("-", "a").isalnum()
        assert adapted.original(new) == name
        assert adapted.name(name) == new


def test_names_that_are_too_long_are_refused() -> None:
    adapt([Tool("n" * MOST_CHARACTERS)])
    with pytest.raises(InvalidRequest, match="has 257 characters; at most 256") as caught:
        adapt([Tool("a"), Tool("n" * (MOST_CHARACTERS + 1))])
    assert caught.value.param == "tools[1]"


def test_good_names_stay() -> None:
    adapted = adapt(
        [Tool("a.b"), Tool("a_b"), Tool("mcp__files-x__read"), Tool("天気"), Tool("地")]
    )
    assert [tool.name for tool in adapted.tools] == [
        "a_b_2",
        "a_b",
        "mcp__files-x__read",
        "tool",
        "tool_2",
    ]


def test_names_that_nobody_gave() -> None:
    adapted = adapt([Tool("ping")])
    assert adapted.original("invented") == "invented"
    assert adapted.name("earlier.tool") == "earlier_tool"


@pytest.mark.parametrize("parameters", [None, {}, {"properties": None}, {"properties": [1]}])
def test_parameters_that_are_missing(parameters: dict[str, Any] | None) -> None:
    assert whole_schema(parameters) == {"type": "object", "properties": {}}


def test_incomplete_schemas_are_made_whole() -> None:
    odd = {
        "title": "T",
        "type": ["object", "null"],
        "properties": {"any": True, "text": {"type": "string"}},
        "required": ["text", 1, "elsewhere"],
        "$defs": {"D": {}},
    }
    assert whole_schema(odd) == {
        "type": "object",
        "properties": {"any": {}, "text": {"type": "string"}},
        "required": ["text", "elsewhere"],
        "title": "T",
        "$defs": {"D": {}},
    }
    assert "required" not in whole_schema({"required": "text"})


def test_tools_that_cannot_be_told_apart() -> None:
    assert len(adapt([Tool("same"), Tool("same")]).tools) == 1
    with pytest.raises(InvalidRequest, match="Two different tools are named 'same'"):
        adapt([Tool("same"), Tool("same", "but another")])
    with pytest.raises(InvalidRequest, match="no name"):
        adapt([Tool("")])


def test_schemas_that_are_too_deep() -> None:
    schema: dict[str, Any] = {}
    for _ in range(MOST_NESTED * 50):
        schema = {"properties": {"x": schema}}
    with pytest.raises(InvalidRequest, match="levels deep"):
        adapt([Tool("deep", "", schema)])


# --- plain words ------------------------------------------------------------------


def plain(schema: dict[str, Any], **defs: Any) -> Any:
    return plain_parameters({"properties": {"x": schema}, "$defs": defs})["properties"]["x"]


def test_types_are_one_word() -> None:
    assert plain({"type": ["string", "null"]}) == {
        "type": "string",
        "description": "",
        "nullable": True,
    }
    assert plain({"type": ["string", "integer"], "description": "Size."}) == {
        "type": "string",
        "description": "Size. Or integer.",
    }
    assert plain({})["type"] == "string"
    assert plain({"enum": [1, 2]}) == {"type": "integer", "description": "", "enum": [1, 2]}
    assert plain({"const": "x"}) == {"type": "string", "description": "", "enum": ["x"]}


def test_alternatives_become_words() -> None:
    found = plain({"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]})
    assert found == {"type": "integer", "description": "Or string.", "nullable": True}
    both = {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}}]}
    assert set(plain(both)["properties"]) == {"a", "b"}


def test_references_are_followed() -> None:
    shape = {"type": "object", "properties": {"round": {"type": "boolean"}}}
    assert plain({"$ref": "#/$defs/Shape", "description": "It."}, Shape=shape) == {
        "type": "object",
        "description": "It.",
        "properties": {"round": {"type": "boolean", "description": ""}},
    }
    assert plain({"$ref": "#/$defs/Gone"})["type"] == "object"
    assert plain({"$ref": "https://example.org/schema"})["type"] == "object"


def test_recursion_ends() -> None:
    tree = {"properties": {"left": {"$ref": "#/$defs/Tree"}, "more": {"anyOf": [{"$ref": "#"}]}}}
    found = plain({"$ref": "#/$defs/Tree"}, Tree=tree)
    assert found["properties"]["left"] == {"type": "object", "description": ""}


def test_references_that_multiply() -> None:
    """Each of thirty names the next one twice: written out, that is a thousand million schemas."""
    defs: dict[str, Any] = {
        f"d{i}": {"properties": {side: {"$ref": f"#/$defs/d{i + 1}"} for side in ("a", "b")}}
        for i in range(30)
    }
    found = plain({"$ref": "#/$defs/d0"}, **defs)
    assert len(str(found)) < 1_000_000


@given(st.dictionaries(st.text(max_size=3), SCHEMAS, max_size=4))
def test_whatever_is_given_becomes_plain(properties: dict[str, Any]) -> None:
    parameters = whole_schema({"properties": properties, "$defs": properties})
    check(plain_parameters(parameters, closed=True), top=True)


def check(schema: Any, *, top: bool = False) -> None:
    assert isinstance(schema, dict)
    assert isinstance(schema["type"], str)
    assert top or isinstance(schema["description"], str)
    assert "$ref" not in schema
    for value in schema.get("properties", {}).values():
        check(value)
    if "items" in schema:
        check(schema["items"])
