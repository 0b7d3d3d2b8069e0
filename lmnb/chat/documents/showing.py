"""Documents of a conversation as the text and the pictures that are in them.

A model is told where a document begins and ends, its title, what is said about it, and its pages:

    <document>
    Title: minutes.pdf
    Context: The meeting of June.

    [Page 1]
    …
    </document>
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from lmnb.chat.conversation import Document, Image, Message, Part, Request, Text, ToolResult
from lmnb.chat.documents.reader import MOST_PICTURES, Reader, is_pdf, name_of
from lmnb.chat.joining import join
from lmnb.errors import NotSupported

NO_TEXT = "[no text on this page]"


async def check(request: Request, reader: Reader) -> None:
    """Read the documents of `request`, so that what is wrong with one is told before all else.

    Raises
    ------
    InvalidRequest, NotSupported
        One cannot be read.
    """
    for document in _documents(request.messages):
        await reader.text(document)


async def shown(request: Request, reader: Reader, *, sees: bool) -> Request:
    """`request` with text in the places of its documents; `sees`: the model can read pictures.

    Pages without text become pictures for a model that sees.

    Raises
    ------
    InvalidRequest, NotSupported
        One cannot be read; none of its pages has text, and the model does not see.
    """
    if not any(_documents(request.messages)):
        return request
    messages = [
        msgspec.structs.replace(message, parts=await _parts(message.parts, reader, sees=sees))
        for message in request.messages
    ]
    return msgspec.structs.replace(request, messages=tuple(messages))


def frame(inside: Iterable[Part], title: str | None, context: str | None) -> list[Part]:
    """The parts of a document, from its beginning to its end."""
    about = {"Title": title, "Context": context}
    lines = [f"{name}: {value}" for name, value in about.items() if value]
    head = "\n".join(["<document>", *lines, *([""] if lines else [])])
    return joined([Text(f"{head}\n"), *inside, Text("\n</document>")])


def joined(parts: Iterable[Part]) -> list[Part]:
    """The parts, neighbouring texts as one, kept apart by a line break."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and found and isinstance(last := found[-1], Text):
            found[-1] = Text(join((last.text, part.text)))
        else:
            found.append(part)
    return found


def _documents(messages: Sequence[Message]) -> Iterable[Document]:
    for message in messages:
        for part in message.parts:
            inner: Iterable[Part] = part.parts if isinstance(part, ToolResult) else (part,)
            yield from (one for one in inner if isinstance(one, Document))


async def _parts(parts: Sequence[Part], reader: Reader, *, sees: bool) -> tuple[Part, ...]:
    found: list[Part] = []
    has_document = False
    for part in parts:
        if isinstance(part, Document):
            has_document = True
            pages = await _pages(part, reader, sees=sees)
            found.extend(frame(pages, part.title, part.context))
        elif isinstance(part, ToolResult):
            inner = await _parts(part.parts, reader, sees=sees)
            found.append(msgspec.structs.replace(part, parts=inner))
        else:
            found.append(part)
    return tuple(joined(found) if has_document else found)


async def _pages(document: Document, reader: Reader, *, sees: bool) -> list[Part]:
    texts = await reader.text(document)
    if not is_pdf(document):
        return [Text(texts[0])]
    blank = tuple(number for number, text in enumerate(texts) if not text)
    if len(blank) == len(texts) and not sees:
        raise NotSupported(
            f"{name_of(document)} has no text: its pages are pictures, which this model cannot see.",
            hint="Send a PDF with text, or use a model that reads images.",
            param="messages",
        )
    if len(blank) < len(texts):
        blank = blank[:MOST_PICTURES]  # the rest may as well be empty
    drawn: dict[int, bytes] = {}
    if blank and sees:
        drawn = dict(zip(blank, await reader.pictures(document, blank), strict=True))
    found: list[Part] = []
    for number, text in enumerate(texts):
        gap = "\n\n" if number else ""
        found.append(Text(f"{gap}[Page {number + 1}]\n"))
        if number in drawn:
            found.append(Image(drawn[number], "image/png"))
        else:
            found.append(Text(text or NO_TEXT))
    return found
