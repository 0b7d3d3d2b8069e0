"""The one road from a request to its events, and the ways the protocols walk it.

A streaming route::

    events = await until_disconnect(request, begin(generate(state, wanted)))
    return stream(translate(events), on_error=...)

A plain one::

    answer = await until_disconnect(request, fold(generate(state, wanted)))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TypeVar

import msgspec

from lmnb.chat import generate as chat
from lmnb.chat import output_format, tool_check
from lmnb.chat.conversation import Request, Text, Thinking, ToolCall
from lmnb.chat.documents import showing as documents
from lmnb.chat.events import Event, Finished, Loading, Prompt, Scored, TextDelta
from lmnb.chat.said import Said
from lmnb.engine.client import Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import Kind
from lmnb.engine.options import TokenLogprob
from lmnb.errors import EngineCrashed, NotSupported
from lmnb.models.entry import ModelEntry
from lmnb.models.instance import Instance
from lmnb.models.instances import Lease
from lmnb.models.matryoshka import may_be_cut
from lmnb.models.retries import Tries
from lmnb.server.journal import Generation
from lmnb.server.notes import note
from lmnb.server.remote import counting, pooling, routing
from lmnb.server.remote import generating as remote
from lmnb.server.state import State

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds to wait for a sign of life before a stream's headers are sent."""

# --- events -----------------------------------------------------------------------


async def generate(state: State, request: Request) -> AsyncGenerator[Event, None]:
    """Load the model if need be, render, generate; or have an endpoint do it that has the model.

    The order of events is that of `lmnb.chat.events`; if the worker dies before the answer has
    begun, `Loading` and `Prompt` come once more (see `lmnb.models.retries`). Closing the generator,
    or cancelling the task that reads it, stops the generation at once and gives the model back.

    Raises
    ------
    InvalidRequest
        The wanted output format, or a strict tool, cannot be enforced, or a document cannot be
        read; nothing has been loaded or queued.
    LmnbError
        Whatever went wrong, possibly in mid-answer: `EngineCrashed`, `ModelUnloaded`.
    """
    with state.journal.generation(request.model) as generation:
        async with aclosing(_events(state, request, generation)) as events:
            async for event in events:
                generation.saw(event)
                yield event


async def _events(
    state: State, request: Request, generation: Generation
) -> AsyncGenerator[Event, None]:
    chat.ensure_supported(request)
    target = await routing.find(state, request.model)
    if target is None:
        await _note_unenforced(request)
    await documents.check(request, state.documents)
    if target is not None:
        async with aclosing(remote.generate(state, target, request)) as events:
            async for event in events:
                yield event
        return
    if request.prompt is None:
        await state.renderer.warm_up()  # it starts while the model loads
    tries = Tries()
    while True:
        try:
            async with aclosing(_try(state, request, tries, generation)) as events:
                async for event in events:
                    tries.begun = tries.begun or not isinstance(event, Loading | Prompt)
                    yield event
        except EngineCrashed as error:
            if not tries.again(error):
                raise
        else:
            return


async def _try(
    state: State, request: Request, tries: Tries, generation: Generation
) -> AsyncGenerator[Event, None]:
    """One try: `generate` with a worker that may die."""
    async with AsyncExitStack() as alone, AsyncExitStack() as stack:
        await alone.enter_async_context(tries.apart())
        lease: Lease | None = None
        name = tries.instance or request.model
        async for step in _lease(state, stack, name, request.ttl, _load_config(request)):
            if isinstance(step, Loading):
                yield step
            else:
                lease = step
        assert lease is not None
        instance = lease.instance
        tries.use(instance.id, state.models.suspects(instance.entry))
        generation.use(instance.id)
        info = instance.worker.info
        events = await stack.enter_async_context(
            aclosing(
                chat.generate(
                    await documents.shown(request, state.documents, sees=info.sees),
                    instance.worker,
                    state.renderer,
                    instance=instance.id,
                    load_seconds=lease.load_seconds,
                    draft=await state.models.draft(request.draft),
                    priority=state.priority,
                    label=generation.id,
                    witness=generation.witness,
                )
            )
        )
        async for event in events:
            if not isinstance(event, Prompt):
                await alone.aclose()  # it has got through what a crash would be retried for
            if isinstance(event, Finished):
                state.metrics.answered(event)
                if speed := event.timings.tokens_per_second(event.usage.output):
                    instance.tokens_per_second = speed
            yield event


async def check(state: State, request: Request) -> None:
    """Raise what `generate` would raise, as far as that can be told without loading anything.

    Raises
    ------
    InvalidRequest, ModelNotFound
        As `generate`.
    """
    chat.ensure_supported(request)
    if await routing.find(state, request.model) is None:
        await _note_unenforced(request)
        await state.models.check(request.model, "llm")


async def _note_unenforced(request: Request) -> None:
    """Say what of the wanted format and of the tools is not enforced."""
    for text in (
        *await output_format.check(request.output_format),
        *await tool_check.check(request),
    ):
        note(text)


async def _lease(
    state: State,
    stack: AsyncExitStack,
    model: str,
    ttl: float | None,
    options: LoadConfig | None,
) -> AsyncGenerator[Loading | Lease, None]:
    """Lease an instance until `stack` closes: `Loading`* while it is loaded, then the lease."""
    progress: asyncio.Queue[float | None] = asyncio.Queue()
    context = state.models.lease(
        model, kind="llm", ttl=ttl, options=options, on_progress=progress.put_nowait
    )
    entering = asyncio.ensure_future(stack.enter_async_context(context))
    entering.add_done_callback(lambda _: progress.put_nowait(None))
    try:
        while (fraction := await progress.get()) is not None:
            yield Loading(model, fraction)
        lease = entering.result()
    finally:
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
    if lease.load_seconds is not None:
        yield Loading(lease.instance.id, 1.0, lease.load_seconds)
    yield lease


def _load_config(request: Request) -> LoadConfig | None:
    return msgspec.convert(request.load, LoadConfig) if request.load else None


def _is_underway(event: object) -> bool:
    return not isinstance(event, Loading)


async def begin(
    events: AsyncGenerator[T, None],
    *,
    ready: Callable[[T], bool] = _is_underway,
    patience: float = PATIENCE,
) -> AsyncGenerator[T, None]:
    """Wait for the first event that `ready` accepts (default: the first that is not `Loading`).

    What goes wrong until then is raised here, so that it becomes an HTTP status instead of an
    error in a stream. After `patience` seconds the stream is to begin all the same. The result
    yields all events.
    """
    seen: list[T] = []
    waiting = asyncio.ensure_future(_collect(events, seen, ready))
    try:
        await asyncio.wait({waiting}, timeout=patience)
    except asyncio.CancelledError:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()
        raise
    if waiting.done():
        waiting.result()
    return _resume(events, seen, waiting)


async def _collect(
    events: AsyncGenerator[T, None], seen: list[T], ready: Callable[[T], bool]
) -> None:
    async for event in events:
        seen.append(event)
        if ready(event):
            return


async def _resume(
    events: AsyncGenerator[T, None], seen: list[T], waiting: asyncio.Future[None]
) -> AsyncGenerator[T, None]:
    try:
        await waiting
        for event in seen:
            yield event
        async for event in events:
            yield event
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()


# --- whole answers ----------------------------------------------------------------


class Answer(msgspec.Struct, frozen=True):
    """The events of a generation, folded. Arguments of a call that was cut are the beginning of some."""

    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...]
    finished: Finished
    prompt: tuple[TokenLogprob, ...] = ()


async def fold(events: AsyncGenerator[Event, None]) -> Answer:
    """Run a generation to its end."""
    said = Said()
    logprobs: list[TokenLogprob] = []
    scored: tuple[TokenLogprob, ...] = ()
    async with aclosing(events):
        async for event in events:
            said.feed(event)
            if isinstance(event, TextDelta):
                logprobs.extend(event.logprobs)
            elif isinstance(event, Scored):
                scored = event.tokens
            elif isinstance(event, Finished):
                parts = said.parts
                return Answer(
                    "".join(part.text for part in parts if isinstance(part, Text)),
                    "".join(part.text for part in parts if isinstance(part, Thinking)),
                    said.calls,
                    tuple(logprobs),
                    event,
                    scored,
                )
    raise AssertionError("A generation ends with Finished or an error.")


# --- without generating -------------------------------------------------------------


class Embedding(msgspec.Struct, frozen=True):
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
) -> Embedding:
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
        return Embedding(*found, may_be_cut=False)

    async def work(instance: Instance, generation: Generation) -> Embedding:
        result = await instance.worker.embed(
            inputs, truncate=truncate, priority=state.priority, label=generation.id
        )
        tokens = sum(result.tokens)
        generation.read(tokens)
        state.metrics.embedded(instance.id, tokens)
        cut = may_be_cut(instance.entry)
        return Embedding(instance.id, result.vectors, result.dimensions, tokens, cut)

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
        async with _vocabulary(entry) as worker:
            return len(await chat.tokenize(request, worker, state.renderer))

    async def work(instance: Instance, _generation: Generation) -> int:
        worker = instance.worker
        wanted = await documents.shown(request, state.documents, sees=worker.info.sees)
        return len(await chat.tokenize(wanted, worker, state.renderer))

    return await _use(
        state, request.model, "llm", work, ttl=request.ttl, options=_load_config(request)
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
        async with _vocabulary(entry) as worker:
            return await chat.prompt_text(request, worker, state.renderer)
    options = _load_config(request)
    async with state.models.lease(request.model, "llm", options=options) as lease:
        worker = lease.instance.worker
        wanted = await documents.shown(request, state.documents, sees=worker.info.sees)
        return await chat.prompt_text(wanted, worker, state.renderer)


@asynccontextmanager
async def _vocabulary(entry: ModelEntry) -> AsyncIterator[Worker]:
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
