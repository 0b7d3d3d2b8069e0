"""What was computed before, on disk: this makes every run resumable.

One SQLite file, `$LMNB_HOME/cache/tables.db`, for answers (JSON) and vectors (float32). A key is the
SHA-256 of all that decides a value, so that nothing in here is ever wrong, only unused. A value is
there once `put` has returned, whatever happens next.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmnb.errors import ConfigError

VERSION = 1
"""Part of every key: raise it when the same request is answered in another way from now on."""

_TABLE = "CREATE TABLE IF NOT EXISTS kept (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
_AT_ONCE = 500


def key(*parts: Any) -> bytes:
    """The key of what these decide, which are JSON."""
    text = json.dumps([VERSION, *parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Cache:
    """The file of a home; without a home nothing is kept. Close it after use.

    Raises
    ------
    ConfigError
        The file is damaged, or cannot be read or written. Every method does, too.
    """

    def __init__(self, home: Path | None) -> None:
        self._connection: sqlite3.Connection | None = None
        if home is None:
            return
        self._path = home / "cache" / "tables.db"
        with self._failures():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)  # its companions (-wal, -shm) take over this mode
            self._connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(_TABLE)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values that are there."""
        found: dict[bytes, bytes] = {}
        if self._connection is None:
            return found
        with self._failures():
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                places = ",".join("?" * len(some))
                query = f"SELECT key, value FROM kept WHERE key IN ({places})"  # noqa: S608 - marks only
                found.update(self._connection.execute(query, some))
        return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep these, all or none."""
        if self._connection is None:
            return
        with self._failures():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO kept VALUES (?, ?)", values.items()
                )
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"The cache {self._path} cannot be used: {error}.",
                hint="`cache=False` does without; a damaged file can be removed.",
            ) from None


@contextmanager
def opened(home: Path | None) -> Iterator[Cache]:
    """A cache for the time of a block."""
    cache = Cache(home)
    try:
        yield cache
    finally:
        cache.close()
