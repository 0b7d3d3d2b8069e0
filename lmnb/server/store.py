"""Stored answers: what `previous_response_id` continues. Survives the server.

Each row holds the messages that its answer added to the conversation; the rest
is found through `previous`. So a chat of a hundred turns is stored once, not a
hundred times. A deleted row that others build on loses its body at once and
goes when the last of them goes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from lmnb.chat.conversation import Message
from lmnb.errors import NotFound
from lmnb.server.database import Database

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


class ResponseStore:
    """Stored answers in the server's database. Safe to use from several tasks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.execute(_SCHEMA)
        database.execute(_ITEMS)
        database.execute(_INDEX)

    async def save(
        self,
        id: str,  # noqa: A002 - the field's name
        messages: tuple[Message, ...],
        body: dict[str, Any] | None,
        previous: str | None,
    ) -> None:
        """Store an answer. It is on disk when this returns.

        Parameters
        ----------
        messages
            The whole conversation, the answer included.
        previous
            The stored answer it continues, if it continues one.
        """
        await asyncio.to_thread(self._save, id, messages, body, previous)

    async def load(self, id: str) -> StoredResponse:  # noqa: A002
        """Find a stored answer.

        Raises
        ------
        NotFound
            There is none of that id, or it was deleted.
        """
        return await asyncio.to_thread(self._load, id)

    async def item(self, id: str) -> dict[str, Any]:  # noqa: A002
        """Find an item of a stored answer's `output`, as its protocol sent it.

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

    def _save(
        self,
        id_: str,
        messages: tuple[Message, ...],
        body: dict[str, Any] | None,
        previous: str | None,
    ) -> None:
        with self._database.transaction() as execute:
            known = self._chain(previous) if previous else ()
            continues = bool(known) and messages[: len(known)] == known
            execute(
                "INSERT INTO responses (id, previous, messages, body, created_at) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    id_,
                    previous if continues else None,
                    _encode(messages[len(known) :] if continues else messages),
                    None if body is None else _encode(body),
                    time.time(),
                ),
            )

            for item in (body or {}).get("output", ()):
                execute("INSERT OR REPLACE INTO response_items VALUES (?, ?)", (item["id"], id_))

    def _item(self, id_: str) -> dict[str, Any]:
        rows = self._database.execute(
            "SELECT body FROM responses JOIN response_items ON responses.id = response "
            "WHERE response_items.id = ? AND body IS NOT NULL",
            (id_,),
        )
        for (body,) in rows:
            for item in msgspec.json.decode(body)["output"]:
                if item["id"] == id_:
                    found: dict[str, Any] = item
                    return found
        raise NotFound(f"No stored item has the id '{id_}'.")

    def _load(self, id_: str) -> StoredResponse:
        with self._database.transaction() as execute:
            rows = execute(
                "SELECT previous, body FROM responses WHERE id = ? AND NOT deleted", (id_,)
            )
            messages = self._chain(id_)
        if not rows:
            raise NotFound(f"No stored response has the id '{id_}'.")
        previous, body = rows[0]
        return StoredResponse(
            id=id_,
            messages=messages,
            body=None if body is None else msgspec.json.decode(body),
            previous=previous,
        )

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
            while found and execute(_PRUNE):
                pass
        if not found:
            raise NotFound(f"No stored response has the id '{id_}'.")
