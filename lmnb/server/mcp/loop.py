"""Generate, call the tools the model asked for, generate on: one answer in several steps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeAlias

import msgspec

from lmnb.chat.conversation import (
    Message,
    Part,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from lmnb.chat.events import (
    Event,
    Finished,
    TextDelta,
    ThinkingDelta,
    Timings,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from lmnb.server.generation import Call, generate
from lmnb.server.mcp.servers import Server
from lmnb.server.mcp.toolset import Called, Offered, Toolset, opened
from lmnb.server.state import State

MOST_STEPS = 25
"""Answers of the model to one request that may call tools; one more has to do without."""

Step: TypeAlias = Event | Called


class ToolLoop:
    """One answer for which tools of MCP servers are called. With no tools it is one generation.

    `messages` are those that came to the conversation, whole once the events have ended.
    """

    def __init__(
        self,
        state: State,
        request: Request,
        servers: Sequence[Server] = (),
        *,
        most_steps: int = MOST_STEPS,
    ) -> None:
        self.messages: tuple[Message, ...] = ()
        self._state = state
        self._request = request
        self._servers = servers
        self._toolset = Toolset()
        self._most_steps = most_steps
        self._finished: list[Finished] = []

    def find(self, name: str) -> Offered | None:
        """The tool that the model calls so, while the events last."""
        return self._toolset.find(name)

    async def events(self) -> AsyncGenerator[Step, None]:
        """The events of all steps in order, `Called` after each step that calls, and one `Finished`.

        Calls are made one after the other. `Finished` has the counts of all steps, but the input
        of the last, which has all that was said before.

        Raises
        ------
        McpConnectionFailed
            A server cannot be used; nothing has been generated.
        LmnbError
            As `generate`.
        """
        patience = self._state.settings.mcp_timeout
        async with (
            opened(self._state.mcp, self._servers, patience=patience) as self._toolset,
            aclosing(self._steps()) as steps,
        ):
            async for step in steps:
                yield step

    async def _steps(self) -> AsyncGenerator[Step, None]:
        while True:
            said = Said()
            finished: Finished | None = None
            async with aclosing(generate(self._state, self._next())) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        finished = event
                    else:
                        said.feed(event)
                        yield event
            assert finished is not None
            self._finished.append(finished)
            if finished.reason != "tool_calls" or not self._toolset.tools:
                # A call without a result, cut by a limit, would stand in the way of what follows.
                parts = tuple(part for part in said.parts if not isinstance(part, ToolCall))
                self.messages += (Message("assistant", parts),)
                for call in said.calls:
                    yield self._toolset.unmade(call)
                yield _total(self._finished)
                return
            self.messages += (Message("assistant", said.parts),)
            for call in said.calls:
                called = await self._toolset.call(call)
                self.messages += (await self._result(called, finished.instance),)
                yield called

    def _next(self) -> Request:
        request = msgspec.structs.replace(
            self._request,
            messages=(*self._request.messages, *self.messages),
            tools=(*self._request.tools, *self._toolset.tools),
        )
        if len(self._finished) < self._most_steps:
            return request
        return msgspec.structs.replace(request, tool_choice=ToolChoice("none"))

    async def _result(self, called: Called, instance: str) -> Message:
        sees = any(
            one.id == instance and one.worker.info.sees for one in self._state.models.loaded()
        )
        if (target := await self._state.endpoints.at(instance)) is not None:
            sees = bool(target.model.sees)
        parts = tuple(
            part if sees or isinstance(part, Text) else Text("[An image, which you cannot see]")
            for part in called.parts
        )
        result = ToolResult(called.call.id, parts, is_error=called.failure is not None)
        return Message("tool", (result,))


class Said:
    """The parts of an answer, in the order in which they came."""

    def __init__(self) -> None:
        self._parts: list[tuple[type[Thinking | Text] | ToolCallStart, list[str]]] = []

    def feed(self, event: Event) -> None:
        """Add what `event` says."""
        if isinstance(event, ThinkingDelta):
            self._add(Thinking, event.text)
        elif isinstance(event, TextDelta):
            self._add(Text, event.text)
        elif isinstance(event, ToolCallStart):
            self._parts.append((event, []))
        elif isinstance(event, ToolCallDelta):
            self._parts[-1][1].append(event.json)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of them."""
        return tuple(
            ToolCall(kind.id, kind.name, "".join(texts))
            if isinstance(kind, ToolCallStart)
            else kind("".join(texts))
            for kind, texts in self._parts
        )

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls among them."""
        return tuple(
            Call(part.id, part.name, part.arguments)
            for part in self.parts
            if isinstance(part, ToolCall)
        )

    def _add(self, kind: type[Thinking | Text], text: str) -> None:
        if not text:
            return
        if not self._parts or self._parts[-1][0] is not kind:
            self._parts.append((kind, []))
        self._parts[-1][1].append(text)


def _total(steps: list[Finished]) -> Finished:
    first, last = steps[0], steps[-1]
    usage = Usage(
        input=last.usage.input,
        cached=last.usage.cached,
        output=sum(step.usage.output for step in steps),
        reasoning=sum(step.usage.reasoning for step in steps),
        drafted=sum(step.usage.drafted for step in steps),
        accepted=sum(step.usage.accepted for step in steps),
    )
    timings = Timings(
        queue=sum(step.timings.queue for step in steps),
        prompt=sum(step.timings.prompt for step in steps),
        first_token=first.timings.first_token,
        generation=sum(step.timings.generation for step in steps),
        load=first.timings.load,
    )
    return msgspec.structs.replace(last, usage=usage, timings=timings)
