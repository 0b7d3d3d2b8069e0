"""Pieces of text in one."""

from __future__ import annotations

from collections.abc import Iterable


def join(texts: Iterable[str], gap: str = "\n") -> str:
    """The texts in one, with `gap` wherever neither side has white space.

    Protocols let a message consist of several texts. Simply put together, the last word of one and
    the first of the next would become one word.
    """
    joined = ""
    for text in texts:
        if joined and text and not joined[-1].isspace() and not text[0].isspace():
            joined += gap
        joined += text
    return joined
