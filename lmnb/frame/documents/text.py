"""Plain text, HTML and notebooks."""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Iterator
from typing import Any, TypeGuard

from lmnb.frame.documents.page import Page, Unreadable

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNSEEN = ("script", "style", "template", "noscript", "svg")
_BLOCKS = (
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "caption",
    "dd",
    "details",
    "dialog",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "legend",
    "li",
    "main",
    "nav",
    "ol",
    "option",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "title",
    "tr",
    "ul",
)
_CELLS = ("td", "th")
_SPACES = re.compile(r"[^\S\n]+")
_AROUND_LINES = re.compile(r" *\n *")
_EMPTY_LINES = re.compile(r"\n{3,}")


def plain(data: bytes) -> Iterator[Page]:
    """Text as it is: UTF-8, or UTF-16 with its mark."""
    yield Page(decoded(data))


def decoded(data: bytes) -> str:
    """The text of some bytes.

    Raises
    ------
    Unreadable
        They are no text, or in another encoding.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data:
        raise Unreadable("it is no text")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"it is not in UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); save it so"
        ) from None


def html(data: bytes) -> Iterator[Page]:
    """What a browser would show: a line for each block, the title first."""
    from bs4 import BeautifulSoup
    from bs4.dammit import EncodingDetector
    from bs4.element import NavigableString

    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    words = data.decode(declared, "replace") if _is_known(declared) else decoded(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about files that look like XML, or like a file's name
        soup = BeautifulSoup(words, "html.parser")
    for tag in soup(_UNSEEN):
        tag.decompose()
    for string in list(soup.find_all(string=True)):
        if string.find_parent("pre") is None:
            string.replace_with(type(string)(re.sub(r"\s+", " ", string)))
    for tag in soup("br"):
        tag.replace_with("\n")
    for tag in soup(_BLOCKS):
        tag.insert_before(NavigableString("\n"))
        tag.append(NavigableString("\n"))
    for tag in soup(_CELLS):
        tag.append(NavigableString(" "))
    text = _AROUND_LINES.sub("\n", _SPACES.sub(" ", soup.get_text()))
    yield Page(_EMPTY_LINES.sub("\n\n", text).strip())


def _is_known(encoding: str | None) -> TypeGuard[str]:
    try:
        return encoding is not None and bool(codecs.lookup(encoding))
    except LookupError:
        return False


def notebook(data: bytes) -> Iterator[Page]:
    """Words and code of a Jupyter notebook, without outputs; code is fenced."""
    import nbformat

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old notebooks have cells without ids
        read: Any = nbformat.reads
        cells = read(decoded(data), as_version=4).cells
    parts = [
        f"```\n{cell.source}\n```" if cell.cell_type == "code" else cell.source
        for cell in cells
        if cell.source.strip()
    ]
    yield Page("\n\n".join(parts))
