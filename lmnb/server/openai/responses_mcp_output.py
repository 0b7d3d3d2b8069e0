"""The items of a response that are about tools of MCP servers, and their events (protocols, 1.3).

Calls are written one after the other, and made when all are written: until then their items are
`calling`. One that needs approval is told of when it is whole, as a request for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from lmnb.chat.events import ToolCallDelta, ToolCallEnd, ToolCallStart
from lmnb.server.mcp.content import blocks_of, plain
from lmnb.server.mcp.loop import ToolLoop
from lmnb.server.mcp.steps import Approved, Asked, Called, Listed, Listing, Offered
from lmnb.server.openai import ids
from lmnb.server.openai.responses_events import (
    ArgumentsDeltaEvent,
    McpArgumentsDoneEvent,
    McpEvent,
    ResponseEvent,
)
from lmnb.server.openai.responses_objects import (
    McpApprovalItem,
    McpCallItem,
    McpListedTool,
    McpListItem,
    McpStatus,
)
from lmnb.server.openai.responses_output import Output

Calling: TypeAlias = ToolCallStart | ToolCallDelta | ToolCallEnd


class McpOutput:
    """Writes to `output` what `loop` does.

    `listed` are the labels of servers whose tools the conversation lists already.
    """

    def __init__(self, output: Output, loop: ToolLoop, listed: frozenset[str]) -> None:
        self._output = output
        self._loop = loop
        self._listed = listed
        self._list = McpListItem("", "")
        self._calls: dict[str, tuple[int, McpCallItem]] = {}
        self._open: str | None = None
        self._pieces: list[str] = []

    def feed(self, step: Listing | Listed | Approved | Asked | Called) -> Iterator[ResponseEvent]:
        """What the client hears of `step`."""
        match step:
            case Listing() | Listed() if step.server.label in self._listed:
                pass
            case Listing(server=server):
                self._list = McpListItem(ids.item("mcp_list_tools"), server.label)
                yield from self._output.add(self._list)
                yield self._told("mcp_list_tools.in_progress", self._output.last, self._list.id)
            case Listed():
                yield from self._end_list(step)
            case Approved(call=call, request=request):
                yield from self._begin(call.id, call.name, request)
                yield from self._more(call.id, call.arguments)
                yield from self._end(call.id)
            case Asked(call=call, offered=offered):
                name, label = offered.name, offered.server.label
                id_ = ids.item("mcp_approval_request")
                item = McpApprovalItem(id_, label, name, call.arguments)
                yield from self._output.add(item)
                yield from self._output.done(self._output.last, item)
            case Called():
                yield from self._called(step)

    def takes(self, event: Calling) -> bool:
        """Whether it is about a call that is made here, if it is made."""
        if isinstance(event, ToolCallStart):
            return not self._loop.is_callers(event.name)
        return self._open is not None

    def calling(self, event: Calling) -> Iterator[ResponseEvent]:
        """What the client hears of a call that is being written."""
        if isinstance(event, ToolCallStart):
            self._open = event.id
            offered = self._loop.find(event.name)
            if offered is None or not offered.needs_approval:
                yield from self._begin(event.id, event.name)
            return
        assert self._open is not None
        if isinstance(event, ToolCallDelta):
            yield from self._more(self._open, event.json)
            return
        yield from self._end(self._open)
        self._open = None

    # --- lists ------------------------------------------------------------------

    def _end_list(self, listed: Listed) -> Iterator[ResponseEvent]:
        index, error = self._output.last, listed.error
        item = msgspec.structs.replace(
            self._list,
            tools=tuple(
                McpListedTool(
                    tool.name,
                    tool.input_schema,
                    tool.description,
                    None
                    if tool.annotations is None
                    else tool.annotations.model_dump(mode="json", by_alias=True, exclude_none=True),
                )
                for tool in listed.tools
            ),
            error=None if error is None else str(error),
        )
        how = "completed" if error is None else "failed"
        yield self._told(f"mcp_list_tools.{how}", index, item.id)
        yield from self._output.done(index, item)

    # --- calls ------------------------------------------------------------------

    def _begin(self, id_: str, name: str, request: str | None = None) -> Iterator[ResponseEvent]:
        label, name = _names(self._loop.find(name), name)
        item = McpCallItem(
            ids.item("mcp_call"), "in_progress", label, name, approval_request_id=request
        )
        yield from self._output.add(item)
        self._calls[id_] = (self._output.last, item)
        self._pieces = []
        yield self._told("mcp_call.in_progress", self._output.last, item.id)

    def _more(self, id_: str, json: str) -> Iterator[ResponseEvent]:
        if id_ in self._calls:
            index, item = self._calls[id_]
            self._pieces.append(json)
            kind = "response.mcp_call_arguments.delta"
            yield ArgumentsDeltaEvent(kind, self._output.next(), item.id, index, json)

    def _end(self, id_: str) -> Iterator[ResponseEvent]:
        """All of the arguments are there."""
        if id_ in self._calls:
            index, item = self._calls[id_]
            arguments = "".join(self._pieces)
            item = msgspec.structs.replace(item, status="calling", arguments=arguments)
            self._calls[id_] = (index, item)
            self._output.put(index, item)
            kind = "response.mcp_call_arguments.done"
            yield McpArgumentsDoneEvent(kind, self._output.next(), item.id, index, arguments)

    def _called(self, called: Called) -> Iterator[ResponseEvent]:
        id_ = called.call.id
        if id_ == self._open:  # It was cut.
            yield from self._end(id_)
            self._open = None
        if id_ not in self._calls:  # It was to wait for approval.
            return
        index, item = self._calls.pop(id_)
        failed = called.failure is not None
        item = msgspec.structs.replace(
            item,
            status=_status(called),
            output=None if failed else plain(called.output),
            error=_error(called) if failed and called.is_made else None,
        )
        yield self._told(f"mcp_call.{'failed' if failed else 'completed'}", index, item.id)
        yield from self._output.done(index, item)

    def _told(self, kind: str, index: int, item_id: str) -> McpEvent:
        return McpEvent(f"response.{kind}", self._output.next(), item_id, index)


def _names(offered: Offered | None, name: str) -> tuple[str, str]:
    """What the server and the tool are called; the model may have called one that there is not."""
    return ("", name) if offered is None else (offered.server.label, offered.name)


def _status(called: Called) -> McpStatus:
    if not called.is_made:
        return "incomplete"
    return "completed" if called.failure is None else "failed"


def _error(called: Called) -> dict[str, Any]:
    """What went wrong: in the tool's own words, or before it could say anything."""
    blocks = blocks_of(called.output)
    if blocks is not None:
        return {"type": "mcp_tool_execution_error", "content": blocks}
    return {"type": "mcp_protocol_error", "code": called.error_code, "message": called.reason}
