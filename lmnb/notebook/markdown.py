"""Markdown of a model, made fit for a notebook: while it is half-written, and for math.

`balance` makes each intermediate text of a stream well-formed, so that what is shown only
grows and never flips between two readings. `for_jupyter` gives dollars and TeX brackets the
meaning Jupyter's math renderer expects. Both are pure functions, and neither touches code.
"""

from __future__ import annotations

import re
from typing import NamedTuple

CURSOR = "▌"

_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_OPENING = re.compile(
    r"(?P<prefix>(?:[ \t>]|[-*+][ \t]|\d{1,9}[.)][ \t])*)(?P<mark>`{3,}|~{3,})(?P<info>[^\n]*)"
)
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_OPEN_SPAN = re.compile(r"(?<!`)`{1,2}(?!`)")
_TABLE_ROW = re.compile(r"[ \t>]*\|")
_OPEN_LINK = re.compile(r"!?\[[^\[\]\n]{0,200}(?:\]|\]\([^()\n]{0,2000})?\Z")
_HALF_MARK = re.compile(r"[ \t>]*(`{1,2}|~{1,2}|[-*_=]+|\+|#{1,6}|\d{1,9}[.)])[ \t]*\Z")
_HALF_TOKEN = re.compile(r"(?<![*$\\])[*$\\]\Z")
_NEEDS_GAP = re.compile(r"[ \t>]*(\||[-*_=`~]{3,}[ \t]*\Z)|.*\$\$[ \t]*\Z")
_MATH = re.compile(r"\\?\$\$|\\[\[\]()]")
_PARTNER = {"$$": "$$", r"\[": r"\]", r"\(": r"\)"}
_LONGEST_FORMULA = 2000


class _Fence(NamedTuple):
    prefix: str
    mark: str

    def closed_by(self, line: str) -> bool:
        bare = line.strip(" \t>\n")
        return len(bare) >= len(self.mark) and set(bare) == {self.mark[0]}

    def closing(self) -> str:
        return re.sub(r"[^ \t>]", " ", self.prefix) + self.mark


class _Block(NamedTuple):
    """A stretch of whole lines: a fenced code block (with its fences), or text."""

    text: str
    fenced: bool


def balance(text: str, cursor: str = "") -> str:
    """The part of a half-written Markdown text that can be shown, made well-formed.

    Open code fences, code spans and bold are closed. Held back until they are complete: table
    rows, a table's head without its ruler, links, formulas, and marks at the start of a line
    that have no text yet. `cursor` is put at the end, outside of code.
    """
    blocks, fence = _blocks(text)
    if fence is not None:
        shown = _close_fence(text, blocks[-1].text, fence)
    elif not blocks or blocks[-1].fenced:
        shown = text
    else:
        head, tail = _split_last_paragraph(text, len(blocks[-1].text))
        tail, closers = _close_spans(_hold_table(tail))
        # What is left out or closed may, rarely, make a fence of what was none.
        shown = closed(head + (tail.rstrip() + closers if closers else _hold_mark(tail)))
    return _with_cursor(shown, cursor) if cursor else shown


def closed(text: str) -> str:
    """A text that ends here, with a code fence that was left open closed."""
    blocks, fence = _blocks(text)
    return text if fence is None else _close_fence(text, blocks[-1].text, fence)


def fences(text: str) -> list[tuple[int, int]]:
    """Where its fenced code blocks begin and end."""
    found: list[tuple[int, int]] = []
    at = 0
    for block in _blocks(text)[0]:
        end = at + len(block.text)
        if block.fenced:
            found.append((at, end))
        at = end
    return found


def for_jupyter(text: str) -> str:
    r"""The same Markdown for Jupyter's renderers, which read every `$…$` as math.

    `\(…\)` becomes `$…$` and `\[…\]` becomes `$$…$$`; a `$` that is money is hidden from MathJax,
    unless it is the only one. A pair of dollars is math if there is no space just inside it and
    no digit after it, as in pandoc.
    """
    if text.count("$") < 2 and "\\(" not in text and "\\[" not in text:
        return text
    blocks, _ = _blocks(text)
    return "".join(b.text if b.fenced else _outside_spans(b.text) for b in blocks)


def _blocks(text: str) -> tuple[list[_Block], _Fence | None]:
    """The text cut into fenced and other stretches, and the fence that is open at its end."""
    blocks: list[_Block] = []
    lines: list[str] = []
    fence: _Fence | None = None

    def finish(*, fenced: bool) -> None:
        if lines:
            blocks.append(_Block("".join(lines), fenced))
            lines.clear()

    for line in _LINES.findall(text):
        if fence is not None:
            lines.append(line)
            if fence.closed_by(line):
                finish(fenced=True)
                fence = None
        elif (match := _OPENING.match(line)) and not (
            match["mark"][0] == "`" and "`" in match["info"]
        ):
            finish(fenced=False)
            fence = _Fence(match["prefix"], match["mark"])
            lines.append(line)
        else:
            lines.append(line)
    finish(fenced=fence is not None)
    return blocks, fence


def _close_fence(text: str, block: str, fence: _Fence) -> str:
    """`text`, which ends in `block`, with its fence closed, also if the closing one is half there."""
    last = block.rpartition("\n")[2] if "\n" in block else ""
    bare = last.strip(" \t>")
    if bare and set(bare) == {fence.mark[0]}:
        text = text[: -len(last)]
    return text.removesuffix("\n") + f"\n{fence.closing()}"


def _with_cursor(shown: str, cursor: str) -> str:
    shown = shown.rstrip()
    # Right below a table or a fence the cursor would become part of it.
    gap = "\n\n" if _NEEDS_GAP.match(shown.rpartition("\n")[2]) else ""
    return shown + gap + cursor


def _split_last_paragraph(text: str, last_block: int) -> tuple[str, str]:
    start = max(len(text) - last_block, text.rfind("\n\n") + 2 if "\n\n" in text else 0)
    return text[:start], text[start:]


def _hold_table(tail: str) -> str:
    """Leave out a row that is being written, and a head that has no ruler below it yet."""
    lines: list[str] = _LINES.findall(tail)
    if lines and not lines[-1].endswith("\n"):
        if not _TABLE_ROW.match(lines[-1]):
            return tail
        lines.pop()
    if lines and _TABLE_ROW.match(lines[-1]):
        first = len(lines) - 1
        while first > 0 and _TABLE_ROW.match(lines[first - 1]):
            first -= 1
        if first == len(lines) - 1:
            lines.pop()
    return "".join(lines)


def _hold_mark(tail: str) -> str:
    """Leave out a last line that is only the beginning of a list item, heading, fence or rule."""
    body, newline, last = tail.rpartition("\n")
    return body + newline if _HALF_MARK.fullmatch(last) else tail


def _close_spans(tail: str) -> tuple[str, str]:
    """What of the paragraph can be shown, and what closes its open code span and bold."""
    masked = _CODE_SPAN.sub(lambda m: "x" * len(m[0]), tail)
    code = _OPEN_SPAN.search(masked)
    plain = masked[: code.start()] if code else masked
    end = _open_formula(plain)
    if end is None and code:
        if tail[code.end() :].strip():
            return tail, "" if tail.endswith("`") else code[0] + _bold(plain)[1]
        end = code.start()
    elif end is None:
        half = _OPEN_LINK.search(masked) or _HALF_TOKEN.search(masked)
        end = half.start() if half else len(tail)
    kept, closers = _bold(masked[:end])
    return tail[:kept], closers


def _bold(masked: str) -> tuple[int, str]:
    """How much of the text can be shown, and what closes its bold. Code spans are masked."""
    bare = masked.rstrip()
    if masked.count("**") % 2 == 0:
        return len(masked), ""
    return (len(bare) - 2, "") if bare.endswith("**") else (len(masked), "**")


def _open_formula(text: str) -> int | None:
    """Where a formula begins that is not closed yet, unless it is too long to be one."""
    start, partner = 0, ""
    for match in _MATH.finditer(text):
        if partner:
            partner = "" if match[0] == partner else partner
        else:
            start, partner = match.start(), _PARTNER.get(match[0], "")
    return start if partner and len(text) - start <= _LONGEST_FORMULA else None


def _outside_spans(text: str) -> str:
    parts: list[str] = []
    end = 0
    for match in _CODE_SPAN.finditer(text):
        parts += [_dollars(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, _dollars(text[end:])])


FORMULA = re.compile(
    r"\\\((?P<inline>.+?)\\\)|\\\[(?P<block>.+?)\\\]"
    r"|(?P<math>\$\$.+?\$\$|(?<![\\$])\$(?=[^\s$])[^$\n]*?(?<![\s\\])\$(?![\d$]))"
    r"|(?P<escaped>\\\$)|(?P<money>\$)",
    re.DOTALL,
)


# MathJax looks for dollars in the finished page, where an entity or a backslash has become one
# again; in an element of this class it does not look. Other renderers see an entity, no formula.
MONEY = '<span class="mathjax_ignore tex2jax_ignore">&#36;</span>'


def _dollars(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        if match["inline"]:
            return f"${match['inline'].strip()}$"
        if match["block"]:
            return f"$${match['block']}$$"
        return match["math"] or MONEY

    return FORMULA.sub(replace, text)
