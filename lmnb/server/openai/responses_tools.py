"""`tools` and `tool_choice` of Responses."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lmnb.chat.conversation import Tool, ToolChoice
from lmnb.server.notes import note
from lmnb.server.openai import toolbox
from lmnb.server.openai.body import Fields
from lmnb.server.openai.errors import UnsupportedParameter
from lmnb.server.openai.toolbox import Known, Toolbox, flat_name
from lmnb.server.openai.values import array, mapping, string


class ToolFields(Fields):
    """What may be called, and what must be."""

    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True

    @cached_property
    def toolbox(self) -> Toolbox:
        """The tools as functions. Those of unknown types, which OpenAI itself runs, are left out.

        Raises
        ------
        UnsupportedParameter
            A tool is a remote MCP server.
        InvalidRequest
            With `param` naming the place, such as `tools[2].name`.
        """
        known: dict[str, Known] = {}
        found: list[Tool] = []
        for i, tool in enumerate(array(self.tools, "tools")):
            where = f"tools[{i}]"
            found.extend(_tools(mapping(tool, where), where, known))
        choice, allowed = _choice(self.tool_choice, tuple(found), parallel=self.parallel_tool_calls)
        toolbox.check_choice(choice, allowed)
        return Toolbox(allowed, choice, known)


def _tools(
    data: dict[str, Any], where: str, known: dict[str, Known], namespace: str | None = None
) -> list[Tool]:
    """The functions that a tool is: several if it is a namespace, none if it runs elsewhere."""
    kind = data.get("type", "function")
    if kind in ("function", "custom"):
        if isinstance(data.get(kind), dict):  # as Chat Completions has it
            data, where = data[kind], f"{where}.{kind}"
        make = toolbox.custom if kind == "custom" else toolbox.function
        tool = make(data, where, namespace)
        if namespace or kind == "custom":
            known[tool.name] = Known(data["name"], namespace, custom=kind == "custom")
        return [tool]
    if kind == "namespace" and namespace is None:
        name, inner = toolbox.tool_name(data, where), f"{where}.tools"
        return [
            tool
            for i, one in enumerate(array(data.get("tools"), inner))
            for tool in _tools(mapping(one, f"{inner}[{i}]"), f"{inner}[{i}]", known, name)
        ]
    if kind == "mcp":
        raise UnsupportedParameter(
            f"Remote MCP servers are not supported ('{where}').",
            hint="Leave the tool out.",
            param=where,
        )
    note(f"A tool of the type {kind!r} was left out: it does not run here.")
    return []


def _choice(
    wanted: Any, tools: tuple[Tool, ...], *, parallel: bool
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """The choice, and the tools that it leaves. A tool that runs elsewhere cannot be forced."""
    param = "tool_choice"
    if (choice := toolbox.plain_choice(wanted, param, parallel=parallel)) is not None:
        return choice, tools
    kind = wanted["type"]
    if kind in ("function", "custom"):
        name = _name(wanted, param)
        return toolbox.by_name(name, f"{param}.name", tools, parallel=parallel), tools
    if kind == "allowed_tools":
        choice = toolbox.by_word(wanted.get("mode") or "auto", f"{param}.mode", parallel=parallel)
        return choice, toolbox.only(_allowed(wanted, param), f"{param}.tools", tools)
    note(f"A tool_choice of the type {kind!r} counts as 'auto'.")
    return ToolChoice(parallel=parallel), tools


def _allowed(wanted: dict[str, Any], param: str) -> list[str]:
    names = []
    for i, tool in enumerate(array(wanted.get("tools"), f"{param}.tools")):
        at = f"{param}.tools[{i}]"
        data = mapping(tool, at)
        if data.get("type", "function") in ("function", "custom"):
            names.append(_name(data, at))
    return names


def _name(data: dict[str, Any], where: str) -> str:
    """The name, for the model, of a tool that is referred to."""
    if isinstance(data.get("function"), dict):  # as Chat Completions has it
        data, where = data["function"], f"{where}.function"
    namespace = data.get("namespace")
    return flat_name(string(data, "name", where), namespace if isinstance(namespace, str) else None)
