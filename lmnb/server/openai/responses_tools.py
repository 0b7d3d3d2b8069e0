"""`tools` and `tool_choice` of Responses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec

from lmnb.chat.conversation import Tool, ToolChoice
from lmnb.server.mcp.loop import Forced
from lmnb.server.notes import note
from lmnb.server.openai import toolbox
from lmnb.server.openai.body import Fields
from lmnb.server.openai.errors import InvalidValue
from lmnb.server.openai.responses_mcp_tools import McpTool, mcp_tool
from lmnb.server.openai.toolbox import Known, Toolbox, flat_name
from lmnb.server.openai.values import array, mapping, string


class Tools(msgspec.Struct, frozen=True):
    """The caller's tools, the MCP servers whose tools are called here, and which must be called."""

    toolbox: Toolbox
    servers: tuple[McpTool, ...] = ()
    forced: Forced | None = None


class ToolFields(Fields):
    """What may be called, and what must be."""

    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True

    @property
    def toolbox(self) -> Toolbox:
        """The caller's tools as functions."""
        return self.given_tools.toolbox

    @cached_property
    def given_tools(self) -> Tools:
        """All tools. Those of unknown types, which OpenAI itself runs, are left out.

        Raises
        ------
        InvalidRequest
            With `param` naming the place, such as `tools[2].name`.
        """
        known: dict[str, Known] = {}
        found: list[Tool] = []
        servers: list[McpTool] = []
        for i, tool in enumerate(array(self.tools, "tools")):
            where = f"tools[{i}]"
            data = mapping(tool, where)
            if data.get("type") == "mcp":
                servers.append(_server(data, where, servers))
            else:
                found.extend(_tools(data, where, known))
        given = Tools(Toolbox(tuple(found), known=known), tuple(servers))
        return _chosen(self.tool_choice, given, parallel=self.parallel_tool_calls)


def _server(data: dict[str, Any], where: str, others: list[McpTool]) -> McpTool:
    server = mcp_tool(data, where)
    if server.label in {other.label for other in others}:
        raise InvalidValue(
            f"Invalid value for '{where}.server_label': '{server.label}' is another server's.",
            param=f"{where}.server_label",
        )
    return server


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
    note(f"A tool of the type {kind!r} was left out: it does not run here.")
    return []


def _chosen(wanted: Any, given: Tools, *, parallel: bool) -> Tools:
    """What the choice leaves of the tools. A tool that runs elsewhere cannot be forced."""
    param = "tool_choice"
    tools = given.toolbox.tools
    if (choice := toolbox.plain_choice(wanted, param, parallel=parallel)) is not None:
        return _with(given, choice)
    kind = wanted["type"]
    if kind in ("function", "custom"):
        name = _name(wanted, param)
        return _with(given, toolbox.by_name(name, f"{param}.name", tools, parallel=parallel))
    if kind == "mcp":
        [server] = _named(wanted, given.servers, param)
        tool = None if wanted.get("name") is None else string(wanted, "name", param)
        forced = Forced(server.label, tool, param)
        return _with(msgspec.structs.replace(given, forced=forced), ToolChoice(parallel=parallel))
    if kind == "allowed_tools":
        choice = toolbox.by_word(wanted.get("mode") or "auto", f"{param}.mode", parallel=parallel)
        return _with(_only(wanted, given, param), choice)
    note(f"A tool_choice of the type {kind!r} counts as 'auto'.")
    return _with(given, ToolChoice(parallel=parallel))


def _with(given: Tools, choice: ToolChoice) -> Tools:
    toolbox.check_choice(choice, (*given.toolbox.tools, *given.servers))
    chosen = msgspec.structs.replace(given.toolbox, choice=choice)
    return msgspec.structs.replace(given, toolbox=chosen)


def _only(wanted: dict[str, Any], given: Tools, param: str) -> Tools:
    """Those of the tools that `allowed_tools` lists; an MCP server with all that it may offer."""
    names: list[str] = []
    servers: list[McpTool] = []
    for i, tool in enumerate(array(wanted.get("tools"), f"{param}.tools")):
        at = f"{param}.tools[{i}]"
        data = mapping(tool, at)
        kind = data.get("type", "function")
        if kind in ("function", "custom"):
            names.append(_name(data, at))
        elif kind == "mcp":
            servers += _named(data, given.servers, at)
    tools = toolbox.only(names, f"{param}.tools", given.toolbox.tools)
    return Tools(
        msgspec.structs.replace(given.toolbox, tools=tools),
        tuple(server for server in given.servers if server in servers),
    )


def _named(data: dict[str, Any], servers: Sequence[McpTool], where: str) -> list[McpTool]:
    """The server that is referred to by its label."""
    label = string(data, "server_label", where)
    if found := [server for server in servers if server.label == label]:
        return found
    raise InvalidValue(
        f"Invalid value for '{where}.server_label': there is no MCP server '{label}' in 'tools'.",
        param=f"{where}.server_label",
    )


def _name(data: dict[str, Any], where: str) -> str:
    """The name, for the model, of a tool that is referred to."""
    if isinstance(data.get("function"), dict):  # as Chat Completions has it
        data, where = data["function"], f"{where}.function"
    namespace = data.get("namespace")
    return flat_name(string(data, "name", where), namespace if isinstance(namespace, str) else None)
