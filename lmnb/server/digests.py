"""SHA-256 of models' files, computed once and remembered as long as a file stays as it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lmnb.engine.gguf import split_paths
from lmnb.server.database import Database

_TABLE = """CREATE TABLE IF NOT EXISTS digests (
    path TEXT PRIMARY KEY, size INTEGER, modified INTEGER, digest TEXT) WITHOUT ROWID"""


class Digests:
    """Digests by what a file system says of a file: its path, size and time of change."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.execute(_TABLE)

    def of_model(self, path: Path) -> str:
        """The digest of a model, in hexadecimal; of all parts together if it is split. Blocks (disk)."""
        parts = [self.of_file(part) for part in split_paths(path)]
        if len(parts) == 1:
            return parts[0]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def of_file(self, path: Path) -> str:
        """The digest of a file, in hexadecimal. Blocks (disk): about a second a gigabyte."""
        real = path.resolve()
        found = real.stat()
        stamp = (str(real), found.st_size, found.st_mtime_ns)
        known = self._database.execute(
            "SELECT digest FROM digests WHERE path = ? AND size = ? AND modified = ?", stamp
        )
        if known:
            return str(known[0][0])
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._database.execute(
            "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", (*stamp, digest)
        )
        return digest
