"""The stores by their names."""

from __future__ import annotations

from typing import Literal, TypeAlias

from lmnb.errors import InvalidRequest
from lmnb.frame.index.lance import LanceStore
from lmnb.frame.index.memory import MemoryStore
from lmnb.frame.index.stores import Store

Kind: TypeAlias = Literal["memory", "lance"]

_STORES: dict[str, type[MemoryStore | LanceStore]] = {"memory": MemoryStore, "lance": LanceStore}


def store_of(name: str) -> type[MemoryStore | LanceStore]:
    """The store of that name.

    Raises
    ------
    InvalidRequest
        There is none.
    """
    if name not in _STORES:
        raise InvalidRequest(f"store is 'memory' or 'lance', not {name!r}.")
    return _STORES[name]


def name_of(store: Store) -> str:
    """The name of a store."""
    return next(name for name, kind in _STORES.items() if isinstance(store, kind))
