"""What is understood but not offered: refused, so that nothing is silently left out."""

from __future__ import annotations

from typing import Any

from lmnb.server.openai.errors import UnsupportedParameter
from lmnb.server.openai.values import array, mapping

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


def refuse_tools(tools: Any, choice: Any, param: str = "tools") -> None:
    """Refuse tools, unless none may be called anyway."""
    if choice == "none":
        return
    for i, tool in enumerate(array(tools, param)):
        kind = mapping(tool, f"{param}[{i}]").get("type", "function")
        if not isinstance(kind, str) or not kind.startswith(HOSTED_TOOLS):
            raise UnsupportedParameter(
                f"Tool calls are not supported ('{param}' is given).",
                hint="Leave 'tools' out, or set 'tool_choice' to 'none'.",
                param=param,
            )
