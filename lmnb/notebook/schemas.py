"""`--schema`: the form that an answer must have, from a type or a JSON schema."""

from __future__ import annotations

import builtins
import inspect
import json
import sys
import typing
from collections.abc import Mapping
from typing import Any

from lmnb.errors import LmnbError
from lmnb.notebook.arguments import look_up
from lmnb.notebook.failures import UsageMistake
from lmnb.schemas import closed, told


class UnfitAnswer(LmnbError):
    """The answer does not have the form that `--schema` asks for."""

    code = "unfit_answer"
    status = 422


class Schema:
    """A JSON schema, and how to read what follows it.

    json
        The schema.
    """

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self._adapter: Any = None
        if isinstance(value, Mapping):
            self.json = dict(value)
            return
        import pydantic

        try:
            self._adapter = pydantic.TypeAdapter(_known(value))
            self.json = closed(self._adapter.json_schema())
        except pydantic.errors.PydanticUserError as error:
            first = str(error).splitlines()[0]
            raise UsageMistake(
                f"--schema {name} is no type that a schema can be made of: {first}",
                hint="Pydantic models, dataclasses, TypedDicts, dicts with a JSON schema and "
                "types such as list[str] are.",
            ) from None

    def parse(self, text: str, stop_reason: str | None, *, complete: bool) -> Any:
        """The value that `text` stands for.

        Raises
        ------
        UnfitAnswer
            It was cut, or is none.
        """
        if not complete:
            raise UnfitAnswer(
                f"The answer was cut ({stop_reason}) before its JSON was complete.",
                hint="Give it more room with --max-tokens or a larger --context-length.",
            )
        try:
            return json.loads(text) if self._adapter is None else self._adapter.validate_json(text)
        except ValueError as error:  # pydantic's errors are, too
            raise UnfitAnswer(
                f"The answer is no {self.name}: {told(error)}.",
                hint="What the model wrote is in _.",
            ) from None


def find(name: str, variables: Mapping[str, Any]) -> Schema:
    """The schema that a variable of the notebook holds, or a type such as `list[str]` makes.

    Raises
    ------
    UsageMistake
        There is no such variable, or it holds something else.
    """
    value = _written(name, variables) or look_up(name, variables, "--schema")
    if isinstance(value, str | bytes | int | float) or inspect.isroutine(value):
        kind = type(value).__name__
        raise UsageMistake(
            f"--schema {name}: this is of the type {kind}, not a schema.",
            hint=f"--tools {name} lets the model call it." if callable(value) else None,
        )
    return Schema(name, value)


def _written(name: str, variables: Mapping[str, Any]) -> Any:
    """The type that is written out in place of a variable, such as `int` or `list[Person]`."""
    if name not in variables and isinstance(getattr(builtins, name, None), type):
        return getattr(builtins, name)
    if not any(mark in name for mark in "[|"):
        return None
    try:
        return eval(name, dict(variables))  # noqa: S307 - the user's own cell, as any other
    except Exception as error:  # noqa: BLE001 - whatever an expression may raise
        raise UsageMistake(
            f"--schema {name}: this is no type: {error}.",
            hint="Quotes keep a type with spaces together; types that it names have to be imported.",
        ) from None


def _known(value: Any) -> Any:
    """Before Python 3.12, pydantic takes TypedDicts of typing_extensions only."""
    import typing_extensions

    if sys.version_info >= (3, 12) or not typing.is_typeddict(value):
        return value
    hints = typing.get_type_hints(value, include_extras=True)
    fields = {
        key: hint if key in value.__required_keys__ else typing.NotRequired[hint]
        for key, hint in hints.items()
    }
    make: Any = typing_extensions.TypedDict
    return make(value.__name__, fields)
