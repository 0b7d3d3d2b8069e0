"""Forms with a file (multipart/form-data, RFC 7578): the file goes to disk as it comes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from lmnb.errors import Cancelled, InvalidRequest
from lmnb.server.compression import UnsupportedEncoding, encoding_of
from lmnb.server.errors import MissingParameter, PayloadTooLarge
from lmnb.server.files import Draft

MAX_FILE = 512 * 1024 * 1024
"""Bytes of a file; what OpenAI allows."""
_MAX_FIELDS = 1 << 16
"""Bytes of all fields that are not the file, their names included."""


@dataclass
class Form:
    """A form: its fields, and the name of the file that came with it."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def read_upload(request: Request, draft: Draft) -> Form:
    """Read a form whose field `file` is written to `draft`.

    Raises
    ------
    InvalidRequest
        The body is no form.
    UnsupportedEncoding
        It is compressed.
    MissingParameter
        It has no `file`.
    PayloadTooLarge
        The file is larger than `MAX_FILE`; the rest is not read.
    DiskFull
        There is no room for it.
    """
    if encoding := encoding_of(request.headers.get("content-encoding")):
        raise UnsupportedEncoding(
            f"Uploads compressed with {encoding} are not supported.", hint="Send the file as it is."
        )
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest("The body must be a form (multipart/form-data) with a 'file'.")
    reader = _Reader(options[b"boundary"])
    try:
        async for data in request.stream():
            if content := reader.feed(data):
                if draft.size + len(content) > MAX_FILE:
                    raise PayloadTooLarge(
                        f"The file is larger than {MAX_FILE >> 20} MiB.", param="file"
                    )
                await asyncio.to_thread(draft.write, content)
    except ClientDisconnect:
        raise Cancelled("The client closed the connection.") from None
    return reader.finish()


class _Reader:
    """Takes a form apart."""

    def __init__(self, boundary: bytes) -> None:
        self._form = Form()
        self._content = bytearray()
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._fields: dict[str, bytearray] = {}
        self._field_bytes = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._take,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> bytes:
        """What of the file is in the next piece of the body."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise InvalidRequest(f"The body is no valid form: {error}.") from None
        content = bytes(self._content)
        self._content.clear()
        return content

    def finish(self) -> Form:
        """The form, now that its body has ended."""
        if not self._ended:
            raise InvalidRequest("The form ends before its last boundary.")
        if self._form.filename is None:
            raise MissingParameter("Missing required parameter: 'file'.", param="file")
        self._form.fields = {
            name: value.decode("utf-8", "replace") for name, value in self._fields.items()
        }
        return self._form

    def _begin_part(self) -> None:
        self._headers = {}

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        _, options = parse_options_header(disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == "file":
            if self._form.filename is not None:
                raise InvalidRequest("The form has more than one 'file'.", param="file")
            self._form.filename = options.get(b"filename", b"file").decode("utf-8", "replace")
        else:
            self._fields[self._name] = bytearray()
            self._count(len(self._name))

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._content += data[start:end]
            return
        self._count(end - start)
        self._fields[self._name] += data[start:end]

    def _count(self, size: int) -> None:
        self._field_bytes += size
        if self._field_bytes > _MAX_FIELDS:
            raise PayloadTooLarge("The fields of the form are too long.", param=self._name)

    def _end(self) -> None:
        self._ended = True
