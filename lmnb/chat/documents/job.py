"""The messages between the server and the process that reads a PDF: one job, one outcome."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

LONGEST_SIDE = 1568
"""Pixels of a page's picture; more is scaled down by Anthropic's models, too."""


MOST_PAGES = 1000
MOST_CHARACTERS = 4_000_000
"""More than any context holds."""


class TextJob(msgspec.Struct, frozen=True, tag="text"):
    """Read the text of all pages of the file `data`, unless it has more than these."""

    data: bytes
    most_pages: int = MOST_PAGES
    most_characters: int = MOST_CHARACTERS


class PictureJob(msgspec.Struct, frozen=True, tag="pictures"):
    """Draw pages of the file `data`, counted from 0."""

    data: bytes
    pages: tuple[int, ...]


class Texts(msgspec.Struct, frozen=True, tag="texts"):
    """The text of each page; "" where there is none."""

    pages: tuple[str, ...]


class Pictures(msgspec.Struct, frozen=True, tag="pictures"):
    """Each page as the bytes of a PNG file, its longer side at most `LONGEST_SIDE` pixels."""

    pages: tuple[bytes, ...]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It cannot be read; `reason` goes after "The PDF cannot be read: "."""

    reason: str


Job: TypeAlias = TextJob | PictureJob
Outcome: TypeAlias = Texts | Pictures | Refused
