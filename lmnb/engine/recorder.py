"""Which requests a worker is computing, in memory that outlives it.

A worker that dies of a signal cannot say what it was doing. So it notes the ids of the requests in
every forward pass beforehand, in a page it shares with the server: a microsecond each, and no
message that could be lost. The server reads it when the worker is gone. Passes, preparing and the
encoding of images go on side by side, and a signal does not tell which of them it came from.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
import threading
from collections.abc import Collection
from typing import IO

_PAGE = 4096
_COUNT, _TOKENIZING, _ENCODING, _IDS = 0, 4, 8, 12  # Offsets; the count is that of the ids.
_MOST = (_PAGE - _IDS) // 4


class Recorder:
    """The page, from either side. Ids are below 2**32."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, _PAGE)
        self._encoder: int | None = None
        self._preparer: int | None = None

    def passing(self, ids: Collection[int]) -> None:
        """A forward pass over these requests begins; none: it has ended."""
        noted = tuple(ids)[:_MOST]
        struct.pack_into(f"<{len(noted)}I", self._page, _IDS, *noted)
        struct.pack_into("<I", self._page, _COUNT, len(noted))

    def tokenizing(self, request: int) -> None:
        """The calling thread prepares this request; 0: it is done."""
        self._preparer = threading.get_ident()
        struct.pack_into("<I", self._page, _TOKENIZING, request)

    def encoding(self, request: int) -> None:
        """The calling thread encodes an image of this request; 0: it is done."""
        self._encoder = threading.get_ident()
        struct.pack_into("<I", self._page, _ENCODING, request)

    def failing(self) -> None:
        """The process ends for what the calling thread does: what others do is innocent."""
        caller = threading.get_ident()
        if caller in {self._encoder, self._preparer}:
            self.passing(())
        if self._encoder not in {caller, None}:
            struct.pack_into("<I", self._page, _ENCODING, 0)
        if self._preparer not in {caller, None}:
            struct.pack_into("<I", self._page, _TOKENIZING, 0)

    def read(self) -> frozenset[int]:
        """The requests that were being computed."""
        count, tokenizing, encoding = struct.unpack_from("<III", self._page)
        ids = struct.unpack_from(f"<{min(count, _MOST)}I", self._page, _IDS)
        return frozenset(ids) | ({tokenizing, encoding} - {0})

    def close(self) -> None:
        """Give the page back."""
        self._page.close()


def make_page() -> IO[bytes]:
    """An unnamed file for a `Recorder`, all zeros."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  The caller closes it.
    file.write(bytes(_PAGE))
    file.flush()
    return file
