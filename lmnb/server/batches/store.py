"""Batches and their lines in the database. What it has taken survives a kill.

A line is answered when its answer is stored, and never run again from then on. The requests
themselves lie one after the other in a file for each batch, which goes when the batch ends; so do
its lines, as the answers are in files then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lmnb.errors import NotFound
from lmnb.server.batches.batch import Answer, Batch, Line, Result
from lmnb.server.database import Database, Execute
from lmnb.server.files import Draft

_BATCHES = """
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    protocol TEXT NOT NULL,
    open INTEGER NOT NULL,
    record BLOB NOT NULL
)
"""
_LINES = """
CREATE TABLE IF NOT EXISTS batch_lines (
    batch TEXT NOT NULL,
    line INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    start INTEGER NOT NULL,
    size INTEGER NOT NULL,
    status INTEGER,
    request_id TEXT,
    answer BLOB,
    PRIMARY KEY (batch, line)
)
"""
_AT_ONCE = 1000
"""Lines of a transaction: others wait for it."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Batch).decode


class BatchStore:
    """All batches of the server. Its calls block (disk)."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        database.execute(_BATCHES)
        database.execute(_LINES)
        self._sweep()

    # --- batches ---------------------------------------------------------------------

    def add(self, batch: Batch) -> None:
        """A new batch. Its lines, if it has any yet, must have been added before."""
        self._database.execute(
            "INSERT INTO batches (id, protocol, open, record) VALUES (?, ?, ?, ?)",
            (batch.id, batch.protocol, batch.is_open, _encode(batch)),
        )

    def find(self, id: str, protocol: str) -> Batch:  # noqa: A002 - the field's name
        """The batch of that id and protocol.

        Raises
        ------
        NotFound
            There is none.
        """
        rows = self._database.execute(
            "SELECT record FROM batches WHERE id = ? AND protocol = ?", (id, protocol)
        )
        if not rows:
            raise NotFound(f"No batch found with id '{id}'.", param="id")
        return _decode(rows[0][0])

    def open(self) -> list[Batch]:
        """Those with something left to do, oldest first."""
        rows = self._database.execute("SELECT record FROM batches WHERE open ORDER BY number")
        return [_decode(record) for (record,) in rows]

    def page(
        self, protocol: str, *, after: str | None = None, before: str | None = None, limit: int
    ) -> tuple[list[Batch], bool]:
        """At most `limit` batches, newest first, and whether there are more in that direction.

        Those behind the batch `after`, or those just before the batch `before`.

        Raises
        ------
        NotFound
            There is no such batch.
        """
        where, given = ["protocol = ?"], [protocol]
        for id_, sign in ((after, "<"), (before, ">")):
            if id_ is not None:
                self.find(id_, protocol)
                where.append(f"number {sign} (SELECT number FROM batches WHERE id = ?)")  # noqa: S608
                given.append(id_)
        backwards = before is not None and after is None
        rows = self._database.execute(
            f"SELECT record FROM batches WHERE {' AND '.join(where)} "  # noqa: S608
            f"ORDER BY number {'ASC' if backwards else 'DESC'} LIMIT ?",
            (*given, limit + 1),
        )
        found = [_decode(record) for (record,) in rows[:limit]]
        return found[::-1] if backwards else found, len(rows) > limit

    def update(
        self,
        id: str,  # noqa: A002
        change: Callable[[Batch], Batch],
        also: Callable[[Execute], None] | None = None,
    ) -> Batch:
        """Change a batch, with all that `also` does or not at all; what became of it.

        Raises
        ------
        NotFound
            It was deleted.
        """
        with self._database.transaction() as execute:
            rows = execute("SELECT record FROM batches WHERE id = ?", (id,))
            if not rows:
                raise NotFound(f"No batch found with id '{id}'.", param="id")
            changed = change(_decode(rows[0][0]))
            if also is not None:
                also(execute)
            execute(
                "UPDATE batches SET open = ?, record = ? WHERE id = ?",
                (changed.is_open, _encode(changed), id),
            )
        return changed

    def delete(self, id: str) -> None:  # noqa: A002
        """Forget a batch that has ended."""
        self._database.execute("DELETE FROM batches WHERE id = ?", (id,))
        self.written(id).unlink(missing_ok=True)

    # --- lines -----------------------------------------------------------------------

    def requests(self, id: str) -> Path:  # noqa: A002
        """The file with the bodies of a batch's requests."""
        return self._folder / f"{id}.requests"

    def written(self, id: str) -> Path:  # noqa: A002
        """The file with the results of a batch that has ended, if its protocol wants one."""
        return self._folder / f"{id}.results"

    def add_lines(self, id: str, lines: Sequence[Line], requests: Draft) -> None:  # noqa: A002
        """Take over the requests of a batch, in place of those that it may have had."""
        requests.move(self.requests(id))
        self._drop_lines(id)
        for first in range(0, len(lines), _AT_ONCE):
            with self._database.transaction() as execute:
                for line in lines[first : first + _AT_ONCE]:
                    execute(
                        "INSERT INTO batch_lines (batch, line, custom_id, start, size) "
                        "VALUES (?, ?, ?, ?, ?)",
                        (id, *msgspec.structs.astuple(line)),
                    )

    def unanswered(self, id: str, after: int, limit: int) -> list[tuple[Line, bytes]]:  # noqa: A002
        """The next lines behind number `after` that have no answer, with their bodies."""
        rows = self._database.execute(
            "SELECT line, custom_id, start, size FROM batch_lines "
            "WHERE batch = ? AND line > ? AND status IS NULL ORDER BY line LIMIT ?",
            (id, after, limit),
        )
        if not rows:
            return []
        with self.requests(id).open("rb") as file:
            return [(line, _read(file, line)) for line in (Line(*row) for row in rows)]

    def answer(self, id: str, answers: Iterable[tuple[Line, Answer]]) -> Batch:  # noqa: A002
        """Store answers. They are kept when this returns, and their lines are never run again."""
        answers = list(answers)
        good = sum(answer.status == 200 for _, answer in answers)

        def insert(execute: Execute) -> None:
            for line, answer in answers:
                execute(
                    "UPDATE batch_lines SET status = ?, request_id = ?, answer = ? "
                    "WHERE batch = ? AND line = ?",
                    (answer.status, answer.request_id, answer.body, id, line.number),
                )

        return self.update(
            id,
            lambda batch: batch.but(
                succeeded=batch.succeeded + good, failed=batch.failed + len(answers) - good
            ),
            insert,
        )

    def results(self, id: str) -> Iterator[Result]:  # noqa: A002
        """All lines in their order, as they are now."""
        last = -1
        while rows := self._database.execute(
            "SELECT line, custom_id, status, request_id, answer FROM batch_lines "
            "WHERE batch = ? AND line > ? ORDER BY line LIMIT 100",
            (id, last),
        ):
            last = rows[-1][0]
            for _, custom_id, *answer in rows:
                yield Result(custom_id, None if answer[0] is None else Answer(*answer))

    def clear(self, id: str) -> None:  # noqa: A002
        """Drop the requests and lines of a batch that has ended."""
        self._drop_lines(id)
        self.requests(id).unlink(missing_ok=True)

    def _drop_lines(self, id_: str) -> None:
        self._database.execute("DELETE FROM batch_lines WHERE batch = ?", (id_,))

    def _sweep(self) -> None:
        """Clear what a kill has left of batches that were not made, or had just ended."""
        open_ = {batch.id for batch in self.open()}
        for (id_,) in self._database.execute("SELECT DISTINCT batch FROM batch_lines"):
            if id_ not in open_:
                self._drop_lines(id_)
        every = {id_ for (id_,) in self._database.execute("SELECT id FROM batches")}
        needed = {self.requests(id_) for id_ in open_} | {self.written(id_) for id_ in every}
        for path in set(self._folder.iterdir()) - needed:
            if path.is_file():  # a folder is somebody else's: Jupyter's checkpoints, for one
                path.unlink(missing_ok=True)


def _read(file: Any, line: Line) -> bytes:
    file.seek(line.start)
    data: bytes = file.read(line.size)
    return data
