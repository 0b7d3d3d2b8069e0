"""Which of a server's tools are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mcp.types import Tool


class Filter(msgspec.Struct, frozen=True):
    """Tools that meet all conditions that are set; without any, all tools.

    names
        Their names.
    read_only
        Whether the server says of them that they change nothing (`readOnlyHint`).
    """

    names: frozenset[str] | None = None
    read_only: bool | None = None

    def matches(self, tool: Tool) -> bool:
        """Whether `tool` is meant."""
        if self.names is not None and tool.name not in self.names:
            return False
        if self.read_only is None:
            return True
        hints = tool.annotations
        return self.read_only is (hints is not None and hints.read_only_hint is True)


ALL = Filter()
"""All tools."""


class Approval(msgspec.Struct, frozen=True):
    """Whose calls are made at once: of those tools that `free` means and `guarded` does not.

    None means no tool.
    """

    free: Filter | None = ALL
    guarded: Filter | None = None

    def is_needed(self, tool: Tool) -> bool:
        """Whether somebody has to agree before `tool` is called."""
        if self.guarded is not None and self.guarded.matches(tool):
            return True
        return self.free is None or not self.free.matches(tool)


NEEDLESS = Approval()
"""Nobody is asked."""
