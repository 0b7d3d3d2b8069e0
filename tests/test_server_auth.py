"""Tokens, the Host header, the Origin header."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmnb.errors import InvalidRequest, NotFound
from lmnb.server.auth import Tokens, host_allowed, is_loopback, origin_allowed
from lmnb.server.database import Database


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
    assert tokens.verify(text)
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


@pytest.mark.parametrize("name", ["", "  ", "laptop"])
def test_names_are_unique_and_not_empty(database: Database, name: str) -> None:
    tokens = Tokens(database)
    tokens.create("laptop")
    with pytest.raises(InvalidRequest):
        tokens.create(name)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:1234",
        "LOCALHOST.",
        "127.0.0.1:1234",
        "[::1]:1234",
        "::1",
        "192.168.1.7",
        "jupyter.localhost",
        "studio.local:1234",
        "host.docker.internal",
        "workshop:1234",
    ],
)
def test_hosts_that_cannot_be_rebound(host: str) -> None:
    assert host_allowed(host, {"workshop"})


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:1234", "local", "1.2.3"]
)
def test_hosts_that_can(host: str) -> None:
    assert not host_allowed(host, {"workshop"})


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:8888", True),
        ("app://obsidian.md", True),
        ("vscode-webview://1234", True),
        ("http://workshop:1234", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
        ("", False),
        ("chrome-extension://abc", False),
    ],
)
def test_origins(origin: str, allowed: bool) -> None:
    assert origin_allowed(origin, "workshop:1234") is allowed


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("workshop", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
