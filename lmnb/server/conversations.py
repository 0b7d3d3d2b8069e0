"""Stored conversations: items in an order, which responses continue. Survive the server.

The items are those of OpenAI's Responses, as clients list them; what they mean to a model is the
protocol's affair.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from lmnb.errors import NotFound
from lmnb.server.database import Database, Execute

_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    metadata BLOB NOT NULL,
    latest TEXT
) WITHOUT ROWID
"""
_ITEMS = """
CREATE TABLE IF NOT EXISTS conversation_items (
    place INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL,
    id TEXT NOT NULL,
    item BLOB NOT NULL,
    UNIQUE (conversation, id)
)
"""
_INDEX = "CREATE INDEX IF NOT EXISTS conversation_item_ids ON conversation_items (id)"

_encode = msgspec.json.Encoder().encode

Item = dict[str, Any]


class Conversation(msgspec.Struct, frozen=True):
    """A conversation without its items. `created_at` is in seconds since the epoch."""

    id: str
    created_at: int
    metadata: dict[str, str]


class Contents(msgspec.Struct, frozen=True):
    """What a response continues: the items, and the stored response that was added last."""

    items: list[Item]
    latest: str | None


class ConversationStore:
    """Conversations in the server's database. Safe to use from several tasks.

    All methods raise `NotFound` for conversations and items that do not exist.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        for statement in (_SCHEMA, _ITEMS, _INDEX):
            database.execute(statement)

    async def create(self, id_: str, items: Sequence[Item], metadata: dict[str, str]) -> None:
        """A new conversation; the ids of the items differ. It is on disk when this returns."""
        await asyncio.to_thread(self._create, id_, items, metadata)

    async def load(self, id_: str) -> Conversation:
        """The conversation without its items."""
        return await asyncio.to_thread(self._load, id_)

    async def update(self, id_: str, metadata: dict[str, str]) -> Conversation:
        """Replace the metadata."""
        return await asyncio.to_thread(self._update, id_, metadata)

    async def delete(self, id_: str) -> None:
        """Forget a conversation and its items."""
        await asyncio.to_thread(self._delete, id_)

    async def contents(self, id_: str) -> Contents:
        """The items, oldest first."""
        return await asyncio.to_thread(self._contents, id_)

    async def add(self, id_: str, items: Sequence[Item]) -> list[Item]:
        """Append items. Those as stored: one whose id is taken in the conversation is left out."""
        return await asyncio.to_thread(self._add, id_, items)

    async def item(self, id_: str, conversation: str | None = None) -> Item:
        """The item of that id, of one conversation or of any."""
        return await asyncio.to_thread(self._item, id_, conversation)

    async def delete_item(self, conversation: str, id_: str) -> None:
        """Take an item out of a conversation."""
        await asyncio.to_thread(self._delete_item, conversation, id_)

    def append(self, execute: Execute, id_: str, items: Sequence[Item], latest: str | None) -> None:
        """Append a turn within a transaction; nothing if the conversation was deleted meanwhile.

        `latest` is the stored response of the turn, if it is stored.
        """
        if execute("UPDATE conversations SET latest = ? WHERE id = ? RETURNING id", (latest, id_)):
            _insert(execute, id_, items)

    async def keep(self, id_: str, items: Sequence[Item]) -> None:
        """`append` in a transaction of its own, for a response that is not stored."""
        await asyncio.to_thread(self._keep, id_, items)

    def _keep(self, id_: str, items: Sequence[Item]) -> None:
        with self._database.transaction() as execute:
            self.append(execute, id_, items, None)

    def _create(self, id_: str, items: Sequence[Item], metadata: dict[str, str]) -> None:
        with self._database.transaction() as execute:
            execute(
                "INSERT INTO conversations (id, created_at, metadata) VALUES (?, ?, ?)",
                (id_, int(time.time()), _encode(metadata)),
            )
            _insert(execute, id_, items)

    def _load(self, id_: str) -> Conversation:
        rows = self._database.execute(
            "SELECT created_at, metadata FROM conversations WHERE id = ?", (id_,)
        )
        if not rows:
            raise _unknown(id_)
        created_at, metadata = rows[0]
        return Conversation(id_, created_at, msgspec.json.decode(metadata))

    def _update(self, id_: str, metadata: dict[str, str]) -> Conversation:
        self._database.execute(
            "UPDATE conversations SET metadata = ? WHERE id = ?", (_encode(metadata), id_)
        )
        return self._load(id_)

    def _delete(self, id_: str) -> None:
        with self._database.transaction() as execute:
            found = execute("DELETE FROM conversations WHERE id = ? RETURNING id", (id_,))
            execute("DELETE FROM conversation_items WHERE conversation = ?", (id_,))
        if not found:
            raise _unknown(id_)

    def _contents(self, id_: str) -> Contents:
        with self._database.transaction() as execute:
            known = execute("SELECT latest FROM conversations WHERE id = ?", (id_,))
            rows = execute(
                "SELECT item FROM conversation_items WHERE conversation = ? ORDER BY place", (id_,)
            )
        if not known:
            raise _unknown(id_)
        return Contents([msgspec.json.decode(item) for (item,) in rows], known[0][0])

    def _add(self, id_: str, items: Sequence[Item]) -> list[Item]:
        with self._database.transaction() as execute:
            if not execute("SELECT 1 FROM conversations WHERE id = ?", (id_,)):
                raise _unknown(id_)
            return _insert(execute, id_, items)

    def _item(self, id_: str, conversation: str | None) -> Item:
        query = "SELECT item FROM conversation_items WHERE id = ?"
        if conversation is None:
            rows = self._database.execute(query, (id_,))
        else:
            self._load(conversation)
            rows = self._database.execute(f"{query} AND conversation = ?", (id_, conversation))
        if not rows:
            raise NotFound(f"No stored item has the id '{id_}'.")
        item: Item = msgspec.json.decode(rows[0][0])
        return item

    def _delete_item(self, conversation: str, id_: str) -> None:
        with self._database.transaction() as execute:
            found = execute(
                "DELETE FROM conversation_items WHERE conversation = ? AND id = ? RETURNING id",
                (conversation, id_),
            )
        if not found:
            raise NotFound(f"No item of the conversation '{conversation}' has the id '{id_}'.")


def _insert(execute: Execute, id_: str, items: Sequence[Item]) -> list[Item]:
    return [
        item
        for item in items
        if execute(
            "INSERT OR IGNORE INTO conversation_items (conversation, id, item) VALUES (?, ?, ?) "
            "RETURNING id",
            (id_, item["id"], _encode(item)),
        )
    ]


def _unknown(id_: str) -> NotFound:
    return NotFound(f"Conversation with id '{id_}' not found.", param="conversation")
