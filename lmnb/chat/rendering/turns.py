"""Messages of a conversation as turns for a template: a turn for every result of a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lmnb.chat.conversation import Message, Thinking, ToolCall, ToolResult
from lmnb.chat.formats.default import result_text
from lmnb.chat.rendering.job import Turn
from lmnb.chat.rendering.media import Media
from lmnb.chat.tool_names import Adapted


def make_turns(messages: Iterable[Message], media: Media, tools: Adapted) -> tuple[Turn, ...]:
    """The turns, with names of tools as the model knows them.

    Results follow their calls at once and in their order, whatever was said in between: templates
    pair them by their places. Ids that come twice are told apart, since others pair them by ids:
    results go to parallel calls of one id in their order. A result with an id that no call has belongs to the first open one of the calls right before it.

    Raises
    ------
    InvalidRequest
        There are too many images.
    """
    return _Turns(media, tools).of(messages)


class _Turns:
    def __init__(self, media: Media, tools: Adapted) -> None:
        self._media = media
        self._tools = tools
        self._turns: list[Turn] = []
        self._results: dict[str, Turn] = {}
        """Of each call, under the id that the template gets."""
        self._calls: dict[str, list[ToolCall]] = {}
        """The last calls of every id, as the template gets them: several if they are parallel."""
        self._parallel: set[str] = set()
        """Ids of calls since anybody else spoke."""
        self._ids: set[str] = set()

    def of(self, messages: Iterable[Message]) -> tuple[Turn, ...]:
        for message in messages:
            results = [part for part in message.parts if isinstance(part, ToolResult)]
            for result in results:
                self._add_result(result)
            if message.role != "tool" or len(results) < len(message.parts):
                self._turns.append(self._turn(message))
        return tuple(self._with_results())

    def _with_results(self) -> Iterator[Turn]:
        for turn in self._turns:
            yield turn
            for call in turn.calls:
                if call.id in self._results:
                    yield self._results[call.id]

    def _turn(self, message: Message) -> Turn:
        thinking = "".join(part.text for part in message.parts if isinstance(part, Thinking))
        calls = tuple(self._call(part) for part in message.parts if isinstance(part, ToolCall))
        role = "user" if message.role == "tool" else message.role
        if role != "assistant":
            self._parallel.clear()
        return Turn(role, self._media.take_out(message.parts), thinking, calls)

    def _call(self, call: ToolCall) -> ToolCall:
        unique, number = call.id, 2
        while unique in self._ids:
            unique = f"{call.id}_{number}"
            number += 1
        self._ids.add(unique)
        made = ToolCall(unique, self._tools.name(call.name), call.arguments)
        if call.id not in self._parallel:
            self._parallel.add(call.id)
            self._calls[call.id] = []
        self._calls[call.id].append(made)
        return made

    def _add_result(self, result: ToolResult) -> None:
        text = self._media.take_out(result.parts)
        if result.is_error and "error" not in text[:100].lower():
            text = f"Error: {text}" if text else "Error"
        last = self._turns[-1].calls if self._turns else ()
        call = self._first_open(self._calls.get(result.id, last))
        if call is None:
            # Of a call that was cut off with the beginning of the conversation, or a second one.
            self._turns.append(Turn("user", result_text([text])))
        else:
            self._results[call.id] = Turn("tool", text, call_id=call.id, name=call.name)

    def _first_open(self, calls: Iterable[ToolCall]) -> ToolCall | None:
        """The first without a result."""
        return next((call for call in calls if call.id not in self._results), None)
