"""The caller's tools as functions of the model, and the way back to the caller's words.

OpenAI has functions, functions in namespaces, and custom tools, whose input is plain text. A model
knows functions only: a function `search` of the namespace `docs` is `docs__search` to it, and a
custom tool is a function with the one argument `input`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from lmnb.chat.conversation import OutputFormat, Tool, ToolChoice
from lmnb.server.openai.errors import InvalidType, InvalidValue
from lmnb.server.openai.output_format import translate
from lmnb.server.openai.values import json_type, mapping, string

HOSTED_TOOLS = (
    "web_search",
    "local_shell",
    "shell",
    "apply_patch",
    "image_generation",
    "file_search",
    "code_interpreter",
    "computer",
    "tool_search",
)
"""Prefixes of tools that OpenAI itself runs. Agents list them everywhere: they are left out."""


class Known(msgspec.Struct, frozen=True):
    """A tool as its caller knows it."""

    name: str
    namespace: str | None = None
    custom: bool = False


class Toolbox(msgspec.Struct, frozen=True):
    """The tools of a request.

    known
        What those are to the caller that are not plain functions, by the names for the model.
    legacy
        They were given as `functions`, and are to be called in that form.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice()
    known: Mapping[str, Known] = {}
    legacy: bool = False

    def caller_knows(self, name: str) -> Known:
        """What the caller calls a tool that the model calls `name`."""
        return self.known.get(name) or Known(name)


NO_TOOLS = Toolbox()


def flat_name(name: str, namespace: str | None) -> str:
    """The name for the model."""
    return f"{namespace}__{name}" if namespace else name


def arguments_of(input_: str) -> str:
    """The input of a custom tool as the arguments of the function that stands for it."""
    return msgspec.json.encode({"input": input_}).decode()


# --- definitions ------------------------------------------------------------------


def function(data: Mapping[str, Any], where: str, namespace: str | None = None) -> Tool:
    """A function. Its `parameters` may be missing or null.

    Without `strict` it is not: OpenAI falls back to that, too, where a schema cannot be enforced.
    """
    given = dict(data)
    name = tool_name(given, where)
    parameters = given.get("parameters")
    return Tool(
        flat_name(name, namespace),
        description(given, where),
        None if parameters is None else mapping(parameters, f"{where}.parameters"),
        strict=given.get("strict") in (True, "true"),
    )


def custom(data: Mapping[str, Any], where: str, namespace: str | None = None) -> Tool:
    """A custom tool as a function. Its grammar, or regular expression, is described to the model.

    Raises
    ------
    InvalidRequest
        The format is none. Whether the grammar is one is seen later (`lmnb.chat.tool_check`).
    """
    given = dict(data)
    name = tool_name(given, where)
    said, input_ = description(given, where), {"type": "string"}
    input_format = None
    form = given.get("format")
    if form is not None:
        at = f"{where}.format"
        form = mapping(form, at)
        kind = string(form, "type", at)
        if kind == "grammar":
            # Responses has the grammar in the format itself, Chat Completions one level deeper.
            at, form = (f"{at}.grammar", form["grammar"]) if "grammar" in form else (at, form)
            input_format = _grammar(mapping(form, at), at)
            said, input_ = _under_grammar(said, input_format)
        elif kind != "text":
            raise InvalidValue(
                f"Invalid value for '{at}.type': expected 'text' or 'grammar', got '{kind}'.",
                param=f"{at}.type",
            )
    schema = {
        "type": "object",
        "properties": {"input": input_},
        "required": ["input"],
        "additionalProperties": False,
    }
    return Tool(flat_name(name, namespace), said, schema, input_format=input_format)


def _grammar(form: dict[str, Any], where: str) -> OutputFormat:
    """The form of an input, the same wherever the tool stands among the others."""
    return msgspec.structs.replace(translate(form | {"type": "grammar"}, where), param=None)


def _under_grammar(said: str, form: OutputFormat) -> tuple[str, dict[str, str]]:
    """The description and the schema of an input of that form."""
    kind = "Lark grammar" if form.type == "lark" else "regular expression"
    said = f"{said}\n\nThe input has the form of this {kind}:\n{form.definition}".strip()
    if form.type == "lark":
        return said, {"type": "string"}
    return said, {"type": "string", "pattern": f"^(?:{form.definition})$"}


def tool_name(data: dict[str, Any], where: str) -> str:
    """The name, which may not be empty."""
    name = string(data, "name", where)
    if name:
        return name
    raise InvalidValue(
        f"Invalid value for '{where}.name': a tool needs a name.", param=f"{where}.name"
    )


def description(data: dict[str, Any], where: str) -> str:
    """What the tool does, in its caller's words."""
    value = data.get("description")
    if value is None or isinstance(value, str):
        return value or ""
    raise InvalidType(
        f"Invalid type for '{where}.description': expected a string, got {json_type(value)}.",
        param=f"{where}.description",
    )


# --- choices ------------------------------------------------------------------------


def by_word(word: str, param: str, *, parallel: bool) -> ToolChoice:
    """`none`, `auto` or `required` (which some call `any`)."""
    modes: dict[str, Literal["none", "auto", "required"]] = {
        "none": "none",
        "auto": "auto",
        "required": "required",
        "any": "required",
    }
    if word not in modes:
        raise InvalidValue(
            f"Invalid value for '{param}': expected 'none', 'auto', 'required' or an object, "
            f"got '{word}'.",
            param=param,
        )
    return ToolChoice(modes[word], parallel=parallel)


def plain_choice(wanted: Any, param: str, *, parallel: bool) -> ToolChoice | None:
    """A choice that refers to no tool: none is given, or a word; None if it refers to some.

    Raises
    ------
    InvalidType, InvalidValue, MissingParameter
        It is no choice at all.
    """
    if wanted is None:
        return ToolChoice(parallel=parallel)
    if isinstance(wanted, str):
        return by_word(wanted, param, parallel=parallel)
    if not isinstance(wanted, dict):
        raise InvalidType(
            f"Invalid type for '{param}': expected a string or an object, got {json_type(wanted)}.",
            param=param,
        )
    kind = string(wanted, "type", param)
    if kind in ("auto", "none", "required"):  # some write the word as an object
        return by_word(kind, param, parallel=parallel)
    return None


def by_name(name: str, param: str, tools: Iterable[Tool], *, parallel: bool) -> ToolChoice:
    """The tool of that name, which must be there."""
    if name not in {tool.name for tool in tools}:
        raise InvalidValue(
            f"Invalid value for '{param}': there is no tool named '{name}' in 'tools'.", param=param
        )
    return ToolChoice("named", name, parallel)


def only(names: Iterable[str], param: str, tools: Iterable[Tool]) -> tuple[Tool, ...]:
    """Those of the tools that are allowed."""
    wanted = set(names)
    found = tuple(tool for tool in tools if tool.name in wanted)
    missing = wanted - {tool.name for tool in found}
    if missing:
        raise InvalidValue(
            f"Invalid value for '{param}': there is no tool named '{min(missing)}' in 'tools'.",
            param=param,
        )
    return found


def check_choice(choice: ToolChoice, tools: Iterable[object], param: str = "tool_choice") -> None:
    """A call can be asked for only if there is something to call."""
    if choice.mode == "required" and not tuple(tools):
        raise InvalidValue(
            f"'{param}' asks for a tool call, but there are no 'tools' that can be called here.",
            param=param,
        )
