"""The one road from a request to its events, and the ways the protocols walk it.

A streaming route::

    events = await until_disconnect(request, begin(generate(state, wanted)))
    return stream(translate(events), on_error=...)

A plain one::

    answer = await until_disconnect(request, fold(generate(state, wanted)))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import TypeVar

import msgspec

from lmnb.chat import generate as chat
from lmnb.chat import output_format, tool_check
from lmnb.chat.conversation import Request, Text, Thinking, ToolCall
from lmnb.chat.documents import showing as documents
from lmnb.chat.events import Event, Finished, Loading, Prompt, Scored, TextDelta
from lmnb.chat.said import Said
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import TokenLogprob
from lmnb.errors import EngineCrashed
from lmnb.models.instances import Lease
from lmnb.models.retries import Tries
from lmnb.server.journal import Generation
from lmnb.server.notes import note
from lmnb.server.remote import generating as remote
from lmnb.server.remote import routing
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
        async for step in _lease(state, stack, name, request.ttl, load_config(request)):
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


def load_config(request: Request) -> LoadConfig | None:
    """How the request wants its model to be loaded, if it says so."""
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
