"""Decides what to load for a name, and how; loads nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import msgspec

from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import Kind
from lmnb.errors import InvalidRequest, ModelNotFound, NotSupported
from lmnb.models.builtin import DEFAULT_EMBEDDING, DEFAULT_LLM
from lmnb.models.catalog import Catalog
from lmnb.models.entry import ModelEntry
from lmnb.models.loading import Plan
from lmnb.models.names import not_found


class ManagerSettings(Protocol):
    """The settings that matter here; see `lmnb.config.Settings`."""

    @property
    def jit_loading(self) -> bool: ...
    @property
    def jit_ttl(self) -> float: ...
    @property
    def auto_evict(self) -> bool: ...
    @property
    def default_context_length(self) -> int | None: ...


class Planner:
    """Names and options → plans."""

    def __init__(self, catalog: Catalog, settings: ManagerSettings) -> None:
        self._catalog = catalog
        self._settings = settings

    @property
    def jit_ttl(self) -> float | None:
        """Seconds that a model loaded just in time may be idle unless its request says otherwise."""
        return self._settings.jit_ttl or None

    async def entry(self, name: str | None, kind: Kind) -> ModelEntry:
        """The model that `name` means; without a name, the default one of that kind."""
        if name:
            return await self._catalog.resolve(name)
        default = DEFAULT_LLM if kind == "llm" else DEFAULT_EMBEDDING
        every = await self._catalog.entries()
        entries = [entry for entry in every if entry.kind == kind and entry.is_selected]
        for entry in entries:
            if entry.key == default.key:
                return entry
        if len(entries) == 1:
            return entries[0]
        if not entries:
            raise not_found(default.key, every)
        raise ModelNotFound(
            f"No model was named, and several are here: {', '.join(e.key for e in entries)}.",
            hint="Name one of them, or load one.",
            param="model",
        )

    async def draft(self, name: str | None) -> Path | None:
        """The file of the draft model that `name` means."""
        if not name:
            return None
        try:
            return (await self._catalog.resolve(name)).path
        except ModelNotFound as error:
            raise ModelNotFound(error.message, hint=error.hint, param="draft_model") from error

    def for_request(self, entry: ModelEntry, options: LoadConfig | None) -> Plan:
        """The plan of a load just in time, if such loads are allowed."""
        if not self._settings.jit_loading:
            raise ModelNotFound(
                f"{entry.key} is not loaded, and loading on demand is switched off.",
                hint=f"Load it with `lmnb load {entry.key}`.",
                param="model",
            )
        return Plan(
            id=entry.key,
            entry=entry,
            config=self._complete(entry, options or LoadConfig()),
            jit=True,
            ttl=self.jit_ttl,
        )

    def explicit(
        self, entry: ModelEntry, config: LoadConfig, identifier: str | None, ttl: float | None
    ) -> Plan:
        """The plan of a load that was asked for."""
        config = self._complete(entry, config)
        return Plan(id=identifier or entry.key, entry=entry, config=config, jit=False, ttl=ttl)

    def _complete(self, entry: ModelEntry, config: LoadConfig) -> LoadConfig:
        default = self._settings.default_context_length
        if entry.kind == "llm" and config.context_length is None and default is not None:
            return msgspec.structs.replace(config, context_length=default)
        return config


def check_ttl(ttl: float | None) -> None:
    """Raise `InvalidRequest` unless a TTL is None or a positive number of seconds."""
    if ttl is not None and not (ttl > 0 and math.isfinite(ttl)):
        raise InvalidRequest("ttl must be a positive number of seconds.", param="ttl")


def check_kind(entry: ModelEntry, kind: Kind) -> None:
    """Raise `NotSupported` if a model cannot do what it is needed for."""
    if entry.kind == kind:
        return
    if kind == "llm":
        raise NotSupported(
            f"{entry.key} is an embedding model; it cannot generate text.",
            hint="Use the embeddings endpoint, or name a language model.",
            param="model",
        )
    raise NotSupported(
        f"{entry.key} is a language model; it has no embeddings.",
        hint=f"Name an embedding model, such as {DEFAULT_EMBEDDING.key}.",
        param="model",
    )
