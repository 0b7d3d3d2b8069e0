"""API tokens: named, with permissions, shown once, kept as hashes."""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
import string
import time
from collections.abc import Iterable

import msgspec

from lmnb.errors import InvalidRequest, NotFound
from lmnb.server.database import Database

_ALPHABET = string.ascii_letters + string.digits
_TOKEN = re.compile(r"sk-lm-([A-Za-z0-9]{8}):[A-Za-z0-9]{20}")
_LONGEST_NAME = 100
_NO_HASH = bytes(32)
_COLUMNS = "id, name, created_at, permissions, hash"


class Permission(enum.StrEnum):
    """What a token lets its bearer do. Any token may list models.

    inference
        Ask models, count tokens, embed; stored answers, files and batches. A model that is not
        loaded is loaded for that, as the settings say.
    models
        Load and unload models by name.
    downloads
        Fetch models.
    mcp
        Let the model call MCP servers, with what they may do on this machine.
    administration
        See what others do: metrics.
    """

    INFERENCE = "inference"
    MODELS = "models"
    DOWNLOADS = "downloads"
    MCP = "mcp"
    ADMINISTRATION = "administration"


USUAL = (Permission.INFERENCE, Permission.MODELS, Permission.DOWNLOADS)
"""Permissions of a token made without naming any."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An API token as it may be shown: never the secret. Times are seconds since the epoch."""

    id: str
    name: str
    created_at: float
    permissions: tuple[Permission, ...]


class Tokens:
    """All tokens. Their secrets are kept as SHA-256: they are random enough for a plain hash.

    The form `sk-lm-XXXXXXXX:` and 20 more letters or digits is LM Studio's: its SDKs check it.
    Reading is done in memory, so that a request costs no query.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        _make_table(database)
        rows = database.execute(f"SELECT {_COLUMNS} FROM tokens ORDER BY created_at")  # noqa: S608
        self._tokens: dict[str, Token] = {}
        self._hashes: dict[str, bytes] = {}
        for identifier, name, created_at, permissions, digest in rows:
            self._tokens[identifier] = Token(
                id=identifier,
                name=name,
                created_at=created_at,
                permissions=_ordered(permissions.split()),
            )
            self._hashes[identifier] = digest

    def __len__(self) -> int:
        return len(self._tokens)

    def all(self) -> list[Token]:
        """All tokens, oldest first."""
        return list(self._tokens.values())

    def create(self, name: str, permissions: Iterable[str] = USUAL) -> tuple[Token, str]:
        """A new token and its secret text, which cannot be had again. Blocks (disk).

        Raises
        ------
        InvalidRequest
            The name is empty or taken, or a permission is unknown.
        """
        token = Token(
            id=_random(8),
            name=self._free(name),
            created_at=time.time(),
            permissions=_known(permissions),
        )
        text = f"sk-lm-{token.id}:{_random(20)}"
        digest = hashlib.sha256(text.encode()).digest()
        self._database.execute(
            f"INSERT INTO tokens ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608
            (token.id, token.name, token.created_at, " ".join(token.permissions), digest),
        )
        self._hashes[token.id] = digest
        self._tokens[token.id] = token
        return token, text

    def edit(
        self,
        name: str,
        *,
        new_name: str | None = None,
        permissions: Iterable[str] | None = None,
    ) -> Token:
        """Change the token of that name or id; what is None stays. Requests see it at once.

        Raises
        ------
        NotFound
            There is no such token.
        InvalidRequest
            The new name is empty or taken, or a permission is unknown.
        """
        token = self._find(name)
        if new_name is not None and new_name.strip() != token.name:
            token = msgspec.structs.replace(token, name=self._free(new_name))
        if permissions is not None:
            token = msgspec.structs.replace(token, permissions=_known(permissions))
        self._database.execute(
            "UPDATE tokens SET name = ?, permissions = ? WHERE id = ?",
            (token.name, " ".join(token.permissions), token.id),
        )
        self._tokens[token.id] = token
        return token

    def remove(self, name: str) -> Token:
        """Remove the token of that name or id; it is refused from now on. Blocks (disk)."""
        found = self._find(name)
        self._database.execute("DELETE FROM tokens WHERE id = ?", (found.id,))
        del self._hashes[found.id]
        return self._tokens.pop(found.id)

    def verify(self, text: str) -> Token | None:
        """The token whose secret text that is. The comparison takes as long for all wrong ones."""
        match = _TOKEN.fullmatch(text)
        identifier = match[1] if match else ""
        known = self._hashes.get(identifier, _NO_HASH)
        if hmac.compare_digest(known, hashlib.sha256(text.encode()).digest()):
            return self._tokens.get(identifier)
        return None

    def _find(self, name: str) -> Token:
        for token in self._tokens.values():
            if name in {token.id, token.name}:
                return token
        raise NotFound(f"There is no token {name!r}.", param="name")

    def _free(self, name: str) -> str:
        name = name.strip()
        if not name:
            raise InvalidRequest("A token needs a name.", param="name")
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise InvalidRequest(
                f"A token's name is one line of at most {_LONGEST_NAME} printable characters.",
                param="name",
            )
        if any(name in {token.id, token.name} for token in self._tokens.values()):
            raise InvalidRequest(
                f"There is a token named {name!r} already.",
                hint="Choose another name, or remove that token first.",
                param="name",
            )
        return name


def _make_table(database: Database) -> None:
    database.execute(
        "CREATE TABLE IF NOT EXISTS tokens "
        "(id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, hash BLOB NOT NULL, created_at REAL)"
    )
    columns = {row[1] for row in database.execute("PRAGMA table_info(tokens)")}
    if "permissions" not in columns:  # A file from before there were any: its tokens keep all.
        everything = " ".join(Permission)
        database.execute(
            f"ALTER TABLE tokens ADD COLUMN permissions TEXT NOT NULL DEFAULT '{everything}'"
        )


def _known(permissions: Iterable[str]) -> tuple[Permission, ...]:
    names = {name.strip() for name in permissions}
    unknown = names.difference(Permission)
    if unknown or not names:
        wrong = f"{min(unknown)!r} is no permission" if unknown else "A token needs a permission"
        raise InvalidRequest(
            f"{wrong}.", hint=f"Permissions are {', '.join(Permission)}.", param="permissions"
        )
    return _ordered(names)


def _ordered(names: Iterable[str]) -> tuple[Permission, ...]:
    return tuple(permission for permission in Permission if permission in set(names))


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
