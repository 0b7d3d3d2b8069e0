"""Tools with `defer_loading`: the model learns of them where a result refers to them.

A search tool of the client answers with `tool_reference` blocks. Anthropic writes the definitions
in their place, in the form that Claude Code tells the model of. Were they added to the tools at the
head of the prompt instead, all of it would have to be read again.
(https://platform.claude.com/docs/en/agents-and-tools/tool-use/tool-search-tool)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from lmnb.server.anthropic.schema import Block, MessageParam


def referenced(messages: Sequence[MessageParam]) -> set[str]:
    """The names of the tools that have been referred to."""
    return {
        str(block.get("tool_name"))
        for message in messages
        for block in _all(message.content)
        if _is_reference(block)
    }


def spelled_out(content: Any, tools: Sequence[Block]) -> Any:
    """A message's content with the definitions of `tools` in the places of references to them."""
    if not any(_is_reference(block) for block in _all(content)):
        return content
    known = {str(tool.get("name")): tool for tool in tools}
    return [_result(block, known) for block in content]


def _all(content: Any) -> Iterator[Block]:
    """The blocks of a content, and those in its tool results."""
    for block in content if isinstance(content, list) else ():
        yield block
        if block.get("type") == "tool_result":
            yield from (one for one in _list(block.get("content")) if isinstance(one, dict))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_reference(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_reference"


def _result(block: Block, known: Mapping[str, Block]) -> Block:
    if block.get("type") != "tool_result" or not isinstance(block.get("content"), list):
        return block
    content: list[Any] = []
    for is_reference, group in groupby(block["content"], key=_is_reference):
        if is_reference:
            lines = [_definition(str(one.get("tool_name")), known) for one in group]
            text = "\n".join(["<functions>", *lines, "</functions>"])
            content.append({"type": "text", "text": text})
        else:
            content.extend(group)
    return {**block, "content": content}


def _definition(name: str, known: Mapping[str, Block]) -> str:
    tool = known.get(name, {})
    told = {
        "description": tool.get("description") or "",
        "name": name,
        "parameters": tool.get("input_schema") or {},
    }
    return f"<function>{json.dumps(told, ensure_ascii=False)}</function>"
