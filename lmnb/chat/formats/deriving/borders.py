"""What printed texts have in common, cut where a marker begins or ends and never inside of one."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TOKEN = re.compile(r"<[^<>]*>?|\[/?[A-Z][A-Z_ ]*\]|\s|\w+|.", re.DOTALL)
_MARKER = re.compile(r"<[^<>\s][^<>]*>|\[/?[A-Z][A-Z_ ]*\]")


def tokens(text: str) -> list[str]:
    """`text` in pieces that stay whole: tags (or what there is of one), words, single characters."""
    return _TOKEN.findall(text)


def markers(text: str) -> list[str]:
    """The tags in `text`: `<…>` and `[UPPER CASE]`."""
    return _MARKER.findall(text)


def is_marker(text: str) -> bool:
    """Whether it is one tag and nothing else."""
    return _MARKER.fullmatch(text) is not None


def common_prefix(texts: Sequence[str]) -> str:
    """What all of them begin with."""
    shared: list[str] = []
    for column in zip(*map(tokens, texts), strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "".join(shared)


def common_suffix(texts: Sequence[str]) -> str:
    """What all of them end with."""
    shared: list[str] = []
    for column in zip(*(reversed(tokens(text)) for text in texts), strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "".join(reversed(shared))


def counterpart(marker: str) -> str:
    """The closing tag of an opening one, as most families form it; "" if none comes to mind."""
    if marker.startswith(("</", "[/")) or "END" in marker:
        return ""
    if "START" in marker:
        return marker.replace("START", "END")
    if marker.startswith("["):
        return "[/" + marker[1:]
    return "</" + marker[1:] if re.fullmatch(r"<[\w:.-]+>", marker) else ""


def without_empty(text: str) -> str:
    """`text` without an empty pair of tags at its head, or the closing one of such a pair.

    Templates write `<think></think>` before an answer without thinking, or just `</think>`.
    """
    first, *more = markers(text) or [""]
    if not first or not text.lstrip().startswith(first):
        return text
    rest = text.lstrip().removeprefix(first)
    if more and more[0] == counterpart(first) and rest.lstrip().startswith(more[0]):
        return rest.lstrip().removeprefix(more[0])
    return rest if first.startswith("</") else text
