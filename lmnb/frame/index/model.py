"""The embedding model of an index: queries have to be read by the one that read the texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lmnb.attaching import attach
from lmnb.errors import InvalidRequest, ModelNotFound
from lmnb.frame import prefixes as known
from lmnb.frame.embedding import Embedding, Truncate, Vector, matrix
from lmnb.frame.prefixes import Kind, Prefixes

_NONE = Prefixes("", "")


class OtherModel(InvalidRequest):
    """An index was made with another embedding model than the one that is there."""

    code = "other_model"


@dataclass(frozen=True)
class Model:
    """A model as the server identifies it, and what goes before texts.

    digest, options
        See `lmnb.server.identities.Identity`: what decides the vectors.
    """

    key: str
    digest: str
    options: dict[str, Any] = field(default_factory=dict)
    prefixes: Prefixes = _NONE

    @classmethod
    def of(cls, identity: Mapping[str, Any], prefixes: Prefixes | None = None) -> Model:
        """The model of that identity, with the prefixes that are known of it, or these."""
        key = identity["key"]
        found = prefixes or known.find(key) or _NONE
        return cls(key, identity["digest"], dict(identity["options"]), found)

    @classmethod
    def named(cls, name: str, prefixes: Prefixes | None = None) -> Model:
        """The model that the server knows by this name."""
        return cls.of(attach().identify(name), prefixes)

    def ensure(self, other: Model) -> None:
        """Refuse another model than this one, of which the index is.

        Raises
        ------
        OtherModel
            Its file is another, or it is loaded with other adapters.
        """
        if (other.digest, other.options) != (self.digest, self.options):
            raise OtherModel(
                f"The index was made with {self}, but this is {other}: their vectors cannot be compared.",
                hint="Search with the index's own model, or make the index anew.",
            )

    def current(self, name: str | None) -> Model:
        """The model as it is now, under another name or its own; as it was, if its own is not there.

        Raises
        ------
        OtherModel
            The name, or this model's own, means another one.
        ModelNotFound
            There is none of that name.
        """
        try:
            found = Model.named(name or self.key, self.prefixes)
        except ModelNotFound:
            if name is not None:
                raise
            return self  # words can be searched without it
        self.ensure(found)
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON that `from_dict` makes it of again."""
        return {**vars(self), "prefixes": self.prefixes._asdict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any] | None) -> Model | None:
        """The model that `to_dict` described, if any."""
        if data is None:
            return None
        prefixes = Prefixes(**data["prefixes"])
        return cls(data["key"], data["digest"], data["options"], prefixes)

    def embed(self, series: pd.Series[Any], kind: Kind, **options: Any) -> Vector:
        """The vectors of texts by this model: (rows, dimensions), NaN for nulls."""
        prefix = getattr(self.prefixes, kind)
        work = _embedding(series, self.key, kind, prefix, **options)
        self.ensure(Model.of(work.identity))
        return matrix(work.run())

    def __str__(self) -> str:
        options = f" with {self.options}" if self.options else ""
        return f"{self.key}{options} ({self.digest[:12]})"


def embed_documents(
    series: pd.Series[Any], name: str | None, prefixes: Prefixes | None, **options: Any
) -> tuple[Model, Vector]:
    """The vectors of a column of texts by the model of that name, or the default one; and that model."""
    prefix = prefixes.document if prefixes else None
    work = _embedding(series, name, "document", prefix, **options)
    return Model.of(work.identity, prefixes), matrix(work.run())


def _embedding(
    series: pd.Series[Any],
    name: str | None,
    kind: Kind,
    prefix: str | None,
    *,
    truncate: Truncate = "warn",
    cache: bool = True,
    progress: bool | None = None,
) -> Embedding:
    return Embedding(
        series,
        model=name,
        kind=kind,
        prefix=prefix,
        truncate=truncate,
        cache=cache,
        progress=progress,
    )
