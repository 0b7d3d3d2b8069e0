"""The tools a model may call, found by the names that models write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import count

from lmnb.chat.conversation import Tool

_SPOKEN_OF = re.compile(r"(?:functions?|tools?)[.:/](.+)")
_NUMBERED = re.compile(r"(.+):\d+")


class Tools:
    """Finds tools by name."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def __bool__(self) -> bool:
        return bool(self._tools)

    def find(self, name: str) -> Tool | None:
        """The tool of that name."""
        return self._tools.get(name)

    def name(self, written: str) -> str:
        """The name of the tool that is meant by `functions.name:0`; other names as they are."""
        name = written
        for pattern in (_SPOKEN_OF, _NUMBERED):
            found = pattern.fullmatch(name)
            if name not in self._tools and found is not None:
                name = found[1]
        return name if name in self._tools else written


def positions(tool: Tool | None) -> Iterator[str]:
    """Names for arguments that are written without: those of the tool's schema, in its order."""
    properties = ((tool and tool.parameters) or {}).get("properties")
    yield from properties if isinstance(properties, dict) else ()
    yield from (f"argument_{number}" for number in count(1))
