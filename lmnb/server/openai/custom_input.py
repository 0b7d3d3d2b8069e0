"""The input of a custom tool, read out of the arguments `{"input": "…"}` while they arrive."""

from __future__ import annotations

import json
import re
from typing import Any

_BEGIN = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_WHOLE = re.compile(
    r'(?:[^"\\]|\\[^u]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})*"
)
"""Characters that are all there: no half escape, no half of a surrogate pair."""


class CustomInput:
    """Reads one call's arguments."""

    def __init__(self) -> None:
        self._json = ""
        self._at = -1
        """Where the undecoded rest of the input begins; -1 as long as nothing of it was seen."""
        self._sent: list[str] = []

    def feed(self, piece: str) -> str:
        """What `piece` adds to the input."""
        self._json += piece
        if self._at < 0:
            begin = _BEGIN.match(self._json)
            if begin is None:
                return ""
            self._at = begin.end()
        whole = _WHOLE.match(self._json, self._at)
        assert whole is not None  # it matches nothing, too
        self._at = whole.end()
        text = _clean(json.loads(f'"{whole[0]}"', strict=False))
        self._sent.append(text)
        return text

    def finish(self) -> str:
        """What is left when the arguments have ended.

        A model may write other arguments than it was told: then all of them are the input, or the
        text, where they have one value only.
        """
        sent = "".join(self._sent)
        text = _clean(_input(self._json))
        self._json = ""
        return text.removeprefix(sent) if text.startswith(sent) else ""


def _input(arguments: str) -> str:
    try:
        data: Any = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):  # it was cut, or is nested beyond reason
        return ""
    if isinstance(data, dict):
        if isinstance(data.get("input"), str):
            return str(data["input"])
        values = list(data.values())
        if len(values) == 1 and isinstance(values[0], str):
            return values[0]
    return data if isinstance(data, str) else arguments


def _clean(text: str) -> str:
    """Without lone surrogates, which JSON can write and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def custom_input(arguments: str) -> str:
    """The input of a call whose arguments are all there, or as much as there will be."""
    reader = CustomInput()
    return reader.feed(arguments) + reader.finish()
