"""Word, PowerPoint and Excel files: slides and sheets are pages. The extra `lmnb[docs]` reads them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from lmnb.frame.documents.page import Page


def word(data: bytes) -> Iterator[Page]:
    """The paragraphs and tables of a document, in their order."""
    from docx import Document
    from docx.table import Table

    parts = [
        _table([cell.text for cell in row.cells] for row in part.rows)
        if isinstance(part, Table)
        else part.text
        for part in Document(io.BytesIO(data)).iter_inner_content()
    ]
    yield Page("\n\n".join(part for part in parts if part.strip()))


def slides(data: bytes) -> Iterator[Page]:
    """The words on each slide, and the notes below it."""
    from pptx import Presentation

    for number, slide in enumerate(Presentation(io.BytesIO(data)).slides, 1):
        parts = list(_words(slide.shapes))
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            parts.append(slide.notes_slide.notes_text_frame.text)
        yield Page("\n\n".join(part for part in parts if part.strip()), number)


def _words(shapes: Iterable[Any]) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _words(shape.shapes)
        elif shape.has_text_frame:
            yield shape.text_frame.text
        elif shape.has_table:
            yield _table([cell.text for cell in row.cells] for row in shape.table.rows)


def sheets(data: bytes) -> Iterator[Page]:
    """The values of each sheet as lines, below its name."""
    from openpyxl import load_workbook

    book = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    try:
        for number, sheet in enumerate(book.worksheets, 1):
            rows = sheet.iter_rows(values_only=True)
            values = (["" if value is None else str(value) for value in row] for row in rows)
            yield Page(f"{sheet.title}\n\n{_table(values)}", number)
    finally:
        book.close()


def _table(rows: Iterable[list[str]]) -> str:
    return "\n".join(" | ".join(row) for row in rows if any(value.strip() for value in row))
