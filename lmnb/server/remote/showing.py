"""Remote models and endpoints as lists show them."""

from __future__ import annotations

from typing import Any

import msgspec

from lmnb.models.remote.endpoint import RemoteModel
from lmnb.models.remote.endpoints import Target
from lmnb.models.remote.link import Link
from lmnb.server.remote import routing, via
from lmnb.server.state import State


class Shown(msgspec.Struct, frozen=True):
    """A remote model in a list. `key` is what it can be asked for by, `is_up` whether it answers."""

    key: str
    model: RemoteModel
    endpoint: str
    is_up: bool

    @property
    def display_name(self) -> str:
        """For people."""
        return self.model.id.rpartition("/")[2]


async def remote_models(state: State) -> list[Shown]:
    """The models of all endpoints, and by its bare id each that several of them have: it is balanced.

    Another lmnb is shown none that it has given us, nor what comes from further away: servers that
    are connected in a circle would otherwise show each other ever longer lists.
    """
    passed = via.servers()
    found: list[Shown] = []
    for link in await state.endpoints.listed():
        if link.listing is None or (passed and link.listing.server in passed):
            continue
        for model in link.models:
            if not (passed and model.is_passed_on):
                key = f"{link.name}/{model.id}"
                found.append(Shown(key, model, link.name, link.state == "up"))
    for id_ in state.endpoints.shared():
        target = await routing.find(state, id_)
        if target is not None and len(target.links) > 1 and not passed:
            found.append(shown_of(target))
    return found


def shown_of(target: Target) -> Shown:
    """What a name means, as lists show it."""
    names = ",".join(link.name for link in target.links)
    is_up = any(link.state == "up" for link in target.links)
    return Shown(target.key, target.model, names, is_up)


def endpoint_row(link: Link) -> dict[str, Any]:
    """An endpoint: where and how it is, what it has, what it has done."""
    return {
        "name": link.name,
        "url": link.endpoint.url,
        "key_env": link.endpoint.key_env,
        "server": link.listing.flavour if link.listing else None,
        "state": link.state,
        "error": link.trouble if link.state == "down" else None,
        "retried_in": link.cooldown.seconds_left if link.cooldown.circuit == "open" else None,
        "active": link.active,
        "answered": link.served,
        "failed": link.failed,
        "models": [model.id for model in link.models],
    }


def loaded_row(target: Target) -> dict[str, Any]:
    """A remote model as `ps` would show it if it were loaded; nobody else needs to be told apart."""
    return {
        "id": target.key,
        "model": target.key,
        "kind": target.model.kind,
        "state": "busy" if any(link.active for link in target.links) else "idle",
        "jit": False,
        "active": sum(link.active for link in target.links),
        "ttl": None,
        "ttl_left": None,
        "context_length": target.model.context,
        "memory": 0,
        "device": ", ".join(link.name for link in target.links),
        "gpu_layers": 0,
        "layers": 0,
        "load_seconds": 0.0,
        "warnings": [],
    }


def model_row(shown: Shown) -> dict[str, Any]:
    """A remote model with the fields of `lmnb.models.entry.ModelEntry`, and `endpoint`."""
    return {
        "key": shown.key,
        "publisher": shown.endpoint,
        "display_name": shown.display_name,
        "path": None,
        "kind": shown.model.kind,
        "architecture": None,
        "quantization": None,
        "bits_per_weight": None,
        "size_bytes": None,
        "parameters": None,
        "params_string": None,
        "max_context_length": shown.model.context,
        "source": "endpoint",
        "origin": None,
        "license": None,
        "variants": [],
        "format": None,
        "loaded": [],
        "endpoint": shown.endpoint,
        "up": shown.is_up,
    }
