"""`tools`, `tool_choice` and the older `functions`, `function_call` of Chat Completions."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lmnb.chat.conversation import Tool, ToolChoice
from lmnb.server.notes import note
from lmnb.server.openai import toolbox
from lmnb.server.openai.body import Fields
from lmnb.server.openai.errors import InvalidValue
from lmnb.server.openai.toolbox import HOSTED_TOOLS, Known, Toolbox
from lmnb.server.openai.values import array, mapping, string


class ToolFields(Fields):
    """What may be called, and what must be."""

    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    functions: Any = None
    function_call: Any = None

    @cached_property
    def toolbox(self) -> Toolbox:
        """The tools as functions.

        Raises
        ------
        InvalidRequest
            With `param` naming the place, such as `tools[2].function.name`.
        """
        tools = array(self.tools, "tools")
        functions = array(self.functions, "functions")
        if tools and functions:
            raise InvalidValue(
                "'functions' is the older form of 'tools': only one of them can be given.",
                param="functions",
            )
        if functions or (self.function_call is not None and not tools):
            return self._legacy(functions)
        known: dict[str, Known] = {}
        found: list[Tool] = []
        for i, tool in enumerate(tools):
            found.extend(_tool(tool, f"tools[{i}]", known))
        choice, allowed = _choice(self.tool_choice, tuple(found), parallel=self.parallel_tool_calls)
        toolbox.check_choice(choice, allowed)
        return Toolbox(allowed, choice, known)

    def _legacy(self, functions: list[Any]) -> Toolbox:
        """The older form knows one call at a time."""
        tools = tuple(
            toolbox.function(mapping(one, f"functions[{i}]"), f"functions[{i}]")
            for i, one in enumerate(functions)
        )
        wanted, param = self.function_call, "function_call"
        choice = ToolChoice(parallel=False)
        if isinstance(wanted, str):
            choice = toolbox.by_word(wanted, param, parallel=False)
        elif wanted is not None:
            name = string(mapping(wanted, param), "name", param)
            choice = toolbox.by_name(name, f"{param}.name", tools, parallel=False)
        toolbox.check_choice(choice, tools, param)
        return Toolbox(tools, choice, legacy=True)


def _tool(tool: Any, where: str, known: dict[str, Known]) -> list[Tool]:
    data = mapping(tool, where)
    kind = data.get("type", "function")
    if kind == "function":
        at = f"{where}.function"
        return [toolbox.function(mapping(data.get("function"), at), at)]
    if kind == "custom":
        at = f"{where}.custom"
        made = toolbox.custom(mapping(data.get("custom"), at), at)
        known[made.name] = Known(made.name, custom=True)
        return [made]
    if isinstance(kind, str) and kind.startswith(HOSTED_TOOLS):
        note(f"A tool of the type {kind!r} was left out: it does not run here.")
        return []
    raise InvalidValue(
        f"Invalid value for '{where}.type': expected 'function' or 'custom'.", param=f"{where}.type"
    )


def _choice(
    wanted: Any, tools: tuple[Tool, ...], *, parallel: bool
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """The choice, and the tools that it leaves."""
    param = "tool_choice"
    if (choice := toolbox.plain_choice(wanted, param, parallel=parallel)) is not None:
        return choice, tools
    kind = wanted["type"]
    if kind in ("function", "custom"):
        name, at = _name(wanted, kind, param)
        return toolbox.by_name(name, at, tools, parallel=parallel), tools
    if kind == "allowed_tools":
        at = f"{param}.allowed_tools"
        allowed = mapping(wanted.get("allowed_tools"), at)
        names = _names(allowed, at)
        choice = toolbox.by_word(allowed.get("mode") or "auto", f"{at}.mode", parallel=parallel)
        return choice, toolbox.only(names, f"{at}.tools", tools)
    raise InvalidValue(
        f"Invalid value for '{param}.type': expected 'function', 'custom' or 'allowed_tools', "
        f"got '{kind}'.",
        param=f"{param}.type",
    )


def _names(allowed: dict[str, Any], where: str) -> list[str]:
    names = []
    for i, tool in enumerate(array(allowed.get("tools"), f"{where}.tools")):
        at = f"{where}.tools[{i}]"
        data = mapping(tool, at)
        names.append(_name(data, string(data, "type", at), at)[0])
    return names


def _name(data: dict[str, Any], kind: str, where: str) -> tuple[str, str]:
    """The name of a tool that is referred to, and where it stands."""
    at = f"{where}.{kind}"
    return string(mapping(data.get(kind), at), "name", at), f"{at}.name"
