"""Stored answers: found again, chained, deleted, and still there after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmnb.chat.conversation import Image, Message, Text
from lmnb.errors import NotFound
from lmnb.server.database import Database
from lmnb.server.store import NewResponse, ResponseStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lmnb.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


def turn(text: str) -> tuple[Message, Message]:
    return Message("user", (Text(text),)), Message("assistant", (Text(text.upper()),))


def new(
    id_: str, messages: tuple[Message, ...], body: dict[str, Any] | None, previous: str | None
) -> NewResponse:
    return NewResponse(id=id_, messages=messages, body=body, previous=previous)


A, B, C = turn("a"), turn("b"), turn("c")


def test_a_chain_of_answers(database: Database) -> None:
    async def run() -> None:
        store = ResponseStore(database)
        await store.save(new("1", A, {"id": "1"}, None))
        await store.save(new("2", A + B, {"id": "2"}, "1"))
        await store.save(new("3", A + B + C, None, "2"))
        await store.save(new("2b", A + C, None, "1"))
        assert (await store.load("3")).messages == A + B + C
        assert (await store.load("2")).messages == A + B
        assert (await store.load("2b")).messages == A + C
        assert (await store.load("1")).body == {"id": "1"}
        assert (await store.load("3")).body is None
        assert (await store.load("3")).previous == "2"

    asyncio.run(run())


def test_a_turn_is_stored_once(database: Database) -> None:
    async def run() -> None:
        store = ResponseStore(database)
        await store.save(new("1", A, None, None))
        await store.save(new("2", A + B, None, "1"))
        rows = database.execute("SELECT messages FROM responses WHERE id = '2'")
        assert b'"b"' in rows[0][0]
        assert b'"a"' not in rows[0][0]

    asyncio.run(run())


def test_a_conversation_that_does_not_continue_is_stored_whole(database: Database) -> None:
    async def run() -> None:
        store = ResponseStore(database)
        await store.save(new("1", A, None, None))
        await store.save(new("2", C, None, "1"))
        await store.save(new("3", C, None, "gone"))
        assert (await store.load("2")).messages == C
        assert (await store.load("3")).messages == C

    asyncio.run(run())


def test_deleting_leaves_what_continues(database: Database) -> None:
    async def run() -> None:
        store = ResponseStore(database)
        await store.save(new("1", A, {"id": "1"}, None))
        await store.save(new("2", A + B, {"id": "2"}, "1"))
        await store.delete("1")
        with pytest.raises(NotFound):
            await store.load("1")
        with pytest.raises(NotFound):
            await store.delete("1")
        assert (await store.load("2")).messages == A + B
        assert database.execute("SELECT body FROM responses WHERE id = '1'") == [(None,)]
        await store.delete("2")
        assert database.execute("SELECT * FROM responses") == []

    asyncio.run(run())


def test_unknown_ids(database: Database) -> None:
    async def run() -> None:
        store = ResponseStore(database)
        with pytest.raises(NotFound):
            await store.load("nothing")
        with pytest.raises(NotFound):
            await store.delete("nothing")

    asyncio.run(run())


def test_answers_survive_a_restart(path: Path) -> None:
    picture = Message("user", (Image(b"\x00\xff", "image/png"), Text("what?")))
    first = Database(path)
    asyncio.run(ResponseStore(first).save(new("1", (picture,), {"x": [1]}, None)))
    first.close()
    second = Database(path)
    try:
        stored = asyncio.run(ResponseStore(second).load("1"))
    finally:
        second.close()
    assert stored.messages == (picture,)
    assert stored.body == {"x": [1]}


def test_many_at_once(database: Database) -> None:
    async def run() -> None:
        store = ResponseStore(database)
        await store.save(new("0", A, None, None))
        await asyncio.gather(*(store.save(new(f"{i}", A + B, None, "0")) for i in range(1, 21)))
        found = await asyncio.gather(*(store.load(f"{i}") for i in range(1, 21)))
        assert all(one.messages == A + B for one in found)

    asyncio.run(run())
