"""Stored answers: what `previous_response_id` continues. Survives the server.

Each row holds the messages that its answer added to the conversation; the rest
is found through `previous`. So a chat of a hundred turns is stored once, not a
hundred times. A deleted row that others build on loses its body at once and
goes when the last of them goes.

An answer that is made in the background is announced before it begins. If the server ends before
the answer does, the next one finds the announcement and stores what it says of that case.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from lmnb.chat.conversation import Message
from lmnb.errors import NotFound
from lmnb.server.database import Database, Execute

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY,
    previous TEXT,
    messages BLOB NOT NULL,
    body BLOB,
    deleted INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL
) WITHOUT ROWID
"""
_ITEMS = """
CREATE TABLE IF NOT EXISTS response_items (
    id TEXT PRIMARY KEY,
    response TEXT NOT NULL
) WITHOUT ROWID
"""
_DETAILS = """
CREATE TABLE IF NOT EXISTS response_details (
    id TEXT PRIMARY KEY,
    input BLOB NOT NULL,
    frames BLOB
) WITHOUT ROWID
"""
_ANNOUNCED = """
CREATE TABLE IF NOT EXISTS announced_responses (
    id TEXT PRIMARY KEY,
    answer BLOB NOT NULL
) WITHOUT ROWID
"""
_INDEX = "CREATE INDEX IF NOT EXISTS responses_previous ON responses (previous)"
_CHAIN = """
WITH RECURSIVE chain (id, previous, messages, depth) AS (
    SELECT id, previous, messages, 0 FROM responses WHERE id = ?
    UNION ALL
    SELECT r.id, r.previous, r.messages, depth + 1
    FROM responses r JOIN chain ON r.id = chain.previous
)
SELECT messages FROM chain ORDER BY depth DESC
"""
_INPUT = """
WITH RECURSIVE chain (id, previous, body, depth) AS (
    SELECT id, previous, body, 0 FROM responses WHERE id = ? AND NOT deleted
    UNION ALL
    SELECT r.id, r.previous, r.body, depth + 1
    FROM responses r JOIN chain ON r.id = chain.previous
)
SELECT chain.id, body, input FROM chain LEFT JOIN response_details d ON d.id = chain.id
ORDER BY depth DESC
"""
_PRUNE = """
DELETE FROM responses WHERE deleted AND id NOT IN
    (SELECT previous FROM responses WHERE previous IS NOT NULL)
RETURNING id
"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[Message, ...]).decode


class StoredResponse(msgspec.Struct, frozen=True):
    """One stored answer.

    messages
        The whole conversation up to and including the answer, without `instructions`.
    body
        The answer as its protocol sent it, if the protocol can retrieve answers.
    previous
        The id it continued.
    """

    id: str
    messages: tuple[Message, ...]
    body: dict[str, Any] | None
    previous: str | None


class NewResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to be stored.

    messages
        The whole conversation, the answer included.
    body
        The answer as its protocol sends it, if the protocol can retrieve answers.
    previous
        The stored answer it continues, if it continues one.
    input
        What was asked, in items as the protocol lists them.
    frames
        The events of the answer's stream, if it can be streamed again.
    """

    id: str
    messages: tuple[Message, ...]
    body: dict[str, Any] | None = None
    previous: str | None = None
    input: list[dict[str, Any]] = []
    frames: list[bytes] | None = None


class ResponseStore:
    """Stored answers in the server's database. Safe to use from several tasks.

    Made once per server: answers that a server of before has left unfinished are settled then.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        for statement in (_SCHEMA, _ITEMS, _DETAILS, _ANNOUNCED, _INDEX):
            database.execute(statement)
        self._settle()

    async def save(
        self, new: NewResponse, *, also: Callable[[Execute], None] | None = None
    ) -> None:
        """Store an answer. It is on disk when this returns.

        `also` writes more in the same transaction; it is called in another thread.
        """
        await asyncio.to_thread(self._save, new, also)

    async def announce(self, lost: NewResponse) -> None:
        """Say that an answer will be saved; `lost` is stored if the server ends before."""
        await asyncio.to_thread(
            self._database.execute,
            "INSERT INTO announced_responses VALUES (?, ?)",
            (lost.id, msgspec.json.encode(lost)),
        )

    async def load(self, id: str) -> StoredResponse:  # noqa: A002
        """Find a stored answer.

        Raises
        ------
        NotFound
            There is none of that id, or it was deleted.
        """
        return await asyncio.to_thread(self._load, id)

    async def input(self, id: str) -> list[dict[str, Any]]:  # noqa: A002
        """The items an answer was made from, oldest first: those it continues, and its own input.

        Raises
        ------
        NotFound
            There is no answer of that id, or it was deleted.
        """
        return await asyncio.to_thread(self._input, id)

    async def frames(self, id: str) -> list[bytes] | None:  # noqa: A002
        """The events of a stored answer's stream, if they were stored."""
        return await asyncio.to_thread(self._frames, id)

    async def item(self, id: str) -> dict[str, Any]:  # noqa: A002
        """Find an item of a stored answer's `output` or input, as its protocol sends it.

        Raises
        ------
        NotFound
            There is none of that id, or its answer was deleted.
        """
        return await asyncio.to_thread(self._item, id)

    async def delete(self, id: str) -> None:  # noqa: A002
        """Forget a stored answer. Those that continue it keep their conversation.

        Raises
        ------
        NotFound
            There is none of that id.
        """
        await asyncio.to_thread(self._delete, id)

    def _save(self, new: NewResponse, also: Callable[[Execute], None] | None) -> None:
        with self._database.transaction() as execute:
            self._insert(execute, new)
            if also is not None:
                also(execute)

    def _insert(self, execute: Execute, new: NewResponse) -> None:
        known = self._chain(new.previous) if new.previous else ()
        continues = bool(known) and new.messages[: len(known)] == known
        execute(
            "INSERT INTO responses (id, previous, messages, body, created_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                new.id,
                new.previous if continues else None,
                _encode(new.messages[len(known) :] if continues else new.messages),
                None if new.body is None else _encode(new.body),
                time.time(),
            ),
        )
        execute("DELETE FROM announced_responses WHERE id = ?", (new.id,))
        for item in (new.body or {}).get("output", ()):
            execute("INSERT OR REPLACE INTO response_items VALUES (?, ?)", (item["id"], new.id))
        for item in new.input:  # which may be one that another answer has said
            execute("INSERT OR IGNORE INTO response_items VALUES (?, ?)", (item["id"], new.id))
        if new.input or new.frames is not None:
            frames = None if new.frames is None else _pack(new.frames)
            execute(
                "INSERT INTO response_details VALUES (?, ?, ?)",
                (new.id, _encode(new.input), frames),
            )

    def _settle(self) -> None:
        with self._database.transaction() as execute:
            for (answer,) in execute("SELECT answer FROM announced_responses"):
                self._insert(execute, msgspec.json.decode(answer, type=NewResponse))

    def _item(self, id_: str) -> dict[str, Any]:
        rows = self._database.execute(
            "SELECT body, input FROM response_items JOIN responses ON responses.id = response "
            "LEFT JOIN response_details d ON d.id = response WHERE response_items.id = ?",
            (id_,),
        )
        for body, given in rows:
            for item in (*_output(body), *_items(given)):
                if item["id"] == id_:
                    return item
        raise NotFound(f"No stored item has the id '{id_}'.")

    def _load(self, id_: str) -> StoredResponse:
        with self._database.transaction() as execute:
            rows = execute(
                "SELECT previous, body FROM responses WHERE id = ? AND NOT deleted", (id_,)
            )
            messages = self._chain(id_)
        if not rows:
            raise _unknown(id_)
        previous, body = rows[0]
        return StoredResponse(
            id=id_,
            messages=messages,
            body=None if body is None else msgspec.json.decode(body),
            previous=previous,
        )

    def _input(self, id_: str) -> list[dict[str, Any]]:
        rows = self._database.execute(_INPUT, (id_,))
        if not rows:
            raise _unknown(id_)
        found: list[dict[str, Any]] = []
        for link, body, given in rows:
            found += _items(given)
            if link != id_:
                found += _output(body)
        return found

    def _frames(self, id_: str) -> list[bytes] | None:
        rows = self._database.execute("SELECT frames FROM response_details WHERE id = ?", (id_,))
        return _unpack(rows[0][0]) if rows and rows[0][0] is not None else None

    def _chain(self, id_: str) -> tuple[Message, ...]:
        rows = self._database.execute(_CHAIN, (id_,))
        return tuple(message for (part,) in rows for message in _decode(part))

    def _delete(self, id_: str) -> None:
        with self._database.transaction() as execute:
            found = execute(
                "UPDATE responses SET deleted = 1, body = NULL "
                "WHERE id = ? AND NOT deleted RETURNING id",
                (id_,),
            )
            execute("DELETE FROM response_items WHERE response = ?", (id_,))
            execute("DELETE FROM response_details WHERE id = ?", (id_,))
            while found and execute(_PRUNE):
                pass
        if not found:
            raise _unknown(id_)


def _unknown(id_: str) -> NotFound:
    return NotFound(f"No stored response has the id '{id_}'.")


def _output(body: bytes | None) -> Sequence[dict[str, Any]]:
    found: Sequence[dict[str, Any]] = () if body is None else msgspec.json.decode(body)["output"]
    return found


def _items(blob: bytes | None) -> list[dict[str, Any]]:
    return [] if blob is None else msgspec.json.decode(blob, type=list[dict[str, Any]])


def _pack(frames: list[bytes]) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(frames))


def _unpack(blob: bytes) -> list[bytes]:
    return msgspec.msgpack.decode(zlib.decompress(blob), type=list[bytes])
