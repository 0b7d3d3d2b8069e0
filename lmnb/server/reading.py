"""What a model only reads: vectors, rankings, counts of tokens, rendered prompts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from lmnb.chat import generate as chat
from lmnb.chat.conversation import Request
from lmnb.chat.documents import showing as documents
from lmnb.engine.client import Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import Kind
from lmnb.errors import EngineCrashed, NotSupported
from lmnb.models.entry import ModelEntry
from lmnb.models.instance import Instance
from lmnb.models.matryoshka import may_be_cut
from lmnb.models.retries import Tries
from lmnb.server.generation import load_config
from lmnb.server.journal import Generation
from lmnb.server.remote import counting, pooling, routing
from lmnb.server.state import State

T = TypeVar("T")


class Embeddings(msgspec.Struct, frozen=True):
    """Vectors of the instance that computed them, as `Embedded` has them, and the tokens read.

    `may_be_cut`: see `lmnb.models.matryoshka`.
    """

    instance: str
    vectors: bytes
    dimensions: int
    tokens: int
    may_be_cut: bool


class Ranking(msgspec.Struct, frozen=True):
    """Scores in the order of the documents, and the tokens read."""

    scores: tuple[float, ...]
    tokens: int


async def embed(
    state: State,
    model: str,
    inputs: Sequence[str | tuple[int, ...]],
    *,
    dimensions: int | None = None,
    truncate: bool = False,
    ttl: float | None = None,
) -> Embeddings:
    """Embed texts or token lists; one vector each, of length 1, in the order of `inputs`.

    `dimensions` are for endpoints, which cut vectors themselves.

    Raises
    ------
    NotSupported
        The model is not an embedding model.
    ContextOverflow
        An input is longer than the model's context, and `truncate` is off.
    """
    if (target := await routing.find(state, model)) is not None:
        options = pooling.Options(dimensions=dimensions, truncate=truncate, ttl=ttl)
        with state.journal.generation(model) as generation:
            found = await pooling.embed(state, target, inputs, options)
            generation.use(found.instance)
            generation.read(found.tokens)
        return Embeddings(*found, may_be_cut=False)

    async def work(instance: Instance, generation: Generation) -> Embeddings:
        result = await instance.worker.embed(
            inputs, truncate=truncate, priority=state.priority, label=generation.id
        )
        tokens = sum(result.tokens)
        generation.read(tokens)
        state.metrics.embedded(instance.id, tokens)
        cut = may_be_cut(instance.entry)
        return Embeddings(instance.id, result.vectors, result.dimensions, tokens, cut)

    return await _use(state, model, "embedding", work, ttl=ttl)


async def rerank(
    state: State,
    model: str,
    query: str,
    documents: Sequence[str],
    *,
    truncate: bool = False,
    ttl: float | None = None,
) -> Ranking:
    """Score how relevant each document is to the query, 0 to 1 (of an endpoint: as it has them).

    Raises
    ------
    NotSupported
        The model does not rerank.
    ContextOverflow
        A document is too long together with the query, and `truncate` is off; or the query alone.
    """
    if (target := await routing.find(state, model)) is not None:
        options = pooling.Options(truncate=truncate, ttl=ttl)
        with state.journal.generation(model) as generation:
            ranking = Ranking(*await pooling.rerank(state, target, query, documents, options))
            generation.read(ranking.tokens)
        return ranking

    async def work(instance: Instance, generation: Generation) -> Ranking:
        ranked = await instance.worker.rerank(
            query, documents, truncate=truncate, priority=state.priority, label=generation.id
        )
        tokens = sum(ranked.tokens)
        generation.read(tokens)
        state.metrics.embedded(instance.id, tokens)
        return Ranking(ranked.scores, tokens)

    return await _use(state, model, "embedding", work, ttl=ttl)


async def count_tokens(state: State, request: Request) -> int:
    """Tokens of the prompt that `request` would be, by its model's own template and vocabulary.

    Of a model that is not loaded the vocabulary is enough, and nothing makes room for it, unless
    there are pictures, sounds or documents, of which it would have to be known what it sees.
    """
    chat.ensure_supported(request)
    if (target := await routing.find(state, request.model)) is not None:
        return await counting.count(state, target, request)
    entry = await state.models.unloaded(request.model)
    if entry is not None and chat.is_all_words(request):
        async with vocabulary(entry) as worker:
            return len(await chat.tokenize(request, worker, state.renderer))

    async def work(instance: Instance, _generation: Generation) -> int:
        worker = instance.worker
        wanted = await documents.shown(request, state.documents, sees=worker.info.sees)
        return len(await chat.tokenize(wanted, worker, state.renderer))

    return await _use(
        state, request.model, "llm", work, ttl=request.ttl, options=load_config(request)
    )


async def render(state: State, request: Request) -> chat.PromptText:
    """The prompt that `request` would be, found as for `count_tokens`. Nothing stands in the journal.

    Raises
    ------
    NotSupported
        An endpoint has the model, and renders the prompt itself.
    """
    chat.ensure_supported(request)
    if await routing.find(state, request.model) is not None:
        raise NotSupported(
            f"{request.model} is on another server, which does not show its prompts.",
            param="model",
        )
    entry = await state.models.unloaded(request.model)
    if entry is not None and chat.is_all_words(request):
        async with vocabulary(entry) as worker:
            return await chat.prompt_text(request, worker, state.renderer)
    options = load_config(request)
    async with state.models.lease(request.model, "llm", options=options) as lease:
        worker = lease.instance.worker
        wanted = await documents.shown(request, state.documents, sees=worker.info.sees)
        return await chat.prompt_text(wanted, worker, state.renderer)


@asynccontextmanager
async def vocabulary(entry: ModelEntry) -> AsyncIterator[Worker]:
    """A worker for a moment, without the weights."""
    worker = await Worker.start(entry.path, LoadConfig(), only_vocabulary=True)
    try:
        yield worker
    finally:
        await worker.stop()


async def _use(
    state: State,
    model: str,
    kind: Kind,
    work: Callable[[Instance, Generation], Awaitable[T]],
    *,
    ttl: float | None,
    options: LoadConfig | None = None,
) -> T:
    """The result of some work with a model, which is done again if its worker dies meanwhile."""
    tries = Tries()
    with state.journal.generation(model) as generation:
        while True:
            try:
                async with (
                    tries.apart(),
                    state.models.lease(
                        tries.instance or model, kind, ttl=ttl, options=options
                    ) as lease,
                ):
                    tries.use(lease.instance.id, state.models.suspects(lease.instance.entry))
                    generation.use(lease.instance.id)
                    return await work(lease.instance, generation)
            except EngineCrashed as error:
                if not tries.again(error):
                    raise
