"""`--tools`: functions of the notebook that a model may call."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from lmnb.notebook.arguments import look_up
from lmnb.notebook.failures import UsageMistake
from lmnb.notebook.turns import Call


class ToolRun(NamedTuple):
    """A call, and what came of it.

    `arguments` are None where they were no JSON object. `text` is what the model was told;
    `result` is what the function returned, None if it did not. `error` is the exception's text.
    """

    name: str
    arguments: dict[str, Any] | None
    text: str
    result: Any = None
    error: str | None = None


class Tool:
    """A function with a name, a description and a JSON schema of its arguments.

    They come from its signature and its docstring, through the anthropic SDK's own helper: pydantic
    makes the schema of the type hints and checks arguments before a call, and descriptions of
    parameters are read in Google's, NumPy's, reST's and Epydoc's style.
    """

    def __init__(self, name: str, function: Any) -> None:
        from anthropic.lib.tools import beta_async_tool, beta_tool

        self._is_async = inspect.iscoroutinefunction(function)
        make: Any = beta_async_tool if self._is_async else beta_tool
        try:
            self._tool = make(function, name=name)
        except Exception as error:  # noqa: BLE001 - pydantic's, and those of odd hints
            first = str(error).splitlines()[0]
            raise UsageMistake(
                f"--tools {name}: no schema can be made of its signature: {first}",
                hint="Give its parameters type hints that pydantic knows.",
            ) from None
        self.name = name
        self.description: str = self._tool.description
        self.schema: dict[str, Any] = dict(self._tool.input_schema)

    def call(self, arguments: dict[str, Any]) -> Any:
        """Run the function, on the kernel's own loop if it is async."""
        if self._is_async:
            from lmnb.notebook.waiting import run

            return run(self._tool.call(arguments))
        return self._tool.call(arguments)


class Toolbox:
    """The tools of a cell, by name."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self.tools = dict(tools)

    def run(self, call: Call) -> ToolRun:
        """Do what the model asks for. Whatever goes wrong is told to the model, and no error here."""
        name = call["name"]
        arguments = _arguments(call["arguments"])
        if name not in self.tools:
            known = ", ".join(self.tools)
            return _failed(name, arguments, f"There is no tool {name!r}. There are: {known}.")
        if arguments is None:
            return _failed(name, arguments, "The arguments are no JSON object.")
        try:
            result = self.tools[name].call(arguments)
            return ToolRun(name, arguments, told(result), result)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code may raise any
            return _failed(name, arguments, _reason(error))


def find(names: list[str], variables: Mapping[str, Any]) -> Toolbox:
    """The functions that variables of the notebook hold; `a.b` is an attribute, lists hold several.

    Raises
    ------
    UsageMistake
        There is no such variable, or it cannot be called, or not as a tool.
    """
    tools: dict[str, Tool] = {}
    for name in names:
        value = look_up(name, variables, "--tools")
        several = isinstance(value, list | tuple)
        for function in value if several else [value]:
            own = getattr(function, "__name__", None) if several else name.rpartition(".")[2]
            if not callable(function) or own is None or isinstance(function, type):
                kind = type(function).__name__
                raise UsageMistake(f"--tools {name}: this is of the type {kind}, not a function.")
            tools[own] = Tool(own, function)
    return Toolbox(tools)


def told(result: Any) -> str:
    """A result as the model reads it: text as it is, all else as JSON where it can be that."""
    if isinstance(result, str):
        return result
    import pydantic_core

    return pydantic_core.to_json(result, fallback=str).decode()


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None


def _failed(name: str, arguments: dict[str, Any] | None, reason: str) -> ToolRun:
    return ToolRun(name, arguments, f"Error: {reason}", error=reason)


def _reason(error: BaseException) -> str:
    """Such as `KeyError: 'Ulm'`; of arguments that do not fit, which they are."""
    import pydantic

    cause = error.__cause__
    if isinstance(cause, pydantic.ValidationError):
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in cause.errors()
        )
        return f"The arguments do not fit. {wrong}"
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
