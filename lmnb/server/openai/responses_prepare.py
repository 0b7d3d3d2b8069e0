"""From the body of a request to a response that can be made, and what makes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from lmnb.chat.conversation import Request
from lmnb.server.attached import attach
from lmnb.server.generation import check, generate
from lmnb.server.mcp.loop import ToolLoop
from lmnb.server.mcp.servers import Server
from lmnb.server.mcp.steps import Step
from lmnb.server.openai.errors import InvalidValue
from lmnb.server.openai.responses_input import listed
from lmnb.server.openai.responses_items import resolve
from lmnb.server.openai.responses_mcp_past import McpPast, granted, mcp_items
from lmnb.server.openai.responses_mcp_tools import resolve as resolve_servers
from lmnb.server.openai.responses_objects import in_progress
from lmnb.server.openai.responses_past import Past, Recent, find_item, past_of
from lmnb.server.openai.responses_request import SEALED_REASONING, ResponsesBody, translate
from lmnb.server.openai.responses_run import Run
from lmnb.server.openai.responses_stream import ResponseStream
from lmnb.server.reading import count_tokens
from lmnb.server.state import State


@dataclass(frozen=True, kw_only=True)
class Source:
    """What makes a response: one generation, or, if MCP servers are named, as many as it takes."""

    state: State
    request: Request
    loop: ToolLoop | None = None

    async def check(self) -> None:
        """Raise what can be told to be wrong without loading or calling anything.

        Raises
        ------
        InvalidRequest, ModelNotFound
            It cannot be made.
        """
        await (check(self.state, self.request) if self.loop is None else self.loop.check())

    def events(self) -> AsyncGenerator[Step, None]:
        """All that happens, once."""
        return generate(self.state, self.request) if self.loop is None else self.loop.events()

    async def first_request(self) -> Request:
        """What the model is asked first, the tools of MCP servers included."""
        return self.request if self.loop is None else await self.loop.first_request()

    async def count_tokens(self) -> int:
        """Tokens of the prompt."""
        return await count_tokens(self.state, await self.first_request())


async def prepare(
    state: State, body: ResponsesBody, client: HTTPConnection, recent: Recent | None = None
) -> tuple[Run, Source]:
    """The response that `body` asks for, not begun yet, and what makes it.

    Raises
    ------
    InvalidRequest, NotFound
        Something in the body is wrong, or what it refers to is not stored.
    Forbidden
        `client` may not have the MCP servers called that it names.
    """
    body = body.model_copy(update={"input": await resolve(body.input, find_item(state))})
    tools = body.given_tools
    servers: Sequence[Server] = ()
    if tools.servers:
        servers = await asyncio.to_thread(resolve_servers, tools.servers, client.scope, state)
    past = await past_of(state, body, recent)
    filled = body.model_copy(update={"input": await attach(body.input, state.files)})
    wanted, conversation = translate(filled, client.headers, past.messages, past.mcp)
    loop = _loop(state, body, wanted, servers, past)
    answer = ResponseStream(
        in_progress(body),
        tools.toolbox,
        loop=loop,
        listed=past.mcp.listed | McpPast(mcp_items(body.input or ())).listed,
        sealed=SEALED_REASONING in body.include,
        prefill=not body.generate,
    )
    run = Run(
        answer=answer,
        conversation=conversation,
        input=listed(body.input),
        responses=state.responses,
        conversations=state.conversations,
        parent=past.stored,
        mcp=past.mcp,
        recent=recent,
    )
    return run, Source(state=state, request=wanted, loop=loop)


def _loop(
    state: State,
    body: ResponsesBody,
    wanted: Request,
    servers: Sequence[Server],
    past: Past,
) -> ToolLoop | None:
    """What calls the tools of `servers`, first those that the request approves.

    Raises
    ------
    InvalidValue
        It approves what was never asked for, or of a server that it does not name.
    """
    grants = granted(body.input, past.mcp) if body.generate else ()
    for grant in grants:
        if grant.label not in {server.label for server in servers}:
            raise InvalidValue(
                f"A call of the MCP server '{grant.label}' is approved, which 'tools' does not name.",
                hint="Send the tool of the type 'mcp' with every request.",
                param="tools",
            )
    if not servers:
        return None
    return ToolLoop(
        state,
        wanted,
        servers,
        most_calls=body.max_tool_calls,
        granted=grants,
        forced=body.given_tools.forced,
    )
