"""Looking for models: on the Hub by words, and the built-in ones without them."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from lmnb.errors import DownloadFailed
from lmnb.models.builtin import BUILTIN
from lmnb.models.entry import format_parameters
from lmnb.models.sources import hub_api
from lmnb.models.sources.reference import endpoint, is_url, parse_hub

_FIELDS = ("downloads", "likes", "lastModified", "gated", "gguf")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be fetched.

    model
        What `get` and `variants` take.
    description
        One line about a built-in model.
    size_bytes
        Of a built-in model, which has one variant.
    parameters, params_string, architecture, context_length
        As far as the Hub knows them; `params_string` such as `8.0B`.
    downloads
        In the last month.
    updated_at
        ISO 8601.
    gated
        Its authors want their terms accepted first.
    """

    model: str
    source: Literal["builtin", "hub"]
    description: str | None = None
    size_bytes: int | None = None
    parameters: int | None = None
    params_string: str | None = None
    architecture: str | None = None
    context_length: int | None = None
    downloads: int | None = None
    likes: int | None = None
    updated_at: str | None = None
    gated: bool = False


class _Header(msgspec.Struct):
    total: int | None = None
    architecture: str | None = None
    context_length: int | None = None


class _Row(msgspec.Struct, rename="camel"):
    id: str
    downloads: int | None = None
    likes: int | None = None
    last_modified: str | None = None
    gated: bool | str | None = None
    gguf: _Header | None = None


def builtin() -> list[Found]:
    """The models that come through pip. Asks nobody."""
    kinds = {"llm": "chat model", "embedding": "embedding model"}
    return [
        Found(
            model=model.key,
            source="builtin",
            description=f"{kinds[model.kind]}, built in: it comes through pip, without the Hub",
            size_bytes=model.wheel.size,
        )
        for model in BUILTIN.values()
    ]


async def search(query: str, limit: int) -> list[Found]:
    """Repositories with GGUF files whose names have the words of `query`, most downloaded first.

    `query` may be the address of a repository, too. At most `limit`.

    Raises
    ------
    DownloadFailed
        The Hub refuses, or answers something else. `NoNetwork`: it is not reached.
    """
    # Not `HfApi.list_models`: it has no timeout, and tries again for half a minute where there is
    # no network.
    params: dict[str, str | int | list[str]] = {
        "search": _words(query),
        "filter": "gguf",
        "sort": "downloads",
        "limit": limit,
        "expand": list(_FIELDS),
    }
    url, subject = f"{endpoint()}/api/models", f"the search for {query!r}"
    # In a thread: the first time, huggingface_hub asks the Hub for something of its own.
    headers = await asyncio.to_thread(hub_api.headers)
    async with hub_api.client() as client:
        try:
            response = await client.get(
                url, params=params, headers=headers, timeout=hub_api.SECONDS
            )
        except Exception as error:
            raise hub_api.explain(error, subject) from error
    if response.is_error:
        raise hub_api.refused(response, subject, "main")
    try:
        rows = msgspec.json.decode(response.content, type=list[_Row])
    except msgspec.DecodeError as error:
        raise DownloadFailed(
            f"The Hub ({endpoint()}) answered something that is no list of models.",
            hint="Is there a login page between it and this machine, or is HF_ENDPOINT wrong?",
        ) from error
    return [_found(row) for row in rows[:limit]]


def _words(query: str) -> str:
    reference = parse_hub(query) if is_url(query) else None
    return reference.repository if reference else query.strip()


def _found(row: _Row) -> Found:
    header = row.gguf or _Header()
    return Found(
        model=row.id,
        source="hub",
        parameters=header.total,
        params_string=format_parameters(header.total or 0),
        architecture=header.architecture,
        context_length=header.context_length,
        downloads=row.downloads,
        likes=row.likes,
        updated_at=row.last_modified,
        gated=bool(row.gated),
    )
