"""POST /v1/rerank: documents in the order of their relevance to a query.

Not OpenAI's: the shape is Jina's (https://jina.ai/reranker), which llama.cpp's server, vLLM and
LiteLLM's clients use too. It stands here since its errors and names are those of its neighbours.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from lmnb.server.disconnect import until_disconnect
from lmnb.server.openai import body as bodies
from lmnb.server.openai.body import Fields, Int
from lmnb.server.openai.errors import InvalidType, InvalidValue
from lmnb.server.openai.sampling import ModelName
from lmnb.server.openai.values import json_type
from lmnb.server.reading import Ranking, rerank
from lmnb.server.reply import reply
from lmnb.server.state import state_of


class RerankBody(Fields):
    """The body. `truncate`: cut documents that are too long instead of failing (default)."""

    model: ModelName
    query: str
    documents: list[Any]
    top_n: Annotated[Int, Field(ge=1)] | None = None
    return_documents: bool = False
    truncate: bool = True
    ttl: Annotated[float, Field(gt=0)] | None = None

    @property
    def texts(self) -> list[str]:
        """The documents, checked: texts, or objects with a `text`."""
        if not self.documents:
            raise InvalidValue("'documents' is an empty array.", param="documents")
        return [_text(item, f"documents[{i}]") for i, item in enumerate(self.documents)]


class Document(msgspec.Struct, frozen=True):
    """A document, given back."""

    text: str


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """One document: its place in the request, and its relevance from 0 to 1."""

    index: int
    relevance_score: float
    document: Document | None = None


class RerankUsage(msgspec.Struct, frozen=True):
    """Tokens read: the query counts with each document."""

    prompt_tokens: int
    total_tokens: int


class RerankList(msgspec.Struct, frozen=True):
    """The answer; `results` begin with the most relevant one."""

    model: str
    usage: RerankUsage
    results: list[Result]
    object: str = "list"


async def create(request: Request) -> Response:
    """Score documents by a reranking model."""
    body = await bodies.read(request, RerankBody)
    texts = body.texts
    work = rerank(
        state_of(request), body.model, body.query, texts, truncate=body.truncate, ttl=body.ttl
    )
    return reply(_answer(await until_disconnect(request, work), body, texts))


def _answer(ranked: Ranking, body: RerankBody, texts: list[str]) -> RerankList:
    best = sorted(range(len(texts)), key=lambda i: -ranked.scores[i])[: body.top_n]
    results = [
        Result(i, ranked.scores[i], Document(texts[i]) if body.return_documents else None)
        for i in best
    ]
    return RerankList(body.model, RerankUsage(ranked.tokens, ranked.tokens), results)


def _text(item: Any, where: str) -> str:
    if isinstance(item, dict):
        item, where = item.get("text"), f"{where}.text"
    if not isinstance(item, str):
        raise InvalidType(
            f"Invalid type for '{where}': expected a string, got {json_type(item)}.", param=where
        )
    return item
