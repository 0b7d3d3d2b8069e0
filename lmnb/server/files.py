"""Uploaded files and those that batches write: content in a folder, the rest in the database.

A file is there from the moment its row is: content is written under another name first. What a
kill leaves behind without a row is removed when the server starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from lmnb.errors import LmnbError, NotFound
from lmnb.server.database import Database, Execute
from lmnb.server.errors import DiskFull

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL
)
"""
_COLUMNS = "id, purpose, filename, bytes, created_at, expires_at"
_THERE = "(expires_at IS NULL OR expires_at > ?)"


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file. Times in seconds since the epoch; `expires_at` None is never."""

    id: str
    purpose: str
    filename: str
    bytes: int
    created_at: float
    expires_at: float | None = None


class Files:
    """All files of the server. Its calls block (disk)."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        database.execute(_SCHEMA)
        self._sweep()

    def path(self, id: str) -> Path:  # noqa: A002 - the field's name
        """Where the content of the file of that id lies."""
        return self._folder / id

    @contextlib.contextmanager
    def writing(self) -> Iterator[Draft]:
        """A file in the making, which is gone after the block unless `keep` or `add` took it.

        Raises
        ------
        DiskFull
            There is no room for it; nothing is left of it.
        """
        draft = Draft(self._folder / f".{secrets.token_hex(12)}")
        try:
            yield draft
        finally:
            draft.drop()

    def add(self, draft: Draft, file: File) -> None:
        """Make a draft a file. It is on disk when this returns."""
        self.keep(draft, file)
        with self._database.transaction() as execute:
            self.insert(execute, file)

    def keep(self, draft: Draft, file: File) -> None:
        """Put the content of a draft where the file's belongs; `insert` makes it one."""
        draft.move(self.path(file.id))

    @staticmethod
    def insert(execute: Execute, file: File) -> None:
        """The row of a file, in a transaction of the caller's."""
        execute(
            f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
            msgspec.structs.astuple(file),
        )

    def find(self, id: str) -> File:  # noqa: A002
        """The file of that id.

        Raises
        ------
        NotFound
            There is none, or no longer.
        """
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM files WHERE id = ? AND {_THERE}",  # noqa: S608
            (id, time.time()),
        )
        if not rows:
            raise not_found(id)
        return _file(rows[0])

    def page(
        self, *, after: str | None, limit: int, newest_first: bool, purpose: str | None
    ) -> tuple[list[File], bool]:
        """At most `limit` files behind the one of the id `after`, and whether more follow.

        Raises
        ------
        NotFound
            There is no file `after`.
        """
        where = [_THERE]
        given: list[Any] = [time.time()]
        if purpose is not None:
            where.append("purpose = ?")
            given.append(purpose)
        if after is not None:
            numbers = self._database.execute("SELECT number FROM files WHERE id = ?", (after,))
            if not numbers:
                raise not_found(after, param="after")
            where.append(f"number {'<' if newest_first else '>'} ?")
            given.append(numbers[0][0])
        order = "DESC" if newest_first else "ASC"
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM files WHERE {' AND '.join(where)} "  # noqa: S608
            f"ORDER BY number {order} LIMIT ?",
            (*given, limit + 1),
        )
        return [_file(row) for row in rows[:limit]], len(rows) > limit

    def delete(self, id: str) -> None:  # noqa: A002
        """Forget a file and its content. Who is reading it reads on.

        Raises
        ------
        NotFound
            There is none.
        """
        if not self._database.execute("DELETE FROM files WHERE id = ? RETURNING id", (id,)):
            raise not_found(id)
        self.path(id).unlink(missing_ok=True)

    def forget_expired(self) -> None:
        """Delete what has expired."""
        rows = self._database.execute(
            f"DELETE FROM files WHERE NOT {_THERE} RETURNING id",  # noqa: S608
            (time.time(),),
        )
        for (id_,) in rows:
            self.path(id_).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove content without a row: of uploads that were broken off, and of expired files."""
        self.forget_expired()
        known = {row[0] for row in self._database.execute("SELECT id FROM files")}
        for path in self._folder.iterdir():
            if path.is_file() and path.name not in known:
                path.unlink(missing_ok=True)


class Draft:
    """A file that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file: BinaryIO | None = None

    def write(self, data: bytes) -> None:
        """Append.

        Raises
        ------
        DiskFull
            There is no room for it.
        """
        with full_disk_told():
            if self._file is None:
                self._file = self.path.open("wb", buffering=1 << 16)
            self._file.write(data)
        self.size += len(data)

    def move(self, target: Path) -> None:
        """Finish it: it lies at `target`, and on disk.

        Raises
        ------
        DiskFull
            There is no room for it.
        """
        self.write(b"")
        assert self._file is not None
        with full_disk_told():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self.path.replace(target)

    def drop(self) -> None:
        """Remove it, unless it has been moved."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what it could not write is written on closing
                self._file.close()
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_told() -> Iterator[None]:
    """Raise `DiskFull` where the system says that there is no space left."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        raise DiskFull(
            "The disk of the server is full; the file was not kept.",
            hint="Free some space, or delete files that are no longer needed.",
        ) from None


def not_found(id_: str, *, param: str = "id") -> LmnbError:
    """The error for a file that is not there."""
    return NotFound(f"No such File object: {id_}", param=param)


def _file(row: tuple[Any, ...]) -> File:
    return File(**dict(zip(File.__struct_fields__, row, strict=True)))
