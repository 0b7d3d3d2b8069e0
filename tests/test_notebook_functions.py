"""Functions as tools, and types as schemas, without a model."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional, TypedDict

import jsonschema
import pydantic
import pytest

from lmnb.notebook import schemas, tools
from lmnb.notebook.failures import UsageMistake
from lmnb.notebook.tools import ToolRun
from lmnb.notebook.turns import Call


class Unit(enum.Enum):
    CELSIUS = "c"
    FAHRENHEIT = "f"


@dataclass
class Place:
    city: str
    country: str = "DE"


class Person(pydantic.BaseModel):
    name: str
    age: Annotated[int, pydantic.Field(ge=0)]


class Options(TypedDict, total=False):
    verbose: bool


def google(
    place: Place,
    days: list[int],
    unit: Unit = Unit.CELSIUS,
    how: Literal["short", "long"] = "short",
    person: Optional[Person] = None,  # noqa: UP045 - as people write it
) -> Any:
    """Tells the weather.

    Of any place.

    Args:
        place: Where.
        how (str): In how many
            words.
    """
    return [type(place).__name__, days, unit, how, person]


def numpy(city: str, days: int = 1) -> None:
    """Tell the weather.

    Parameters
    ----------
    city : str
        Where.
    days
        For how long.
    """


async def later(city: str) -> str:
    return city


def call(name: str, **arguments: Any) -> Call:
    return {"id": "1", "name": name, "arguments": json.dumps(arguments)}


def run(name: str, **arguments: Any) -> ToolRun:
    return tools.find([name], globals()).run(call(name, **arguments))


def test_a_schema_is_made_of_hints_and_docstring() -> None:
    tool = tools.find(["google"], globals()).tools["google"]
    assert tool.description == "Tells the weather.\n\nOf any place."
    properties = tool.schema["properties"]
    assert properties["place"]["description"] == "Where."
    assert " ".join(properties["how"]["description"].split()) == "In how many words."
    assert properties["how"]["enum"] == ["short", "long"]
    assert tool.schema["required"] == ["place", "days"]
    good: dict[str, Any] = {"place": {"city": "Ulm"}, "days": [1], "unit": "f", "person": None}
    jsonschema.validate(good, tool.schema)
    worse: list[dict[str, Any]] = [{"unit": "k"}, {"how": "none"}, {"place": {}}, {"days": ["x"]}]
    for bad in (*worse, {"person": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | bad, tool.schema)


def test_parameters_are_described_in_numpys_style_too() -> None:
    properties = tools.find(["numpy"], globals()).tools["numpy"].schema["properties"]
    assert [properties[name]["description"] for name in ("city", "days")] == [
        "Where.",
        "For how long.",
    ]


def test_arguments_come_as_the_types_of_the_hints() -> None:
    done = run("google", place={"city": "Ulm"}, days=[1], unit="f", person={"name": "A", "age": 3})
    assert done.result == ["Place", [1], Unit.FAHRENHEIT, "short", Person(name="A", age=3)]
    assert json.loads(done.text) == ["Place", [1], "f", "short", {"name": "A", "age": 3}]
    assert run("later", city="Ulm").text == "Ulm"
    assert run("numpy", city="Ulm").text == "null"


def test_what_goes_wrong_is_told_to_the_model() -> None:
    done = run("google", place={}, days=[1])
    assert done.error is not None
    assert done.error.startswith("The arguments do not fit. place.city: ")
    assert done.text == f"Error: {done.error}"
    box = tools.find(["numpy"], globals())
    assert box.run(call("nimpy")).text == "Error: There is no tool 'nimpy'. There are: numpy."
    broken: Call = {"id": "1", "name": "numpy", "arguments": '{"city"'}
    assert box.run(broken).text == "Error: The arguments are no JSON object."

    def fails() -> None:
        raise SystemExit(3)

    def silent() -> None:
        raise ValueError

    box = tools.find(["fails", "silent"], {"fails": fails, "silent": silent})
    assert box.run(call("fails")).text == "Error: SystemExit: 3"
    assert box.run(call("silent")).text == "Error: ValueError"


def test_attributes_and_lists_of_functions() -> None:
    class Shop:
        def price(self, thing: str) -> int:
            return len(thing)

    box = tools.find(["shop.price", "both"], {"shop": Shop(), "both": [numpy, later]})
    assert list(box.tools) == ["price", "numpy", "later"]
    assert list(box.tools["price"].schema["properties"]) == ["thing"]
    assert box.run(call("price", thing="tea")).text == "3"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["gogle"], "Did you mean google?"),
        (["nothing_like_it"], "Run the cell that defines it"),
        (["google.x"], "there is no 'x' in it"),
        (["number"], "of the type int, not a function"),
        (["Person"], "not a function"),
        (["strange"], "no schema can be made of its signature"),
    ],
)
def test_what_is_no_tool(names: list[str], words: str) -> None:
    class Strange: ...

    def strange(thing: Strange) -> None:
        """Take something that pydantic does not know."""

    strange.__annotations__["thing"] = Strange
    variables = {**globals(), "number": 3, "strange": strange}
    with pytest.raises(UsageMistake) as raised:
        tools.find(names, variables)
    assert words in str(raised.value)


class Settings(TypedDict):
    level: int


@pytest.mark.parametrize(
    ("value", "text", "parsed"),
    [
        (Person, '{"name": "A", "age": 3}', Person(name="A", age=3)),
        (Place, '{"city": "Ulm"}', Place("Ulm")),
        (Settings, '{"level": 3}', {"level": 3}),
        (Options, "{}", {}),
        (list[Person], '[{"name": "A", "age": 3}]', [Person(name="A", age=3)]),
        ({"type": "object"}, '{"x": [1]}', {"x": [1]}),
    ],
)
def test_values_are_read_by_their_schema(value: Any, text: str, parsed: object) -> None:
    schema = schemas.find("form", {"form": value})
    assert schema.parse(text, "stop", complete=True) == parsed
    jsonschema.validate(json.loads(text), schema.json)


@pytest.mark.parametrize(
    ("written", "text", "parsed"),
    [
        ("int", "3", 3),
        ("list[str]", '["a"]', ["a"]),
        ("dict[str, Person]", '{"a": {"name": "A", "age": 3}}', {"a": Person(name="A", age=3)}),
        ("int | None", "null", None),
        ("forms['one']", '{"name": "A", "age": 3}', Person(name="A", age=3)),
    ],
)
def test_a_type_can_be_written_out(written: str, text: str, parsed: object) -> None:
    schema = schemas.find(written, {"Person": Person, "forms": {"one": Person}})
    assert schema.parse(text, "stop", complete=True) == parsed


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("list[Nobody]", "'Nobody' is not defined"),
        ("list[", "no type"),
        ("google", "--tools google lets the model call it"),
        ("len", "there is no variable 'len'"),
    ],
)
def test_what_is_no_type(written: str, words: str) -> None:
    with pytest.raises(UsageMistake, match=words):
        schemas.find(written, {"google": google})


def test_objects_have_no_other_properties_unless_the_user_says_so() -> None:
    assert schemas.find("x", {"x": Person}).json["additionalProperties"] is False
    raw = {"type": "object", "properties": {"a": {}}}
    assert schemas.find("x", {"x": raw}).json == raw


@pytest.mark.parametrize(
    ("text", "complete", "words"),
    [
        ('{"name": "A", "age"', False, "was cut (length)"),
        ('{"name": "A", "age": -1}', True, "no form: age: Input should be greater"),
        ("hello", True, "no form: Invalid JSON"),
    ],
)
def test_answers_that_do_not_fit(text: str, complete: bool, words: str) -> None:
    schema = schemas.find("form", {"form": Person})
    with pytest.raises(schemas.UnfitAnswer) as raised:
        schema.parse(text, "length", complete=complete)
    assert words in str(raised.value)


@pytest.mark.parametrize("value", [3, "x", object()])
def test_what_is_no_schema(value: object) -> None:
    with pytest.raises(UsageMistake):
        schemas.find("form", {"form": value})
