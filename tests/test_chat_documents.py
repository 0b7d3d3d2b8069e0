"""Documents: what is read of them, what a model gets to see, and what hostile ones can do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from pdfs import nested, pdf, unpacking

from lmnb.chat.conversation import Document, Image, Message, Part, Request, Text, ToolResult
from lmnb.chat.documents import reader as reading
from lmnb.chat.documents.job import MOST_PAGES
from lmnb.chat.documents.reader import MOST_PICTURES, Reader
from lmnb.chat.documents.showing import check, shown
from lmnb.errors import InvalidRequest, LmnbError, NotSupported

PDF = "application/pdf"
PNG = b"\x89PNG\r\n\x1a\n"

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def text(data: bytes, media_type: str = PDF, title: str | None = None) -> tuple[str, ...]:
    return run(Reader().text(Document(data, media_type, title)))


def seen(*parts: Part, sees: bool = False) -> tuple[Part, ...]:
    request = Request(model="m", messages=(Message("user", parts),))
    return run(shown(request, Reader(), sees=sees)).messages[0].parts


# --- reading --------------------------------------------------------------------------


def test_pages() -> None:
    assert text(pdf("One (1)", "", "Three")) == ("One (1)", "", "Three")


def test_pdfs_are_known_by_their_bytes() -> None:
    assert text(b"\n" + pdf("One"), "application/octet-stream") == ("One",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts(encoding: str) -> None:
    assert text("Grüße, 𝄞\n".encode(encoding), "text/csv") == ("Grüße, 𝄞",)


@pytest.mark.parametrize(
    ("data", "media_type", "words"),
    [
        (b"PK\x03\x04\x00", "application/zip", r"'x' \(application/zip\) cannot be read: .* nor text"),
        (b"\xff\xd8\xff", "", "'x' cannot be read: it is neither PDF nor text"),
        (b"", PDF, "it is damaged, or no PDF"),
        (pdf("One")[:100], PDF, "it is damaged, or no PDF"),
        (pdf("One", password=True), PDF, "protected by a password"),
        (pdf(*["x"] * (MOST_PAGES + 1)), PDF, f"it has {MOST_PAGES + 1} pages"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(data: bytes, media_type: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        text(data, media_type, "x")
    assert caught.value.hint


def test_texts_about_pdfs_are_texts() -> None:
    source = 'MARK = b"%PDF-"'
    assert text(source.encode(), "text/x-python") == (source,)
    assert text(pdf("One"), "text/plain") == ("One",)


def test_a_document_that_comes_twice_at_once_is_remembered_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else what is remembered seemed larger each time, until there was room for nothing else."""
    monkeypatch.setattr(reading, "_REMEMBERED", 10)
    reader = Reader()
    two = [Document(pdf(words), PDF) for words in ("Three", "Four")]

    async def at_once() -> None:
        for document in two:
            await asyncio.gather(reader.text(document), reader.text(document))

    run(at_once())
    monkeypatch.setattr(reading, "_COMMAND", ("false",))
    assert [run(reader.text(document)) for document in two] == [("Three",), ("Four",)]


def test_a_document_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []
    real = reading._run

    async def counting(request: bytes) -> Any:
        jobs.append(request)
        return await real(request)

    monkeypatch.setattr(reading, "_run", counting)

    async def twice() -> None:
        reader = Reader()
        for _ in range(2):
            assert await reader.text(Document(pdf("One"), PDF)) == ("One",)
        monkeypatch.setattr(reading, "_REMEMBERED", 1)
        await reader.text(Document(pdf("Two"), PDF))
        await reader.text(Document(pdf("One"), PDF))

    run(twice())
    assert len(jobs) == 3


# --- hostile ones ------------------------------------------------------------------------


@pytest.mark.parametrize("data", [unpacking(2 << 30), nested(6, 100)], ids=["unpacking", "nested"])
def test_a_document_that_grows_ends_its_reader_and_nothing_else(data: bytes) -> None:
    assert len(data) < 10_000_000
    with pytest.raises(InvalidRequest, match=r"it (crashed|takes too much)"):
        text(data)


def test_a_document_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_SECONDS", 0.01)
    with pytest.raises(InvalidRequest, match="did not finish within"):
        text(pdf("One"))


def test_a_reader_that_was_killed_is_nobodys_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_COMMAND", ("sh", "-c", "kill -9 $$"))
    with pytest.raises(LmnbError, match="ended unexpectedly") as caught:
        text(pdf("One"))
    assert caught.value.status == 500


# --- showing ------------------------------------------------------------------------------


def test_a_model_sees_title_context_and_pages() -> None:
    document = Document(pdf("First.", "", "Third."), PDF, "minutes.pdf", "Of June.")
    [part] = seen(Text("Read:"), document, Text("And?"))
    assert part == Text(
        "Read:\n<document>\nTitle: minutes.pdf\nContext: Of June.\n\n"
        "[Page 1]\nFirst.\n\n[Page 2]\n[no text on this page]\n\n[Page 3]\nThird.\n"
        "</document>\nAnd?"
    )


def test_a_text_has_no_pages() -> None:
    assert seen(Document(b"a,b\n1,2\n", "text/csv")) == (Text("<document>\na,b\n1,2\n</document>"),)


def test_documents_in_results() -> None:
    [result] = seen(ToolResult("1", (Document(b"Words", "text/plain"),), is_error=True))
    assert result == ToolResult("1", (Text("<document>\nWords\n</document>"),), is_error=True)


def test_pages_without_text_are_pictures_for_a_model_that_sees() -> None:
    head, picture, tail = seen(Document(pdf("", "Two"), PDF), sees=True)
    assert head == Text("<document>\n[Page 1]\n")
    assert isinstance(picture, Image)
    assert picture.data.startswith(PNG)
    assert tail == Text("\n\n[Page 2]\nTwo\n</document>")


def test_scans_and_a_model_that_does_not_see() -> None:
    with pytest.raises(NotSupported, match="'scan' has no text: its pages are pictures"):
        seen(Document(pdf("", ""), PDF, "scan"))
    with pytest.raises(InvalidRequest, match=f"at most {MOST_PICTURES} can be shown"):
        seen(Document(pdf(*[""] * (MOST_PICTURES + 1)), PDF), sees=True)
    pages = seen(Document(pdf("Text", *[""] * (MOST_PICTURES + 1)), PDF), sees=True)
    assert sum(isinstance(part, Image) for part in pages) == MOST_PICTURES


def test_everything_else_stays_as_it_is() -> None:
    parts = (Text("A"), Text("B"), Image(b"x", "image/png"))
    assert seen(*parts) == parts


def test_damaged_documents_are_found_before_a_model_is_loaded() -> None:
    request = Request(model="m", messages=(Message("user", (Document(b"%PDF-", PDF),)),))
    with pytest.raises(InvalidRequest, match="damaged"):
        run(check(request, Reader()))
