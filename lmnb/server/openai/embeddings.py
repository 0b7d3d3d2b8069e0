"""POST /v1/embeddings (protocols, 1.5)."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from lmnb.server.disconnect import until_disconnect
from lmnb.server.openai import body as bodies
from lmnb.server.openai import token_arrays
from lmnb.server.openai.body import Fields, Int
from lmnb.server.openai.errors import (
    InvalidType,
    InvalidValue,
    UnsupportedParameter,
)
from lmnb.server.openai.sampling import ModelName
from lmnb.server.openai.values import json_type
from lmnb.server.reading import Embeddings, embed
from lmnb.server.state import state_of

Vectors: TypeAlias = NDArray[np.float32]


class EmbeddingsBody(Fields):
    """The body. `truncate` is an extra: cut what is too long instead of failing."""

    model: ModelName
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[Int, Field(ge=1)] | None = None
    truncate: bool = False
    ttl: Annotated[float, Field(gt=0)] | None = None

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """Texts to embed, or the ids that some tokenizer has made of them; checked.

        Raises
        ------
        InvalidType, InvalidValue
            It is neither, or nothing.
        """
        given = self.input
        if isinstance(given, str):
            given = [given]
        if not isinstance(given, list):
            raise InvalidType(
                "Invalid type for 'input': expected a string or an array of strings, "
                f"got {json_type(given)}.",
                param="input",
            )
        if not given:
            raise InvalidValue(
                "'input' is an empty array; there is nothing to embed.", param="input"
            )
        if _are_ids(given):
            return [given]
        if "" in given or [] in given:
            raise InvalidValue("'input' has an empty string; it has no embedding.", param="input")
        if all(isinstance(item, list) and _are_ids(item) for item in given):
            return given
        return [_text(item, f"input[{i}]") for i, item in enumerate(given)]


class Embedding(msgspec.Struct, frozen=True):
    """One vector: a list of numbers, or little-endian float32 in base64."""

    index: int
    embedding: msgspec.Raw | str
    object: str = "embedding"


class EmbeddingUsage(msgspec.Struct, frozen=True):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True):
    """The answer; `data` is in the order of the input."""

    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    object: str = "list"


async def create(request: Request) -> Response:
    """Embed one text or many."""
    body = await bodies.read(request, EmbeddingsBody)
    texts = await asyncio.to_thread(_texts, body.inputs)
    work = embed(
        state_of(request),
        body.model,
        texts,
        dimensions=body.dimensions,
        truncate=body.truncate,
        ttl=body.ttl,
    )
    found = await until_disconnect(request, work)
    _check_dimensions(body, found)
    # Thousands of vectors take a while to write, and other streams must not wait for that.
    content = await asyncio.to_thread(_encode, found, body)
    return Response(content, media_type="application/json")


def _texts(inputs: list[str] | list[list[int]]) -> list[str]:
    texts = [one for one in inputs if isinstance(one, str)]
    return texts or token_arrays.texts([one for one in inputs if isinstance(one, list)])


def _check_dimensions(body: EmbeddingsBody, found: Embeddings) -> None:
    if body.dimensions is None or body.dimensions == found.dimensions:
        return
    if not found.may_be_cut:
        raise UnsupportedParameter(
            f"'dimensions' is not supported: vectors of '{body.model}' have "
            f"{found.dimensions} dimensions and cannot be cut.",
            param="dimensions",
        )
    if body.dimensions > found.dimensions:
        raise InvalidValue(
            f"'dimensions' is at most {found.dimensions} for '{body.model}'.",
            param="dimensions",
        )


def _encode(result: Embeddings, body: EmbeddingsBody) -> bytes:
    rows = np.frombuffer(result.vectors, "<f4").reshape(-1, result.dimensions)
    if body.dimensions is not None and body.dimensions < result.dimensions:
        rows = _cut(rows, body.dimensions)
    data = [Embedding(i, _vector(row, body.encoding_format)) for i, row in enumerate(rows)]
    used = EmbeddingUsage(result.tokens, result.tokens)
    return msgspec.json.encode(EmbeddingList(data, body.model, used))


def _cut(rows: Vectors, dimensions: int) -> Vectors:
    """The first numbers of each vector, (texts, dimensions), of length 1 again."""
    cut = rows[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.ascontiguousarray(cut / np.maximum(lengths, np.finfo(np.float32).tiny), "<f4")


def _vector(row: Vectors, encoding: str) -> msgspec.Raw | str:
    if encoding == "base64":
        return base64.b64encode(row.tobytes()).decode()
    return msgspec.Raw(msgspec.json.encode(row.tolist()))


def _are_ids(items: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def _text(item: Any, where: str) -> str:
    if isinstance(item, str):
        return item
    raise InvalidType(
        f"Invalid type for '{where}': expected a string, got {json_type(item)}.", param=where
    )
