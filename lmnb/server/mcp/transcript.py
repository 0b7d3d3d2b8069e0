"""What the steps of an answer add to a conversation."""

from __future__ import annotations

from lmnb.chat.conversation import Message, Part, ToolCall, ToolResult
from lmnb.chat.events import Finished, ToolCallDelta, ToolCallEnd, ToolCallStart
from lmnb.chat.said import Said
from lmnb.server.mcp.steps import Approved, Asked, Called, Listed, Listing, Step


class Transcript:
    """Collects messages: what the model says in one go is one, and so is each result of a call.

    Calls that have no result here stand in it only if the caller's own tools are called, and they
    are whole. Others would stand in the way of what follows: those that were cut, or not made, and
    those that wait for approval, which come into the conversation when they are made.
    """

    def __init__(self) -> None:
        self._done: list[Message] = []
        self._said = Said()
        self._results: list[Message] = []
        self._left_out: set[str] = set()

    def feed(self, step: Step) -> None:
        """Add what `step` says."""
        if isinstance(step, Called):
            self._called(step)
        elif isinstance(step, Asked):
            self._left_out.add(step.call.id)
        elif isinstance(step, Approved):
            self._close()
            self._approved(step.call)
        elif not isinstance(step, Listing | Listed | Finished):
            if self._results:
                self._close()
            self._said.feed(step)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All of them; the last may be a beginning."""
        return (*self._done, *self._open())

    def _called(self, called: Called) -> None:
        if called.is_made:
            result = ToolResult(called.call.id, called.parts, is_error=called.failure is not None)
            self._results.append(Message("tool", (result,)))
        else:
            self._left_out.add(called.call.id)

    def _approved(self, call: ToolCall) -> None:
        self._said.feed(ToolCallStart(0, call.id, call.name))
        self._said.feed(ToolCallDelta(0, call.arguments))
        self._said.feed(ToolCallEnd(0))

    def _open(self) -> list[Message]:
        """What has been said since the last result, and the results of that."""
        parts = tuple(part for part in self._said.parts if not self._is_left_out(part))
        return [Message("assistant", parts), *self._results] if parts else []

    def _is_left_out(self, part: Part) -> bool:
        return isinstance(part, ToolCall) and (part.id in self._left_out or part == self._said.cut)

    def _close(self) -> None:
        self._done += self._open()
        self._said = Said()
        self._results = []
