"""Keeping people's words apart from control tokens while a template works on them.

A template pastes the contents of messages between control tokens, and the tokenizer would read
`<|im_end|>` in a content as the real thing. The worker can tokenize a stretch of the prompt as
plain text, if it is told where that stretch is; but templates strip, split, slice and compare
contents, so a mark put around a content is lost or disturbs them.

Therefore single characters are marked, and only where they matter: in a content that has brackets
or bars at all, every word (a run without white space or quotes) with one of them is written with
private-use characters in place of its own, one for one. Lengths, white space and all other words
stay as they are for the template to work on; what JSON escapes stays too, so that `tojson` finds it.
Contents without brackets and bars, which is most of them, are not touched. No such character gets
into the prompt unmarked, whatever the template does, so no control token can be made of people's
words. Afterwards the characters are put back, and the whole content around them, if it is found in
the output as it was given (less white space at its ends), is cut out as plain text: a tokenizer
should see a content in one piece. Otherwise just the marked words are, with quotes between them:
Gemma's `<|"|>` is a control token.

What a tool is given as arguments, and what describes it, are values: strings in them are marked, keys
too, however deep. Templates print such values as JSON or as Python writes them, so these strings
know how to be quoted with their marks on (`Words`).

Models' own `<think>` and `</think>` are left readable in what the assistant said: templates look
for them there, to leave earlier thinking out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lmnb.engine.options import Segment

_BASE = 0xF0000  # plane 15, private use: U+F0000 + code point
_LAST = 0xFFFD
_MARKED = re.compile("[\U000f0000-\U000ffffd]+")
_WORDS = re.compile("[\U000f0000-\U000ffffd]+(?:[\"'\\\\]+[\U000f0000-\U000ffffd]+)*")
_SUSPECT = re.compile(r"[<>\[\]{}|｜▁]")
_WORD = re.compile(r"[^\x00-\x1f\s'\"\\]+")
_THINK = re.compile(r"(</?think>)")
_ESCAPED = re.compile(r"\\(?:U(000f[0-9a-f]{4})|.)")
_NEVER = re.compile("[\ud800-\udfff\U000f0000-\U000ffffd]")
"""Halves of characters, which JSON can write, and what looks like marks already."""
_REPLACEMENT = "\ufffd"


class _Shift(dict[int, int]):
    """A table for `str.translate` that moves code points by `offset`; filled as they are met."""

    def __init__(self, offset: int) -> None:
        super().__init__()
        self._offset = offset

    def __missing__(self, code: int) -> int:
        moved = self[code] = code if self._offset > 0 and code > _LAST else code + self._offset
        return moved


_TO_PRIVATE = _Shift(_BASE)
_FROM_PRIVATE = _Shift(-_BASE)


class Words(str):
    """People's words inside a value. Where Python escapes what it cannot print, marks stay."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _ESCAPED.sub(_unescape, super().__repr__())


def _unescape(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else found[0]


def mark(text: str, *, keep_think: bool = False) -> str:
    """`text` with every suspect word in private-use characters; of the same length."""
    text = _NEVER.sub(_REPLACEMENT, text)
    if not _SUSPECT.search(text):
        return text
    if not keep_think:
        return _WORD.sub(_mark_word, text)
    pieces = _THINK.split(text)
    pieces[::2] = [_WORD.sub(_mark_word, piece) for piece in pieces[::2]]
    return "".join(pieces)


def _mark_word(found: re.Match[str]) -> str:
    word = found[0]
    return word.translate(_TO_PRIVATE) if _SUSPECT.search(word) else word


def mark_values(value: Any) -> Any:
    """A copy of a JSON value whose strings and keys are marked."""
    return _with_words(value, mark)


def read_marked(text: str) -> Any:
    """The value of JSON text that `mark_json` has marked.

    Raises
    ------
    ValueError, RecursionError
        It is none.
    """
    return _with_words(json.loads(text), str)


def _with_words(value: Any, words: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return Words(words(value))
    if isinstance(value, dict):
        return {Words(words(str(key))): _with_words(item, words) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_words(item, words) for item in value]
    return value


def mark_json(text: str) -> str:
    r"""JSON text with its strings marked; text that is no JSON is marked as a whole.

    Escapes are resolved first: `\u003c` is `<` to a template that reads the text.
    """
    try:
        return json.dumps(mark_values(json.loads(text)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return mark(text)


def unmark(text: str) -> str:
    """The text as it was before `mark`."""
    return _MARKED.sub(lambda found: found[0].translate(_FROM_PRIVATE), text)


def cut(output: str, contents: Iterable[str]) -> tuple[Segment, ...]:
    """Cut a template's output into control text and people's words.

    `contents` are the marked contents in the order of the conversation.
    """
    segments: list[Segment] = []
    position = 0
    for start, end in _regions(output, contents):
        if start > position:
            segments.append(Segment(output[position:start], special=True))
        segments.append(Segment(unmark(output[start:end])))
        position = end
    if position < len(output):
        segments.append(Segment(output[position:], special=True))
    return tuple(segments)


def _regions(output: str, contents: Iterable[str]) -> list[tuple[int, int]]:
    """Where people's words with marks stand, in order. Those that touch are one."""
    found = sorted([*_wholes(output, contents), *(m.span() for m in _WORDS.finditer(output))])
    regions: list[tuple[int, int]] = []
    for start, end in found:
        if regions and start <= regions[-1][1]:
            regions[-1] = (regions[-1][0], max(end, regions[-1][1]))
        else:
            regions.append((start, end))
    return regions


def _wholes(output: str, contents: Iterable[str]) -> Iterator[tuple[int, int]]:
    position = 0
    for content in contents:
        text = content.strip()
        if not _MARKED.search(text) or _THINK.search(text):
            continue
        start = output.find(text, position)
        if start < 0:  # the template changed it, or the order
            start = output.find(text)
        if start >= 0:
            yield start, start + len(text)
            position = max(position, start + len(text))
