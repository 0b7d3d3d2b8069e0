"""Vectors and scores of remote models."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from lmnb.errors import EndpointFailed, NotSupported
from lmnb.models.remote.answers import read
from lmnb.models.remote.endpoint import Flavour
from lmnb.models.remote.endpoints import Target
from lmnb.models.remote.link import Link
from lmnb.server.remote import routing
from lmnb.server.state import State

Json = dict[str, Any]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said about vectors and scores. `ttl` is for another lmnb."""

    dimensions: int | None = None
    truncate: bool = False
    ttl: float | None = None


class Vectors(NamedTuple):
    """`vectors`: little-endian float32, row-major. `instance` is `endpoint/model`."""

    instance: str
    vectors: bytes
    dimensions: int
    tokens: int


async def embed(
    state: State, target: Target, inputs: Sequence[str | tuple[int, ...]], options: Options
) -> Vectors:
    """Vectors of texts by an endpoint, as long as it makes them.

    Raises
    ------
    EndpointFailed
        No endpoint answers, or one answers with something else.
    LmnbError
        What the endpoint finds wrong with the request.
    """

    async def ask(link: Link) -> Vectors:
        model, flavour = target.at(link)
        body: Json = {"model": model, "input": list(inputs), "encoding_format": "base64"}
        if options.dimensions is not None:
            body["dimensions"] = options.dimensions
        found = await post(link, "/embeddings", body | _extras(options, flavour))
        rows = _in_order(link, found.get("data"), len(inputs))
        vectors, dimensions = await asyncio.to_thread(_matrix, link.name, rows)
        instance, tokens = f"{link.name}/{model}", _tokens(found)
        state.metrics.embedded(instance, tokens)
        return Vectors(instance, vectors, dimensions, tokens)

    return await routing.result(state, target, ask)


async def rerank(
    state: State, target: Target, query: str, documents: Sequence[str], options: Options
) -> tuple[tuple[float, ...], int]:
    """The relevance of each document by an endpoint, and the tokens read.

    Raises
    ------
    EndpointFailed, LmnbError
        As `embed`.
    """

    async def ask(link: Link) -> tuple[tuple[float, ...], int]:
        model, flavour = target.at(link)
        body: Json = {"model": model, "query": query, "documents": list(documents)}
        if flavour == "lmnb":
            body |= {"truncate": options.truncate} | _extras(options, flavour)
        found = await post(link, "/rerank", body)
        rows = _in_order(link, found.get("results"), len(documents))
        scores = tuple(row.get("relevance_score") for row in rows)
        if not all(isinstance(score, int | float) for score in scores):
            raise _nonsense(link.name, "scores that are no numbers")
        tokens = _tokens(found)
        state.metrics.embedded(f"{link.name}/{model}", tokens)
        return tuple(float(score) for score in scores if score is not None), tokens

    return await routing.result(state, target, ask)


async def post(link: Link, path: str, body: Json, *, at_root: bool = False) -> Json:
    """The JSON object that an endpoint answers with."""
    async with link.request("POST", path, body, at_root=at_root) as response:
        content = await read(response)
    try:
        found = await asyncio.to_thread(msgspec.json.decode, content)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict):
        raise _nonsense(link.name, "what is no JSON object")
    return found


def _extras(options: Options, flavour: Flavour) -> Json:
    body: Json = {}
    if options.ttl is not None:
        if flavour != "lmnb":
            raise NotSupported(
                "'ttl' is not possible with a model of a remote endpoint.", param="ttl"
            )
        body["ttl"] = options.ttl
    if options.truncate and flavour == "vllm":
        body["truncate_prompt_tokens"] = -1
    elif options.truncate and flavour == "lmnb":
        body["truncate"] = True
    elif options.truncate:
        raise NotSupported(
            "'truncate' is not possible with a model of a remote endpoint.", param="truncate"
        )
    return body


def _in_order(link: Link, rows: Any, count: int) -> list[Json]:
    """The rows of an answer by their `index`, each of which has to be there once."""
    rows = rows if isinstance(rows, list) else []
    found = {row.get("index"): row for row in rows if isinstance(row, dict)}
    if len(rows) != count or set(found) != set(range(count)):
        raise _nonsense(link.name, f"{len(rows)} rows that are not those of the {count} texts")
    return [found[i] for i in range(count)]


def _matrix(name: str, rows: Sequence[Json]) -> tuple[bytes, int]:
    """The vectors as little-endian float32, row after row, and how long they are."""
    try:
        found = [_vector(row.get("embedding")) for row in rows]
        matrix = np.stack(found)
    except (ValueError, TypeError, binascii.Error):
        raise _nonsense(name, "vectors that are none, or of different lengths") from None
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise _nonsense(name, "vectors that have no numbers")
    return matrix.tobytes(), matrix.shape[1]


def _vector(value: Any) -> Any:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), "<f4")
    return np.asarray(value, "<f4")


def _tokens(found: Json) -> int:
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = (usage.get("prompt_tokens"), usage.get("total_tokens"))
    return next((count for count in counts if isinstance(count, int)), 0)


def _nonsense(name: str, what: str) -> EndpointFailed:
    return EndpointFailed(f"The endpoint {name} sent {what}.")
