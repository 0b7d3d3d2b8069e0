"""What form answers must have, and the columns that come of it.

A schema is a pydantic model, a dict of field names and types (`{"mood": ["good", "bad"], "n": int}`;
a list is a choice), or a JSON schema of an object. The model that answers is bound to it while it
writes, and what it wrote is checked once more.
"""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import pandas as pd
import pydantic

from lmnb.errors import InvalidRequest
from lmnb.frame.values import objects
from lmnb.schemas import closed, told

Columns: TypeAlias = dict[str, "pd.Series[Any]"]

_SCHEMA_WORDS = {"properties", "$ref", "$defs", "allOf", "anyOf", "oneOf"}
_DTYPES: dict[Any, str] = {int: "Int64", float: "Float64", bool: "boolean", str: "string"}
_JSON_TYPES: dict[Any, Any] = {"integer": int, "number": float, "boolean": bool, "string": str}


class Unfit(ValueError):
    """An answer does not have the form."""


class Schema:
    """The form of answers: an object with a column for each of its fields.

    json
        The JSON schema that the model is bound to.
    fields
        Names, with the type of each: a type, a list of choices, or None for anything else.
    """

    def __init__(self, given: Any) -> None:
        self._model: type[pydantic.BaseModel] | None = None
        if isinstance(given, Mapping) and _is_json_schema(given):
            self.json: dict[str, Any] = dict(given)
            properties = given.get("properties") or {}
            self.fields = {name: _json_type(one) for name, one in properties.items()}
        else:
            self._model = _model(given)
            self.json = closed(self._model.model_json_schema())
            found = self._model.model_fields.items()
            self.fields = {name: _known_type(field.annotation) for name, field in found}
        if not self.fields:
            raise InvalidRequest("The schema names no fields.", hint="Each field is a column.")

    def parse(self, text: str) -> dict[str, Any]:
        """The fields of an answer; what it leaves out is None.

        Raises
        ------
        Unfit
            It does not have the form.
        """
        try:
            if self._model is not None:
                found = self._model.model_validate_json(text).model_dump(mode="json")
            else:
                found = json.loads(text)
        except ValueError as error:  # pydantic's errors are, too
            raise Unfit(told(error)) from None
        if not isinstance(found, dict):
            raise Unfit("The answer is no object.")
        missing = [name for name in self.json.get("required", ()) if name not in found]
        if missing:
            raise Unfit(f"{missing[0]}: is required")
        return {name: found.get(name) for name in self.fields}

    def columns(self, rows: Sequence[dict[str, Any] | None], index: pd.Index[Any]) -> Columns:
        """A column for each field; rows without an answer are null."""
        return {
            name: _column([row and row[name] for row in rows], index, name, kind)
            for name, kind in self.fields.items()
        }


def text_column(values: Sequence[str | None], index: pd.Index[Any], name: Any) -> pd.Series[Any]:
    """A column of texts."""
    return pd.Series(list(values), index=index, name=name, dtype="string")


def _column(values: list[Any], index: pd.Index[Any], name: str, kind: Any) -> pd.Series[Any]:
    if isinstance(kind, list):
        dtype = pd.CategoricalDtype(kind)
        return pd.Series(pd.Categorical(values, dtype=dtype), index=index, name=name)
    if kind in _DTYPES:
        try:
            return pd.Series(values, index=index, name=name, dtype=_DTYPES[kind])
        except (OverflowError, TypeError, ValueError):  # integers beyond 64 bits
            pass
    return objects(values, index, name)


def _is_json_schema(given: Mapping[Any, Any]) -> bool:
    return given.get("type") == "object" or bool(_SCHEMA_WORDS & given.keys())


def _model(given: Any) -> type[pydantic.BaseModel]:
    if isinstance(given, type) and issubclass(given, pydantic.BaseModel):
        return given
    if not isinstance(given, Mapping):
        raise InvalidRequest(
            f"A schema cannot be made of {given!r}.",
            hint="Give a pydantic model, a JSON schema, or a dict such as {'n': int, 'ok': ['yes', 'no']}.",
        )
    fields = {name: (_annotation(name, kind), ...) for name, kind in given.items()}
    try:
        make: Any = pydantic.create_model
        model: type[pydantic.BaseModel] = make("Answer", **fields)
    except (pydantic.errors.PydanticUserError, TypeError, NameError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise InvalidRequest(f"A schema cannot be made of {given!r}: {first}") from None
    return model


def _annotation(name: Any, kind: Any) -> Any:
    if isinstance(kind, list | tuple):
        return Literal[choices(kind, f"The field {name!r}")]
    if isinstance(kind, Mapping):
        return _model(kind)
    return kind


def choices(given: Sequence[Any], what: str) -> tuple[str, ...]:
    """A list of choices, checked.

    Raises
    ------
    InvalidRequest
        It is empty, or holds something twice, or something that is no text.
    """
    found = tuple(given)
    if not found or len(set(map(str, found))) < len(found):
        raise InvalidRequest(f"{what} needs choices, each of them once: {list(found)!r}.")
    if not all(isinstance(one, str) for one in found):
        raise InvalidRequest(f"The choices of a field are texts: {list(found)!r}.")
    return found


def _known_type(annotation: Any) -> Any:
    """The type of a field, without "or None"; a list, if it is a choice of texts."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _known_type(typing.get_args(annotation)[0])
    if origin in {typing.Union, types.UnionType}:
        options = [one for one in typing.get_args(annotation) if one is not type(None)]
        return _known_type(options[0]) if len(options) == 1 else None
    if origin is Literal:
        found = [one for one in typing.get_args(annotation) if one is not None]
        return found if all(isinstance(one, str) for one in found) else None
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [one.value for one in annotation]
    return annotation if annotation in _DTYPES else None


def _json_type(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return None
    if isinstance(schema.get("enum"), list):
        found = [one for one in schema["enum"] if one is not None]
        return found if all(isinstance(one, str) for one in found) else None
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else [one for one in kinds or () if one != "null"]
    return _JSON_TYPES.get(kinds[0]) if len(kinds) == 1 else None
