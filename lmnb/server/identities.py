"""Which model a name means, and all of it that decides what it answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from lmnb.engine.gguf import Kind
from lmnb.errors import InvalidModel
from lmnb.models.entry import ModelEntry
from lmnb.models.instance import Instance
from lmnb.server.remote import routing
from lmnb.server.state import State

_DECIDING = ("num_experts", "cache_type_k", "cache_type_v", "bf16_weights")
"""Options of a load that change answers, besides the adapters."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A model.

    key
        Its name in lists.
    digest
        SHA-256 of its file; of a remote model, whose file is out of reach, its id there.
    endpoint
        Where it is, if it is remote: names of endpoints, separated by commas.
    options
        What was asked for when it was loaded, as far as it changes answers; empty if it is not loaded.
    """

    key: str
    kind: Kind
    digest: str
    endpoint: str | None = None
    options: dict[str, Any] = {}


async def identify(state: State, name: str) -> Identity:
    """The model that a request with this `name` would be answered by.

    Raises
    ------
    ModelNotFound, InvalidModel
        There is none, or it cannot be read.
    """
    if (target := await routing.find(state, name)) is not None:
        urls = ",".join(sorted(link.endpoint.url for link in target.links))
        return Identity(
            key=target.key,
            kind=target.model.kind,
            digest=f"{target.model.id} at {urls}",
            endpoint=",".join(link.name for link in target.links),
        )
    entry, found = await entry_of(state, name)
    try:
        return await asyncio.to_thread(_identity, state, entry.key, entry.kind, entry.path, found)
    except OSError as error:
        raise InvalidModel(f"{entry.key} cannot be read: {error.strerror}.") from None


async def entry_of(state: State, name: str) -> tuple[ModelEntry, Instance | None]:
    """The model of this machine that a name means, and its instance if it is loaded.

    Raises
    ------
    ModelNotFound, InvalidModel
        As for `identify`.
    """
    loaded = state.models.loaded()
    wanted = name.strip().casefold()
    found = next((one for one in loaded if one.id.casefold() == wanted), None)
    if found is not None:
        return found.entry, found
    entry = await state.catalog.resolve(name)
    return entry, next((one for one in loaded if one.entry.key == entry.key), None)


def _identity(
    state: State, key: str, kind: Kind, path: Path, instance: Instance | None
) -> Identity:
    options: dict[str, Any] = {}
    if instance is not None:
        given = instance.requested
        options = {name: value for name in _DECIDING if (value := getattr(given, name)) is not None}
        if given.adapters:
            options["adapters"] = [
                [state.digests.of_file(Path(one.path)), one.scale] for one in given.adapters
            ]
    return Identity(key=key, kind=kind, digest=state.digests.of_model(path), options=options)
