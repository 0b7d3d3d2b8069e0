"""The code in an answer, and code for a question: blocks between fences."""

from __future__ import annotations

import re

_BLOCK = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)"
    r"(?:^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_OURS = {"", "python", "py", "python3", "ipython"}


def code_of(text: str) -> str:
    """The blocks in Python's or no language, else all, below each other; empty if there are none.

    A block that was cut ends with the text.
    """
    blocks = [(found["language"].lower(), found["code"]) for found in _BLOCK.finditer(text)]
    ours = [code for language, code in blocks if language in _OURS]
    chosen = ours or [code for _, code in blocks]
    return "\n\n".join(code.rstrip() for code in chosen if code.strip())


def fenced(text: str, language: str = "") -> str:
    """`text` as a block, whatever fences it has itself."""
    longest = max((len(found) for found in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
