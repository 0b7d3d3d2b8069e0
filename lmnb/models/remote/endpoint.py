"""What an endpoint is called, where it is, and what it has."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import msgspec

from lmnb.engine.gguf import Kind
from lmnb.errors import InvalidRequest

Flavour: TypeAlias = Literal["lmnb", "vllm", "llama.cpp", "other"]
"""Whose server it is, as far as that changes what may be asked of it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An OpenAI-compatible server.

    name
        The first part of the names of its models, `name/model`.
    url
        What comes before `/chat/completions`; it ends without a slash.
    key_env
        The variable that holds its API key; None: it asks for none.
    """

    name: str
    url: str
    key_env: str | None = None


class RemoteModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of an endpoint, as far as the endpoint tells.

    id
        The endpoint's own name for it.
    kind
        What it is for. Most servers do not say: then it is a guess from the name, to be shown only.
    context
        Tokens a prompt and its answer may have together.
    sees
        Whether it reads images; None: the endpoint does not say.
    is_passed_on
        The endpoint is an lmnb that has it from another endpoint.
    """

    id: str
    kind: Kind = "llm"
    context: int | None = None
    sees: bool | None = None
    is_passed_on: bool = False


def make(url: str, name: str | None, key_env: str | None) -> Endpoint:
    """The endpoint that a user describes. Without a name it gets that of its host.

    Raises
    ------
    InvalidRequest
        The address, the name or the variable cannot be one.
    """
    address = _address(url)
    host = urlsplit(address).netloc.strip("[]").replace(":", "-").replace("[", "").replace("]", "")
    name = host.strip("-") if name is None else name
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot be the name of an endpoint: letters, digits, '.', '_' and '-', "
            "the first a letter or digit, at most 64.",
            hint="Choose one with --name.",
            param="name",
        )
    if key_env is not None and not _VARIABLE.fullmatch(key_env):
        # It may well be the key itself, so it is not repeated.
        raise InvalidRequest(
            "What is given as the variable of the key cannot be the name of one.",
            hint="Give the name of an environment variable that holds the key, not the key.",
            param="key_env",
        )
    return Endpoint(name=name, url=address, key_env=key_env)


def _address(url: str) -> str:
    """`http://host:8000` is that of `http://host:8000/v1`, any other path is taken as it is."""
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in {"http", "https"} or not host:
        raise InvalidRequest(
            f"{url!r} is no http:// or https:// address.",
            hint="Such as http://gpu.example:8000/v1.",
            param="url",
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidRequest(
            "The address of an endpoint has no user, password or query: it is shown in listings.",
            hint="Keys are read from the environment: --key-env VARIABLE.",
            param="url",
        )
    path = parts.path.rstrip("/") or "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
