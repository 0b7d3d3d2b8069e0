"""Text and pictures of a PDF's pages, by PDFium. Only for the process that may die of it."""

from __future__ import annotations

import re
import struct
import zlib

import pypdfium2 as pdfium

from lmnb.chat.documents.job import (
    LONGEST_SIDE,
    MOST_PAGES,
    Job,
    Outcome,
    Pictures,
    Refused,
    TextJob,
    Texts,
)

_MOST_ENLARGED = 3.0
"""Pixels per point at most; 72 points are an inch."""

_HYPHEN = re.compile("[\x02\ufffe]\n?")
"""A word is broken here at a line's end, says PDFium."""
_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")


def run(job: Job) -> Outcome:
    """Do one job. What the file does to this process is not caught here."""
    try:
        document = pdfium.PdfDocument(job.data)
        document.init_forms()  # before anything else, or what is filled in is neither read nor drawn
        count = len(document)
    except pdfium.PdfiumError as error:
        return Refused(_reason(str(error)))
    most = job.most_pages if isinstance(job, TextJob) else MOST_PAGES
    if count > most:
        return Refused(f"it has {count} pages, of which at most {most} are read")
    if isinstance(job, TextJob):
        return _texts(document, job.most_characters)
    return Pictures(tuple(_picture(document[number]) for number in job.pages))


def _reason(error: str) -> str:
    """PDFium's words for why a file cannot be opened, in ours."""
    if "assword" in error:
        return "it is protected by a password"
    return "it is damaged, or no PDF"


def _texts(document: pdfium.PdfDocument, most: int) -> Texts | Refused:
    texts: list[str] = []
    left = most
    for number in range(len(document)):
        texts.append(_text(document, number))
        left -= len(texts[-1])
        if left < 0:
            return Refused(f"it has more than {most:,} characters of text")
    return Texts(tuple(texts))


def _text(document: pdfium.PdfDocument, number: int) -> str:
    """A page's text, what has been filled into its form included."""
    try:
        page = document[number]
        if page.formenv:
            page.flatten()
            page.close()
        text: str = document[number].get_textpage().get_text_bounded()
    except pdfium.PdfiumError:
        return ""  # as most viewers do: the other pages are there
    text = _HYPHEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _ODD.sub("", text).strip()


def _picture(page: pdfium.PdfPage) -> bytes:
    """A page as a PNG file."""
    longer = max(*page.get_size(), 1.0)
    scale = min(LONGEST_SIDE / longer, _MOST_ENLARGED)
    bitmap = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False, maybe_alpha=False)
    rows = memoryview(bitmap.buffer).cast("B")
    width, stride = bitmap.width * bitmap.n_channels, bitmap.stride
    lines = (rows[row * stride : row * stride + width] for row in range(bitmap.height))
    return _png(bitmap.width, bitmap.height, b"".join(b"\0" + bytes(line) for line in lines))


def _png(width: int, height: int, lines: bytes) -> bytes:
    """PNG (RFC 2083): 8 bits for each of red, green and blue; every line begins with filter 0."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
