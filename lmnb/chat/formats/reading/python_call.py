"""Calls as Python writes them: `name(key="text", n=1)`."""

from __future__ import annotations

import re

from lmnb.chat.formats.reading.call import NotACall, read_arguments
from lmnb.chat.formats.reading.python_arguments import PythonReader
from lmnb.chat.formats.reading.source import Marker, Reading, Source
from lmnb.chat.formats.reading.tools import Tools

_NAME = re.compile(r"[A-Za-z_][\w.-]*")


class PythonCallReader:
    """A `CallReader`."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._arguments = PythonReader()
        self._bracket = Marker("(")
        self.opening = self.late_opening = Marker("")
        self.closers: tuple[Marker, ...] = ()

    def read(self, source: Source, *, known: bool) -> Reading[None]:
        yield from source.space()
        yield from source.peek()
        name = yield from source.word(_NAME)
        if not name or not (yield from source.take(self._bracket)):
            raise NotACall
        if known and self._tools.find(self._tools.name(name)) is None:
            raise NotACall
        if not (yield from self._arguments.begins(source)):
            raise NotACall
        yield from read_arguments(source, self._arguments, self._tools, name)
