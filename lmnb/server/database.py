"""The server's SQLite file: every acknowledged write survives a kill.

Calls block; on the server's loop they go through `asyncio.to_thread`. Each
module creates the tables it owns.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from lmnb.errors import ConfigError

Parameters: TypeAlias = Sequence[Any]
Execute: TypeAlias = Callable[..., list[tuple[Any, ...]]]


class Database:
    """One connection shared by all threads, one statement or transaction at a time.

    Raises
    ------
    ConfigError
        The file is damaged or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        # Its companions (-wal, -shm) take over this mode.
        path.touch(mode=0o600)
        try:
            self._connection = sqlite3.connect(
                path, timeout=10, isolation_level=None, check_same_thread=False
            )
            # Where the file system has no shared memory, SQLite stays with its older journal.
            self.execute("PRAGMA journal_mode=WAL")
            self.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.Error as error:
            raise ConfigError(
                f"The database {path} cannot be used: {error}.",
                hint="Move it away; lmnb makes a new one.",
            ) from None

    def execute(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; committed on return, unless in a transaction."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """All statements of the block, or none if it raises. Yields `execute`."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.execute
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file; waits for a statement that is running."""
        with self._lock:
            self._connection.close()
