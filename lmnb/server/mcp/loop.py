"""Generate, call the tools the model asked for, generate on: one answer in several steps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import msgspec

from lmnb.chat.conversation import Message, Request, Text, Tool, ToolCall, ToolChoice
from lmnb.chat.events import Finished, Timings, Usage
from lmnb.chat.said import Said
from lmnb.errors import InvalidRequest, LmnbError
from lmnb.server.generation import check, generate
from lmnb.server.mcp.connection import Connection
from lmnb.server.mcp.content import UNSEEN
from lmnb.server.mcp.servers import Server
from lmnb.server.mcp.steps import Approved, Asked, Called, Listed, Listing, Offered, Step
from lmnb.server.mcp.toolset import Toolset, allowed, offer, opening
from lmnb.server.mcp.transcript import Transcript
from lmnb.server.state import State

S = TypeVar("S", bound=Step)

MOST_STEPS = 25
"""Answers of the model to one request that may call tools; one more has to do without."""


@dataclass(frozen=True)
class Granted:
    """A call, of an earlier answer, that somebody has agreed to. `id` is that of its request.

    `label` and `name` are the server's and the tool's, `arguments` JSON text.
    """

    id: str
    label: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Forced:
    """The server whose tools the model must call first, or the one tool. `param` is for errors."""

    label: str
    name: str | None
    param: str


class ToolLoop:
    """One answer for which tools of MCP servers are called. With no tools it is one generation.

    Parameters
    ----------
    request
        Its own tools are the caller's: a call of one ends the answer. `max_tokens` is for all steps
        together. A call that must be made is made once.
    most_calls
        How many calls are made for one answer.
    granted
        Calls that are made before anything else.
    forced
        What must be called, where `request` does not say it.
    """

    def __init__(
        self,
        state: State,
        request: Request,
        servers: Sequence[Server] = (),
        *,
        most_steps: int = MOST_STEPS,
        most_calls: int | None = None,
        granted: Sequence[Granted] = (),
        forced: Forced | None = None,
    ) -> None:
        self._state = state
        self._request = request
        self._servers = servers
        self._toolset = Toolset()
        self._transcript = Transcript()
        self._most_steps = most_steps
        self._calls_left = most_calls
        self._granted = granted
        self._forced = forced
        self._has_called = False
        self._finished: list[Finished] = []

    @property
    def messages(self) -> tuple[Message, ...]:
        """What has come to the conversation so far."""
        return self._transcript.messages

    @property
    def last_input(self) -> int:
        """Tokens of the latest step's prompt, which has all that was said before."""
        return self._finished[-1].usage.input

    def find(self, name: str) -> Offered | None:
        """The tool that the model calls so, while the events last."""
        return self._toolset.find(name)

    def is_callers(self, name: str) -> bool:
        """Whether the tool that the model calls so is the caller's own."""
        return any(tool.name == name for tool in self._request.tools)

    async def check(self) -> None:
        """Raise what can be told to be wrong before servers are asked and models loaded.

        Raises
        ------
        InvalidRequest, ModelNotFound
            As `lmnb.server.generation.check`.
        """
        request = self._request
        if self._servers:  # whose tools are not known yet
            request = msgspec.structs.replace(request, tool_choice=ToolChoice())
        await check(self._state, request)

    async def events(self) -> AsyncGenerator[Step, None]:
        """The events of all steps in order, what becomes of calls after each, and one `Finished`.

        Servers are asked for their tools first, side by side, and told of one after the other.
        Calls are made one after the other. `Finished` has the counts of all steps.

        Raises
        ------
        McpConnectionFailed
            A server cannot be used; nothing has been generated.
        InvalidRequest
            No server has the tool that must be called.
        LmnbError
            As `generate`.
        """
        if self._servers:
            await self.check()
        async with opening(self._state.mcp, self._servers) as tasks:
            pairs: list[tuple[Server, Connection]] = []
            for server, task in zip(self._servers, tasks, strict=True):
                yield Listing(server)
                try:
                    connection = await task
                except LmnbError as error:
                    yield Listed(server, error=error)
                    raise
                pairs.append((server, connection))
                yield Listed(server, allowed(server, connection))
            self._use(pairs)
            async with aclosing(self._steps()) as steps:
                async for step in steps:
                    yield step

    async def first_request(self) -> Request:
        """What the model would be asked first, with all tools.

        Raises
        ------
        McpConnectionFailed
            A server cannot be used.
        """
        async with opening(self._state.mcp, self._servers) as tasks:
            connections = [await task for task in tasks]
            self._use(list(zip(self._servers, connections, strict=True)))
            return self._next()

    # --- inside ------------------------------------------------------------------

    def _use(self, pairs: Sequence[tuple[Server, Connection]]) -> None:
        taken = [tool.name for tool in self._request.tools]
        patience = self._state.settings.mcp_timeout
        self._toolset = Toolset(partial(offer, pairs, taken), patience=patience)

    async def _steps(self) -> AsyncGenerator[Step, None]:
        for grant in self._granted:
            call = self._granted_call(grant)
            offered = self.find(call.name)
            yield self._fed(Approved(request=grant.id, call=call, offered=offered))
            yield self._fed(await self._called(call))
        while True:
            said = Said()
            async with aclosing(generate(self._state, self._next())) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        self._finished.append(event)
                    else:
                        said.feed(event)
                        yield self._fed(event)
            async with aclosing(self._settle(said.calls)) as steps:
                async for step in steps:
                    yield self._fed(step)
            if (end := self._end(said.calls)) is not None:
                yield end
                return

    def _fed(self, step: S) -> S:
        self._transcript.feed(step)
        return step

    def _granted_call(self, grant: Granted) -> ToolCall:
        found = self._toolset.of(grant.label, grant.name)
        name = found[0].tool.name if found else grant.name
        return ToolCall(grant.id, name, grant.arguments)

    async def _settle(self, calls: Sequence[ToolCall]) -> AsyncGenerator[Called | Asked, None]:
        """What becomes of the calls of a step, but for the caller's own."""
        for call in calls:
            if self.is_callers(call.name):
                continue
            self._has_called = True
            offered = self.find(call.name)
            if not self._is_to_be_called:
                reason = "The answer ended before the call could be made."
                yield self._toolset.refused(call, reason, is_made=False)
            elif offered is not None and offered.needs_approval:
                yield Asked(call, offered)
            elif self._calls_left is not None and self._calls_left <= 0:
                yield self._toolset.refused(call, "No more tools can be called for this answer.")
            else:
                yield await self._called(call)

    async def _called(self, call: ToolCall) -> Called:
        if self._calls_left is not None:
            self._calls_left -= 1
        self._has_called = True
        called = await self._toolset.call(call)
        if await self._sees():
            return called
        parts = tuple(part if isinstance(part, Text) else UNSEEN for part in called.parts)
        return replace(called, parts=parts)

    async def _sees(self) -> bool:
        """Whether the model that goes on can be shown images."""
        instance = self._finished[-1].instance if self._finished else self._request.model
        for one in self._state.models.loaded():
            if one.id == instance:
                return one.worker.info.sees
        target = await self._state.endpoints.at(instance)
        return target is not None and bool(target.model.sees)

    @property
    def _is_to_be_called(self) -> bool:
        """Whether the latest step ended for its calls, and may have any."""
        is_last = len(self._finished) > self._most_steps
        return self._finished[-1].reason == "tool_calls" and not is_last

    def _end(self, calls: Sequence[ToolCall]) -> Finished | None:
        """The end, unless the model has to go on now that its calls have been made."""
        total = _total(self._finished)
        if not self._is_to_be_called or any(map(self._is_anothers, calls)):
            return total
        if self._tokens_left == 0:
            return msgspec.structs.replace(total, reason="length")
        return None

    def _is_anothers(self, call: ToolCall) -> bool:
        """Whether somebody else has to answer the call: the caller itself, or who has to agree."""
        offered = self.find(call.name)
        return self.is_callers(call.name) or (offered is not None and offered.needs_approval)

    @property
    def _tokens_left(self) -> int | None:
        if self._request.max_tokens is None:
            return None
        return max(0, self._request.max_tokens - sum(one.usage.output for one in self._finished))

    def _next(self) -> Request:
        choice, tools = self._choice()
        return msgspec.structs.replace(
            self._request,
            messages=(*self._request.messages, *self.messages),
            tools=tools,
            tool_choice=choice,
            max_tokens=self._tokens_left,
        )

    def _choice(self) -> tuple[ToolChoice, tuple[Tool, ...]]:
        """What must be called next, and of which tools."""
        given, tools = self._request.tool_choice, (*self._request.tools, *self._toolset.tools)
        may_call = len(self._finished) < self._most_steps
        if self._calls_left is not None and self._calls_left <= 0 and not self._request.tools:
            may_call = False
        if given.mode == "none" or not may_call:
            return ToolChoice("none", parallel=given.parallel), tools
        if self._has_called:
            return ToolChoice(parallel=given.parallel), tools
        if self._forced is None:
            return given, tools
        found = self._toolset.of(self._forced.label, self._forced.name)
        if not found:
            what = "tools" if self._forced.name is None else f"tool {self._forced.name!r}"
            raise InvalidRequest(
                f"The MCP server {self._forced.label} has no {what} that may be called.",
                param=self._forced.param,
            )
        if len(found) == 1:
            return ToolChoice("named", found[0].tool.name, given.parallel), tools
        return ToolChoice("required", parallel=given.parallel), tuple(one.tool for one in found)


def _total(steps: Sequence[Finished]) -> Finished:
    """The last step's end, with the counts and times of all."""
    usages = [step.usage for step in steps]
    usage = Usage(
        input=sum(one.input for one in usages),
        cached=sum(one.cached for one in usages),
        output=sum(one.output for one in usages),
        reasoning=sum(one.reasoning for one in usages),
        drafted=sum(one.drafted for one in usages),
        accepted=sum(one.accepted for one in usages),
    )
    first = steps[0].timings
    timings = Timings(
        queue=sum(step.timings.queue for step in steps),
        prompt=sum(step.timings.prompt for step in steps),
        first_token=first.first_token,
        generation=sum(step.timings.generation for step in steps),
        load=first.load,
    )
    return msgspec.structs.replace(steps[-1], usage=usage, timings=timings)
