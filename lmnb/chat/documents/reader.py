"""Reads documents: PDFs in a process that may die of them, texts here."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import OrderedDict

import msgspec

from lmnb.chat.confined import cause_of_death
from lmnb.chat.conversation import Document
from lmnb.chat.documents.job import Job, Outcome, PictureJob, Pictures, Refused, TextJob, Texts
from lmnb.errors import InvalidRequest, LmnbError, NotSupported

MOST_PICTURES = 20
"""Pages of a document that are shown as pictures."""
_COMMAND = (sys.executable, "-m", "lmnb.chat.documents.process")
_SECONDS = 60.0
"""Longest time by the clock. Computing is limited more tightly (`lmnb.chat.documents.process`)."""
_AT_ONCE = 2
_WHOLE_PAGES = 50_000
_WHOLE_CHARACTERS = 100_000_000
_REMEMBERED = 64 << 20
"""Bytes of texts and pictures: clients send a document again with every turn after it."""
_PDF_MARK = b"%PDF-"
_PDF_WITHIN = 1024
"""Bytes after which a PDF has begun; some have a few others in front."""


def is_pdf(document: Document) -> bool:
    """Whether its bytes are a PDF's, whatever kind it is said to be.

    A text may have the mark of PDFs in it: it may be about them.
    """
    if document.media_type == "application/pdf" or document.data.startswith(_PDF_MARK):
        return True
    is_text = document.media_type.startswith("text/")
    return not is_text and _PDF_MARK in document.data[:_PDF_WITHIN]


class Reader:
    """Remembers what it has read; at most two documents are read at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._known: OrderedDict[bytes, Texts | Pictures] = OrderedDict()
        self._size = 0

    async def text(self, document: Document) -> tuple[str, ...]:
        """Its text, page by page; "" for pages that have none. One page, if it is no PDF.

        Raises
        ------
        InvalidRequest
            It is damaged, protected or too large.
        NotSupported
            It is neither PDF nor text.
        """
        if not is_pdf(document):
            return (plain(document),)
        found = await self._read(TextJob(document.data), document)
        assert isinstance(found, Texts)
        return found.pages

    async def whole(self, data: bytes) -> tuple[str, ...]:
        """The text of a PDF that no model is to read at once, page by page.

        Raises
        ------
        InvalidRequest
            It is damaged, protected or too large.
        """
        job = TextJob(data, _WHOLE_PAGES, _WHOLE_CHARACTERS)
        async with self._turn:
            outcome = await _run(msgspec.msgpack.encode(job))
        if isinstance(outcome, Refused):
            raise InvalidRequest(f"The PDF cannot be read: {outcome.reason}.")
        assert isinstance(outcome, Texts)
        return outcome.pages

    async def pictures(self, document: Document, pages: tuple[int, ...]) -> tuple[bytes, ...]:
        """Pages of a PDF, counted from 0, as PNG files.

        Raises
        ------
        InvalidRequest
            They are too many, or take too much to draw.
        """
        if len(pages) > MOST_PICTURES:
            raise InvalidRequest(
                f"{name_of(document)} has {len(pages)} pages without text, of which at most "
                f"{MOST_PICTURES} can be shown to the model as pictures.",
                hint="Send fewer pages, or a PDF with text.",
                param="messages",
            )
        found = await self._read(PictureJob(document.data, pages), document)
        assert isinstance(found, Pictures)
        return found.pages

    async def _read(self, job: Job, document: Document) -> Texts | Pictures:
        request = msgspec.msgpack.encode(job)
        key = await asyncio.to_thread(lambda: hashlib.sha256(request).digest())
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return known
        async with self._turn:
            outcome = await _run(request)
        if isinstance(outcome, Refused):
            raise InvalidRequest(
                f"{name_of(document)} cannot be read: {outcome.reason}.",
                hint="Send its text, or another PDF.",
                param="messages",
            )
        self._remember(key, outcome)
        return outcome

    def _remember(self, key: bytes, outcome: Texts | Pictures) -> None:
        if key in self._known:  # two requests came with it at the same time
            return
        self._known[key] = outcome
        self._size += _size(outcome)
        while self._size > _REMEMBERED and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            self._size -= _size(oldest)


async def _run(request: bytes) -> Outcome:
    """The outcome of a job, in a process of its own that is killed when nobody waits any more."""
    process = await asyncio.create_subprocess_exec(
        *_COMMAND, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
    )
    try:
        async with asyncio.timeout(_SECONDS):
            answer, _ = await process.communicate(request)
    except TimeoutError:
        return Refused(f"it did not finish within {_SECONDS:.0f} seconds")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    if process.returncode == 0:
        outcome: Outcome = msgspec.msgpack.decode(answer, type=Outcome)
        return outcome
    if (cause := cause_of_death(process.returncode)) is not None:
        return Refused(cause)
    raise LmnbError("The process that reads documents ended unexpectedly.")


def plain(document: Document) -> str:
    """The text of a document that is text: UTF-8, or UTF-16 with a byte order mark.

    Raises
    ------
    NotSupported
        It is something else.
    """
    is_wide = document.data[:2] in {b"\xff\xfe", b"\xfe\xff"}
    try:
        text = document.data.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        kind = f" ({document.media_type})" if document.media_type else ""
        raise NotSupported(
            f"{name_of(document)}{kind} cannot be read: it is neither PDF nor text.",
            hint="Send its text, or a PDF.",
            param="messages",
        )
    return text.strip()


def name_of(document: Document) -> str:
    """What errors call it."""
    return f"The document {document.title!r}" if document.title else "The document"


def _size(outcome: Texts | Pictures) -> int:
    return sum(map(len, outcome.pages))
