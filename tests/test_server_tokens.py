"""API tokens: made, kept, edited, removed; what they permit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmnb.errors import InvalidRequest, NotFound
from lmnb.server.database import Database
from lmnb.server.tokens import Permission, Tokens


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "lmnb.db")
    yield found
    found.close()


def test_a_token_has_the_form_that_lm_studios_sdks_check(database: Database) -> None:
    _, text = Tokens(database).create("laptop")
    # lmstudio-python, json_api.py.
    assert re.fullmatch(r"sk-lm-[A-Za-z0-9]{8}:[A-Za-z0-9]{20}", text)


def test_a_token_is_kept_as_a_hash_and_survives(database: Database) -> None:
    token, text = Tokens(database).create("laptop")
    tokens = Tokens(database)
    assert tokens.all() == [token]
    assert tokens.verify(text) == token
    assert text.partition(":")[2].encode() not in database.path.read_bytes()
    assert all(text not in str(row) for row in database.execute("SELECT * FROM tokens"))


def test_wrong_tokens_are_refused(database: Database) -> None:
    tokens = Tokens(database)
    _, text = tokens.create("laptop")
    for wrong in (
        "",
        "lm-studio",
        text[:-1],
        text + "x",
        text.upper(),
        "sk-lm-00000000:" + "0" * 20,
    ):
        assert not tokens.verify(wrong)


def test_a_removed_token_is_refused_at_once(database: Database) -> None:
    tokens = Tokens(database)
    token, text = tokens.create("laptop")
    _, other = tokens.create("phone")
    tokens.remove(token.id)
    assert not tokens.verify(text)
    assert tokens.verify(other)
    tokens.remove("phone")
    assert len(Tokens(database)) == 0
    with pytest.raises(NotFound, match="laptop"):
        tokens.remove("laptop")


@pytest.mark.parametrize("name", ["", "  ", "laptop", "a\nb", "x" * 101])
def test_names_are_unique_and_one_line(database: Database, name: str) -> None:
    tokens = Tokens(database)
    tokens.create("laptop")
    with pytest.raises(InvalidRequest):
        tokens.create(name)


def test_a_token_permits_the_usual_unless_told_otherwise(database: Database) -> None:
    tokens = Tokens(database)
    usual, _ = tokens.create("usual")
    assert [str(permission) for permission in usual.permissions] == [
        "inference",
        "models",
        "downloads",
    ]
    few, text = tokens.create("few", ["mcp", " inference", "mcp"])
    assert few.permissions == (Permission.INFERENCE, Permission.MCP)
    assert Tokens(database).verify(text) == few


@pytest.mark.parametrize("permissions", [[], ["everything"], ["inference", ""], ["Inference"]])
def test_unknown_permissions_are_refused(database: Database, permissions: list[str]) -> None:
    tokens = Tokens(database)
    with pytest.raises(InvalidRequest) as caught:
        tokens.create("laptop", permissions)
    assert caught.value.param == "permissions"
    assert "administration" in (caught.value.hint or "")
    token, _ = tokens.create("phone")
    with pytest.raises(InvalidRequest):
        tokens.edit("phone", permissions=permissions)
    assert Tokens(database).all() == [token]


def test_editing_counts_at_once_and_survives(database: Database) -> None:
    tokens = Tokens(database)
    token, text = tokens.create("laptop")
    tokens.create("phone")
    edited = tokens.edit("laptop", new_name=" desk ", permissions=["inference"])
    assert (edited.id, edited.name, edited.permissions) == (token.id, "desk", ("inference",))
    assert tokens.verify(text) == edited
    assert Tokens(database).verify(text) == edited
    assert tokens.edit(token.id, new_name="desk") == edited
    with pytest.raises(InvalidRequest, match="phone"):
        tokens.edit("desk", new_name="phone")
    with pytest.raises(NotFound):
        tokens.edit("laptop")


def test_tokens_from_before_there_were_permissions_keep_all(database: Database) -> None:
    database.execute(
        "CREATE TABLE tokens "
        "(id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, hash BLOB NOT NULL, created_at REAL)"
    )
    database.execute("INSERT INTO tokens VALUES ('aaaaaaaa', 'old', x'00', 1.0)")
    (old,) = Tokens(database).all()
    assert old.permissions == tuple(Permission)
    Tokens(database).create("new")
    assert [len(token.permissions) for token in Tokens(database).all()] == [5, 3]
