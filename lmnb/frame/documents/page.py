"""What readers make of files, and why they could not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias


class Page(NamedTuple):
    """A part of a document. `number` counts from 1; None is the whole of it."""

    text: str
    number: int | None = None


class Unreadable(Exception):
    """Why there is no text, as a sentence without its full stop."""


Reader: TypeAlias = Callable[[bytes], Iterator[Page]]
"""From what a file holds to its pages."""
