"""Events as a response and the events of its stream (protocols, 1.3).

One machine for both forms: a plain answer is what a stream would have ended with.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from lmnb.chat.conversation import Message
from lmnb.chat.events import (
    Finished,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from lmnb.errors import ContextOverflow, LmnbError
from lmnb.server.mcp.connection import McpConnectionFailed
from lmnb.server.mcp.loop import ToolLoop
from lmnb.server.mcp.steps import Approved, Asked, Called, Listed, Listing, Step
from lmnb.server.mcp.transcript import Transcript
from lmnb.server.openai.responses_events import Lifecycle, ResponseEvent
from lmnb.server.openai.responses_mcp_output import McpOutput
from lmnb.server.openai.responses_objects import ItemStatus, ResponseError, ResponseObject, usage
from lmnb.server.openai.responses_output import Output
from lmnb.server.openai.toolbox import NO_TOOLS, Toolbox


class ResponseStream:
    """Turns events into a response and its stream. One per response.

    Call `start`, then `feed` for every event, then `end`; or `fail`, or `cancel`.

    Parameters
    ----------
    toolbox
        The caller's own tools.
    loop
        What calls tools of MCP servers, if there are any.
    listed
        Labels of those servers whose tools the conversation lists already.
    sealed
        What was thought is also given in a form that clients send back unread.
    prefill
        There is no output: the events are those of a request whose prompt only is to be read.
    """

    def __init__(
        self,
        response: ResponseObject,
        toolbox: Toolbox = NO_TOOLS,
        *,
        loop: ToolLoop | None = None,
        listed: frozenset[str] = frozenset(),
        sealed: bool = False,
        prefill: bool = False,
    ) -> None:
        self.response = response
        self._prefill = prefill
        summarized = response.reasoning["summary"] is not None
        self._output = Output(toolbox, sealed=sealed, summarized=summarized)
        self._mcp = None if loop is None else McpOutput(self._output, loop, listed)
        self._transcript = Transcript()

    def start(self) -> Iterator[ResponseEvent]:
        """The two events that come before all others."""
        yield self._lifecycle("response.created")
        yield self._lifecycle(f"response.{self.response.status}")

    def heartbeat(self) -> ResponseEvent:
        """A repeated `response.in_progress`: Codex's watchdog counts events, not comments."""
        return self._lifecycle("response.in_progress")

    def feed(self, step: Step) -> Iterator[ResponseEvent]:
        """What the client hears of `step`."""
        if self.response.status == "queued":
            self.response = msgspec.structs.replace(self.response, status="in_progress")
            yield self.heartbeat()
        if self._prefill and not isinstance(step, Finished):
            return
        self._transcript.feed(step)
        match step:
            case TextDelta():
                yield from self._output.text(step)
            case ThinkingDelta(text=text):
                yield from self._output.thinking(text)
            case ToolCallStart() | ToolCallDelta() | ToolCallEnd():
                yield from self._calling(step)
            case Listing() | Listed() | Approved() | Asked() | Called():
                assert self._mcp is not None
                yield from self._mcp.feed(step)
            case Finished():
                yield from self._finish(step)
            case _:
                pass

    def end(self) -> ResponseEvent:
        """The last event, after `Finished` was fed and the response was stored.

        There is no event of its own for a response that was cancelled.
        """
        status = self.response.status
        return self._lifecycle(f"response.{'incomplete' if status == 'cancelled' else status}")

    def fail(self, error: LmnbError) -> None:
        """All goes wrong. What had been said stays in the output; `end` tells of it."""
        self.response = msgspec.structs.replace(
            self.response,
            status="failed",
            output=self._output.so_far("incomplete"),
            error=ResponseError(failure_code(error), str(error)),
        )

    def cancel(self) -> None:
        """Somebody has called the response off. What had been said stays; `end` tells of it."""
        output = self._output.so_far("incomplete")
        self.response = msgspec.structs.replace(self.response, status="cancelled", output=output)

    def snapshot(self) -> ResponseObject:
        """The response as it is now, with what has been said so far."""
        if not self.is_running:
            return self.response
        return msgspec.structs.replace(self.response, output=self._output.so_far("in_progress"))

    @property
    def is_running(self) -> bool:
        """Whether there is still something to come."""
        return self.response.status in ("queued", "in_progress")

    @property
    def messages(self) -> tuple[Message, ...]:
        """What has come to the conversation: what was said, and what was called."""
        return self._transcript.messages

    # --- inside ------------------------------------------------------------------

    def _calling(
        self, event: ToolCallStart | ToolCallDelta | ToolCallEnd
    ) -> Iterator[ResponseEvent]:
        if self._mcp is not None and self._mcp.takes(event):
            yield from self._mcp.calling(event)
        elif isinstance(event, ToolCallStart):
            yield from self._output.call(event)
        elif isinstance(event, ToolCallDelta):
            yield from self._output.more_of_call(event.json)
        else:
            yield from self._output.close("completed")

    def _finish(self, end: Finished) -> Iterator[ResponseEvent]:
        cut = not self._prefill and (end.is_cut or end.reason in {"length", "context"})
        status: ItemStatus = "incomplete" if cut else "completed"
        if self._output.is_empty and not self._prefill:  # a message, though an empty one
            yield from self._output.open_message()
        yield from self._output.close(status)
        self.response = msgspec.structs.replace(
            self.response,
            status=status,
            completed_at=None if cut else int(time.time()),
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            output=self._output.so_far(status),
            usage=usage(end, output=not self._prefill),
        )

    def _lifecycle(self, kind: str) -> ResponseEvent:
        return Lifecycle(kind, self._output.next(), self.response)


def failure_code(error: LmnbError) -> str:
    """The code of `response.failed`.

    Codex compacts its conversation on `context_length_exceeded` and retries on others. The
    rest are from OpenAI's own list, which openai-python checks under strict validation.
    """
    if isinstance(error, ContextOverflow):
        return error.code
    if error.status == 429:
        return "rate_limit_exceeded"
    is_ours = error.status >= 500 or error.status == 409 or isinstance(error, McpConnectionFailed)
    return "server_error" if is_ours else "invalid_prompt"
