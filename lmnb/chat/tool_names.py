"""Tools as every template and model can take them, and their names mapped back.

Callers name tools freely (`github.search`, `mcp__files/read`, `天気`); templates build identifiers
of the names, and models were trained on those of OpenAI's kind. Schemas come incomplete: no
parameters at all, `properties` that is a list, properties that are `true`. What is changed here
loses nothing: names are mapped back, and schemas mean the same as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from lmnb.chat.conversation import Tool
from lmnb.errors import InvalidRequest

MOST_NESTED = 100
"""Levels of a schema; templates and grammars go into them by recursion."""
MOST_CHARACTERS = 256
"""Of a tool's name. Longer words in an answer are not looked at as names."""
_ODD = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Adapted:
    """Tools under names that models can write. Made by `adapt`.

    tools
        With names of letters, digits, `_` and `-`, all different, and whole schemas: parameters
        are an object schema with `properties`, and every property is a schema object.
    """

    tools: tuple[Tool, ...]
    _original: Mapping[str, str]
    _adapted: Mapping[str, str]

    def original(self, name: str) -> str:
        """The caller's name of a tool that the model called `name`; other names stay."""
        return self._original.get(name, name)

    def name(self, original: str) -> str:
        """The name for the model of a tool that the caller calls `original`.

        Tools that are no longer given, but called in earlier turns, get theirs by the same rule.
        """
        return self._adapted.get(original) or _plain(original)


def adapt(tools: Iterable[Tool]) -> Adapted:
    """Give every tool a name and a schema that any template can take. The same for the same tools.

    Raises
    ------
    InvalidRequest
        A tool has no name, or too long a one; two different ones have the same; or a schema is
        nested too deeply.
    """
    given: dict[str, Tool] = {}
    for i, tool in enumerate(tools):
        if not tool.name:
            raise InvalidRequest("A tool has no name.", param=f"tools[{i}]")
        if len(tool.name) > MOST_CHARACTERS:
            raise InvalidRequest(
                f"The name of a tool, '{tool.name[:40]}…', has {len(tool.name)} characters; at most "
                f"{MOST_CHARACTERS} are possible.",
                param=f"tools[{i}]",
            )
        if given.setdefault(tool.name, tool) != tool:
            raise InvalidRequest(
                f"Two different tools are named '{tool.name}'.", param=f"tools[{i}]"
            )
        _check_depth(tool, f"tools[{i}]")
    # Names that are good as they are come first: no other tool may be given one of them.
    adapted = {name: name for name in given if _plain(name) == name}
    taken = set(adapted)
    for name in given:
        if name not in adapted:
            adapted[name] = _free(_plain(name), taken)
            taken.add(adapted[name])
    return Adapted(
        tuple(
            msgspec.structs.replace(
                tool, name=adapted[name], parameters=whole_schema(tool.parameters)
            )
            for name, tool in given.items()
        ),
        {new: old for old, new in adapted.items()},
        adapted,
    )


def whole_schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A tool's parameters as an object schema that has all that templates look for."""
    schema = dict(parameters or {})
    properties = schema.pop("properties", None)
    required = schema.pop("required", None)
    schema.pop("type", None)
    whole: dict[str, Any] = {"type": "object", "properties": {}}
    if isinstance(properties, dict):
        for key, value in properties.items():
            whole["properties"][key] = value if isinstance(value, dict) else {}
    if isinstance(required, list):
        whole["required"] = [key for key in required if isinstance(key, str)]
    return whole | schema


def _check_depth(tool: Tool, param: str) -> None:
    level: list[Any] = [tool.parameters]
    for _ in range(MOST_NESTED):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise InvalidRequest(
        f"The parameters of the tool '{tool.name}' are nested more than {MOST_NESTED} levels deep.",
        param=param,
    )


def _plain(name: str) -> str:
    if not _ODD.search(name):
        return name
    return _ODD.sub("_", name).strip("_") or "tool"


def _free(name: str, taken: set[str]) -> str:
    number = 2
    free = name
    while free in taken:
        free = f"{name}_{number}"
        number += 1
    return free
