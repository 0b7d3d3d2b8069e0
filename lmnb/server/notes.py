"""What of a request was left out, told to its caller in the header `x-lmnb-warning`.

Clients send more than any one server knows: tools that only OpenAI runs, kinds of items that are new,
keywords of schemas that cannot be enforced. Refusing these would break them, silence would mislead
whoever writes the client.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

HEADER = "x-lmnb-warning"
_LONGEST = 2000
"""Characters: agents bring dozens of tools, and clients refuse headers of more than 8 KB."""

_logger = logging.getLogger(__name__)
_notes: ContextVar[dict[str, None] | None] = ContextVar("notes", default=None)


def collect() -> dict[str, None]:
    """Begin the notes of a request: those of this task, and of tasks that it starts."""
    notes: dict[str, None] = {}
    _notes.set(notes)
    return notes


def note(text: str) -> None:
    """Tell the caller of the current request, if its answer has not begun; once, and in the log."""
    notes = _notes.get()
    if notes is None or text not in notes:
        _logger.warning("%s", text)
    if notes is not None:
        notes[text] = None


def header(notes: dict[str, None]) -> str:
    """The value of the header: all of them, on one line, in ASCII."""
    text = " ".join(" ".join(notes).split())
    return text.encode("ascii", "backslashreplace").decode()[:_LONGEST]
