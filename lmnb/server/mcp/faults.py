"""What is wrong with an MCP server, found by whatever part of a connection meets it first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias


class Fault(Exception):
    """In words that follow the name of the server: "it sent more than 16 MiB at once"."""


class LoginNeeded(Fault):
    """It wants to know who uses it, and nobody has logged in."""


Report: TypeAlias = Callable[[Fault], None]
"""Called with the first fault. What failed because of it says less ("connection closed")."""


def reason(error: BaseException) -> str:
    """The words of the innermost error: task groups wrap them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError):
        return NO_COMMAND
    return " ".join(str(error).split())[:500] or type(error).__name__


NO_COMMAND = "there is no such command, or its folder does not exist."
