"""Several generations at once, their events merged into one stream.

`n` answers share a prompt. The first is started alone; the others follow as
soon as its prompt has been read, and find it in the engine's prefix cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias

from lmnb.chat.conversation import Request
from lmnb.chat.events import Event, Loading, Prompt
from lmnb.server.generation import Answer, fold

Generate: TypeAlias = Callable[[Request], AsyncGenerator[Event, None]]
Merged: TypeAlias = AsyncGenerator[tuple[int, Event], None]
_Item: TypeAlias = "tuple[int, Event] | Exception | None"


async def fan_out(generate: Generate, groups: Sequence[Sequence[Request]]) -> Merged:
    """Yield `(index, event)` of all requests; the index runs over the flattened groups.

    A group's requests share a prompt. The first error ends everything. Closing the
    generator cancels what still runs.
    """
    queue: asyncio.Queue[_Item] = asyncio.Queue()
    tasks: list[asyncio.Task[None]] = []
    for group in groups:
        prompt_read = asyncio.Event()
        for request in group:
            follows = request is not group[0]
            work = _run(generate, request, len(tasks), queue, prompt_read, follows=follows)
            tasks.append(asyncio.create_task(work))
    running = len(tasks)
    try:
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(
    generate: Generate,
    request: Request,
    index: int,
    queue: asyncio.Queue[_Item],
    prompt_read: asyncio.Event,
    *,
    follows: bool,
) -> None:
    try:
        if follows:
            await prompt_read.wait()
        async with aclosing(generate(request)) as events:
            async for event in events:
                if not isinstance(event, Loading) and not _is_reading(event):
                    prompt_read.set()
                queue.put_nowait((index, event))
    except Exception as error:  # noqa: BLE001 - handed over, to be raised by the reader
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)


def _is_reading(event: Event) -> bool:
    return isinstance(event, Prompt) and event.done < event.total


def is_underway(item: tuple[int, Event]) -> bool:
    """Whether a model is at work: the time to send a stream's headers."""
    return not isinstance(item[1], Loading)


async def collect(events: Merged, choices: int) -> list[Answer]:
    """Run all to their end; the answers in the order of their indices."""
    seen: list[list[Event]] = [[] for _ in range(choices)]
    async with aclosing(events):
        async for index, event in events:
            seen[index].append(event)
    return [await fold(_replay(answer)) for answer in seen]


async def _replay(events: list[Event]) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event
