"""PDF files made by hand (ISO 32000-1): text, pictures, and what hostile ones do."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

Object = bytes


def pdf(*pages: str, password: bool = False) -> bytes:
    """A file with a line of text on each page; "" is a page with a grey box instead, as scans are."""
    contents = [_text(page) if page else b"0.5 g 100 100 400 500 re f" for page in pages]
    return made([_stream(content) for content in contents], encrypted=password)


def made(contents: Sequence[Object], *extra: Object, encrypted: bool = False) -> bytes:
    """A file whose pages have these content streams.

    `extra` are objects that pages may use, numbered from 4: /X4, /X5, … as forms.
    """
    first_page = 4 + len(extra)
    count = len(contents)
    kids = b" ".join(b"%d 0 R" % (first_page + 2 * i) for i in range(count))
    forms = b" ".join(b"/X%d %d 0 R" % (4 + i, 4 + i) for i in range(len(extra)))
    resources = b"<< /Font << /F1 3 0 R >> /XObject << %b >> >>" % forms
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%b] /Count %d /MediaBox [0 0 612 792] /Resources %b >>"
        % (kids, count, resources),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        *extra,
    ]
    for i, content in enumerate(contents):
        objects += [
            b"<< /Type /Page /Parent 2 0 R /Contents %d 0 R >>" % (first_page + 2 * i + 1),
            content,
        ]
    return _file(objects, encrypted=encrypted)


def nested(depth: int, width: int) -> bytes:
    """A page that draws a form `width` times, which draws another one as often, and so on."""
    forms = []
    for level in range(depth):
        below = _text("x") if level == depth - 1 else b"/X%d Do " % (5 + level) * width
        below_resources = b" ".join(b"/X%d %d 0 R" % (4 + i, 4 + i) for i in range(depth))
        head = (
            b"/Type /XObject /Subtype /Form /BBox [0 0 612 792] "
            b"/Resources << /Font << /F1 3 0 R >> /XObject << %b >> >>" % below_resources
        )
        forms.append(_stream(below, head))
    return made([_stream(b"/X4 Do")], *forms)


def unpacking(size: int) -> bytes:
    """A page whose content is `size` bytes of spaces, packed."""
    packer = zlib.compressobj()
    begin = packer.compress(b" ") + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers to what was before, so that the piece can be repeated.
    piece = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = begin + piece * (size >> 20) + packer.flush()
    return made([_raw_stream(packed, b"/Filter /FlateDecode")])


def _text(line: str) -> bytes:
    escaped = line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return b"BT /F1 12 Tf 72 700 Td (%b) Tj ET " % escaped.encode("latin-1")


def _stream(content: bytes, head: bytes = b"") -> Object:
    return _raw_stream(content, head)


def _raw_stream(data: bytes, head: bytes) -> Object:
    return b"<< %b /Length %d >>\nstream\n%b\nendstream" % (head, len(data), data)


def _file(objects: Sequence[Object], *, encrypted: bool) -> bytes:
    data, places = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    # Keys that no password fits: whoever opens it is asked for one.
    lock = b" /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%b> /U <%b> >> /ID [<00> <00>]" % (
        b"11" * 32,
        b"22" * 32,
    )
    return data + b"xref\n0 %d\n0000000000 65535 f \n%btrailer\n<< /Size %d /Root 1 0 R%b >>\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1, table, len(objects) + 1, lock if encrypted else b"", len(data),
    )  # fmt: skip
