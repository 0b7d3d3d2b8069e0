"""POST /v1/embeddings (protocols, 1.5)."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from lmnb.engine.protocol import Embedded
from lmnb.server.disconnect import until_disconnect
from lmnb.server.generation import embed
from lmnb.server.openai import body as bodies
from lmnb.server.openai.body import Fields, Int
from lmnb.server.openai.errors import (
    InvalidType,
    InvalidValue,
    UnsupportedParameter,
    UnsupportedValue,
)
from lmnb.server.openai.sampling import ModelName
from lmnb.server.openai.values import json_type
from lmnb.server.state import state_of


class EmbeddingsBody(Fields):
    """The body. `truncate` is an extra: cut what is too long instead of failing."""

    model: ModelName
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[Int, Field(ge=1)] | None = None
    truncate: bool = False
    ttl: Annotated[float, Field(gt=0)] | None = None

    @property
    def texts(self) -> list[str]:
        """The texts to embed, checked."""
        if isinstance(self.input, str):
            texts = [self.input]
        elif isinstance(self.input, list):
            texts = [_text(item, f"input[{i}]") for i, item in enumerate(self.input)]
        else:
            raise InvalidType(
                "Invalid type for 'input': expected a string or an array of strings, "
                f"got {json_type(self.input)}.",
                param="input",
            )
        if not texts:
            raise InvalidValue(
                "'input' is an empty array; there is nothing to embed.", param="input"
            )
        if not all(texts):
            raise InvalidValue("'input' has an empty string; it has no embedding.", param="input")
        return texts


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
    texts = body.texts
    work = embed(state_of(request), body.model, texts, truncate=body.truncate, ttl=body.ttl)
    result = (await until_disconnect(request, work)).result
    if body.dimensions is not None and body.dimensions != result.dimensions:
        raise UnsupportedParameter(
            f"'dimensions' is not supported: vectors of '{body.model}' have {result.dimensions} "
            "dimensions and cannot be cut.",
            param="dimensions",
        )
    # Thousands of vectors take a while to write, and other streams must not wait for that.
    content = await asyncio.to_thread(_encode, result, body)
    return Response(content, media_type="application/json")


def _encode(result: Embedded, body: EmbeddingsBody) -> bytes:
    size = 4 * result.dimensions
    rows = memoryview(result.vectors)
    data = [
        Embedding(i, _vector(rows[i * size : (i + 1) * size], body.encoding_format))
        for i in range(len(result.tokens))
    ]
    used = sum(result.tokens)
    return msgspec.json.encode(EmbeddingList(data, body.model, EmbeddingUsage(used, used)))


def _vector(row: memoryview, encoding: str) -> msgspec.Raw | str:
    if encoding == "base64":
        return base64.b64encode(row).decode()
    return msgspec.Raw(msgspec.json.encode(row.cast("f").tolist()))


def _text(item: Any, where: str) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, int | list) and not isinstance(item, bool):
        raise UnsupportedValue(
            "'input' must be a string or an array of strings; token ids are not supported, because "
            "those of another tokenizer would give wrong vectors.",
            hint="Send text. With LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False.",
            param="input",
        )
    raise InvalidType(
        f"Invalid type for '{where}': expected a string, got {json_type(item)}.", param=where
    )
