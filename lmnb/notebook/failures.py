"""What a magic raises: one line and a hint, and still a real error.

A magic that prints its error and returns looks like a success: Run All goes on and
nbclient passes. So everything here is raised; only the traceback is left out, because
the user's line is all there is to see. The same errors raised by the Python API
(`lmnb.client`) keep their tracebacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lmnb.errors import InvalidRequest, LmnbError

_COMMAND = re.compile(
    r"`lmnb (get|search|downloads|ls|ps|load|unload|serve|launch|settings|mcp|log)\b"
)
_RED, _RESET = "\x1b[31m", "\x1b[0m"


class UsageMistake(InvalidRequest):
    """The line of a magic cannot be understood."""

    code = "usage"


class HelpShown(Exception):
    """`-h` was given: nothing is to be done but to show `text`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Interrupted(KeyboardInterrupt):
    """■ was pressed while a magic ran; what it had is kept.

    It is raised again after the cleaning up, so that Run All stops here.
    """

    def __init__(self, what: str = "stopped by the user") -> None:
        super().__init__(what)

    def _render_traceback_(self) -> list[str]:
        return [f"{_RED}Interrupted{_RESET}: {self}"]


def shorten(error: LmnbError) -> LmnbError:
    """The same error, set up so that IPython shows its message and hint and no traceback."""
    lines = list(_lines(error))
    # IPython asks the exception itself how it wants to be shown; an attribute of this one
    # object is enough, and its class stays the one that `except` clauses name.
    vars(error)["_render_traceback_"] = lambda: lines
    return error


def _lines(error: LmnbError) -> Iterator[str]:
    yield f"{_RED}{type(error).__name__}{_RESET}: {in_magics(error.message)}"
    if error.hint:
        yield f"Hint: {in_magics(error.hint)}"


def in_magics(text: str) -> str:
    """Commands that are named for the command line, as what they are called in a notebook."""
    return _COMMAND.sub(r"`%lm \1", text)


@contextmanager
def short_errors() -> Iterator[None]:
    """What every magic runs in: errors without traceback, and help instead of running."""
    try:
        yield
    except HelpShown as shown:
        from lmnb.notebook.output import note

        note(shown.text)
    except LmnbError as error:
        raise shorten(error) from None
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted from None
