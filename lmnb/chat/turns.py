"""Messages of a conversation as turns for a template: a turn for every result of a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lmnb.chat.conversation import Document, Message, Thinking, ToolCall, ToolResult
from lmnb.chat.media import Media
from lmnb.chat.render_job import Turn
from lmnb.chat.tool_names import Adapted
from lmnb.errors import NotSupported


def make_turns(messages: Iterable[Message], media: Media, tools: Adapted) -> tuple[Turn, ...]:
    """The turns, with names of tools as the model knows them.

    Results follow in the order of the calls they belong to, since some templates pair them by
    their places. Ids that come twice are told apart, since others pair them by their ids.

    Raises
    ------
    InvalidRequest
        There are too many images.
    NotSupported
        A result has a document.
    """
    return tuple(_Turns(media, tools).of(messages))


class _Turns:
    def __init__(self, media: Media, tools: Adapted) -> None:
        self._media = media
        self._tools = tools
        self._calls: dict[str, ToolCall] = {}
        """The last call of every id, under the id and the name that the template gets."""
        self._ids: set[str] = set()
        self._order: dict[str, int] = {}
        """The places of the last turn's calls."""

    def of(self, messages: Iterable[Message]) -> Iterator[Turn]:
        waiting: list[Turn] = []
        for message in messages:
            results = [part for part in message.parts if isinstance(part, ToolResult)]
            waiting += [self._result(result) for result in results]
            if message.role == "tool" and len(results) == len(message.parts):
                continue
            yield from self._in_order(waiting)
            waiting = []
            yield self._turn(message)
        yield from self._in_order(waiting)

    def _turn(self, message: Message) -> Turn:
        thinking = "".join(part.text for part in message.parts if isinstance(part, Thinking))
        calls = tuple(self._call(part) for part in message.parts if isinstance(part, ToolCall))
        if calls:
            self._order = {call.id: place for place, call in enumerate(calls)}
        role = "user" if message.role == "tool" else message.role
        return Turn(role, self._media.take_out(message.parts), thinking, calls)

    def _call(self, call: ToolCall) -> ToolCall:
        unique, number = call.id, 2
        while unique in self._ids:
            unique = f"{call.id}_{number}"
            number += 1
        self._ids.add(unique)
        made = ToolCall(unique, self._tools.name(call.name), call.arguments)
        self._calls[call.id] = made
        return made

    def _result(self, result: ToolResult) -> Turn:
        if any(isinstance(part, Document) for part in result.parts):
            raise NotSupported(
                "Tool results with documents are not supported.",
                hint="Send text or images.",
                param="messages",
            )
        call = self._calls.get(result.id)
        text = self._media.take_out(result.parts)
        if result.is_error and "error" not in text[:100].lower():
            text = f"Error: {text}" if text else "Error"
        if call is None:
            return Turn("tool", text, call_id=result.id)
        return Turn("tool", text, call_id=call.id, name=call.name)

    def _in_order(self, results: list[Turn]) -> list[Turn]:
        last = len(self._order)
        return sorted(results, key=lambda turn: self._order.get(turn.call_id, last))
