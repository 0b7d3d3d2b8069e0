"""The items of a response and the events about them, as the model says them (protocols, 1.3)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lmnb.chat.events import TextDelta, ToolCallStart
from lmnb.server.openai import ids
from lmnb.server.openai.custom_input import CustomInput
from lmnb.server.openai.responses_events import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    InputDeltaEvent,
    InputDoneEvent,
    ItemEvent,
    PartEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    ResponseEvent,
    SummaryDeltaEvent,
    SummaryDoneEvent,
    SummaryPartEvent,
    TextDeltaEvent,
    TextDoneEvent,
)
from lmnb.server.openai.responses_objects import (
    CallItem,
    CustomCallItem,
    FunctionCallItem,
    Item,
    ItemStatus,
    McpCallItem,
    McpItem,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    SaidItem,
    SummaryText,
)
from lmnb.server.openai.toolbox import NO_TOOLS, Toolbox
from lmnb.server.openai.wire import Logprob, logprobs
from lmnb.server.sealing import seal


class Output:
    """The items so far, of which the last may be open: more is being said of it.

    Parameters
    ----------
    toolbox
        What the caller calls its tools.
    sealed
        Thoughts are also given in a form that clients send back unread.
    summarized
        They are given as a summary.
    """

    def __init__(
        self, toolbox: Toolbox = NO_TOOLS, *, sealed: bool = False, summarized: bool = False
    ) -> None:
        self._toolbox = toolbox
        self._sealed = sealed
        self._summarized = summarized
        self._sequence = -1
        self._items: list[Item] = []
        self._open: SaidItem | None = None
        self._pieces: list[str] = []
        self._logprobs: list[Logprob] = []
        self._input = CustomInput()

    def next(self) -> int:
        """The next event's sequence number."""
        self._sequence += 1
        return self._sequence

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all."""
        return self._open is None and not self._items

    def so_far(self, status: ItemStatus) -> tuple[Item, ...]:
        """The items; `status` is given to those that are not complete."""
        items = [
            msgspec.structs.replace(item, status=status)
            if isinstance(item, McpCallItem) and item.status in ("in_progress", "calling")
            else item
            for item in self._items
        ]
        return (*items, *([] if self._open is None else [self._filled(self._open, status)]))

    # --- what others say ---------------------------------------------------------

    def add(self, item: McpItem) -> Iterator[ResponseEvent]:
        """A new item, of which others speak meanwhile; `put` and `done` know it by its place."""
        yield from self.close("completed")
        yield ItemEvent("response.output_item.added", self.next(), len(self._items), item)
        self._items.append(item)

    @property
    def last(self) -> int:
        """The place of the item that was added last."""
        return len(self._items) - 1

    def put(self, index: int, item: McpItem) -> None:
        """What has become of the item at that place."""
        self._items[index] = item

    def done(self, index: int, item: McpItem) -> Iterator[ResponseEvent]:
        """What has become of it, and that nothing more will."""
        self.put(index, item)
        yield ItemEvent("response.output_item.done", self.next(), index, item)

    # --- what the model says -----------------------------------------------------

    def text(self, event: TextDelta) -> Iterator[ResponseEvent]:
        """Words of a message."""
        if not isinstance(self._open, MessageItem):
            yield from self.open_message()
        item_id, index = self._place()
        known = logprobs(event.logprobs)
        self._pieces.append(event.text)
        self._logprobs.extend(known)
        kind = "response.output_text.delta"
        yield TextDeltaEvent(kind, self.next(), item_id, index, event.text, known)

    def open_message(self) -> Iterator[ResponseEvent]:
        """A message without words."""
        yield from self.close("completed")
        yield from self._add(MessageItem(ids.message(), "in_progress"))
        yield self._part("added", OutputText(""))

    def thinking(self, text: str) -> Iterator[ResponseEvent]:
        """Thoughts."""
        if not isinstance(self._open, ReasoningItem):
            yield from self.close("completed")
            yield from self._add(ReasoningItem(ids.reasoning(), "in_progress"))
            yield self._thought_part("added", "")
        item_id, index = self._place()
        self._pieces.append(text)
        if self._summarized:
            kind = "response.reasoning_summary_text.delta"
            yield SummaryDeltaEvent(kind, self.next(), item_id, index, text)
        else:
            kind = "response.reasoning_text.delta"
            yield ReasoningDeltaEvent(kind, self.next(), item_id, index, text)

    def _thought_part(self, what: str, text: str) -> ResponseEvent:
        if not self._summarized:
            return self._part(what, ReasoningText(text))
        item_id, index = self._place()
        kind = f"response.reasoning_summary_part.{what}"
        return SummaryPartEvent(kind, self.next(), item_id, index, SummaryText(text))

    def _end_thinking(self, text: str) -> Iterator[ResponseEvent]:
        item_id, index = self._place()
        if self._summarized:
            kind = "response.reasoning_summary_text.done"
            yield SummaryDoneEvent(kind, self.next(), item_id, index, text)
        else:
            kind = "response.reasoning_text.done"
            yield ReasoningDoneEvent(kind, self.next(), item_id, index, text)
        yield self._thought_part("done", text)

    def call(self, event: ToolCallStart) -> Iterator[ResponseEvent]:
        """The beginning of a call of one of the caller's tools."""
        yield from self.close("completed")
        yield from self._add(self._new_call(event))

    def more_of_call(self, json: str) -> Iterator[ResponseEvent]:
        """More of its arguments."""
        if isinstance(self._open, CustomCallItem):
            yield from self._more_input(self._input.feed(json))
            return
        item_id, index = self._place()
        self._pieces.append(json)
        kind = "response.function_call_arguments.delta"
        yield ArgumentsDeltaEvent(kind, self.next(), item_id, index, json)

    def _new_call(self, event: ToolCallStart) -> CallItem:
        tool = self._toolbox.caller_knows(event.name)
        namespace = tool.namespace or msgspec.UNSET
        if tool.custom:
            self._input = CustomInput()
            item_id = ids.custom_call()
            return CustomCallItem(item_id, "in_progress", event.id, tool.name, namespace=namespace)
        return FunctionCallItem(
            ids.function_call(), "in_progress", event.id, tool.name, namespace=namespace
        )

    def _more_input(self, text: str) -> Iterator[ResponseEvent]:
        if text:
            item_id, index = self._place()
            self._pieces.append(text)
            kind = "response.custom_tool_call_input.delta"
            yield InputDeltaEvent(kind, self.next(), item_id, index, text)

    def _add(self, item: SaidItem) -> Iterator[ResponseEvent]:
        self._open = item
        self._pieces = []
        self._logprobs = []
        kind = "response.output_item.added"
        yield ItemEvent(kind, self.next(), len(self._items), item)

    def close(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """Finish the open item, if there is one."""
        if self._open is None:
            return
        if isinstance(self._open, CustomCallItem):
            yield from self._more_input(self._input.finish())
        item_id, index = self._place()
        text = "".join(self._pieces)
        match self._open:
            case MessageItem():
                kind = "response.output_text.done"
                yield TextDoneEvent(kind, self.next(), item_id, index, text, self._logprobs)
                yield self._part("done", OutputText(text, logprobs=self._logprobs))
            case ReasoningItem():
                yield from self._end_thinking(text)
            case FunctionCallItem(name=name):
                kind = "response.function_call_arguments.done"
                yield ArgumentsDoneEvent(kind, self.next(), item_id, index, text, name)
            case CustomCallItem():
                kind = "response.custom_tool_call_input.done"
                yield InputDoneEvent(kind, self.next(), item_id, index, text)
        done = self._filled(self._open, status)
        self._open = None
        self._items.append(done)
        yield ItemEvent("response.output_item.done", self.next(), index, done)

    def _filled(self, item: SaidItem, status: ItemStatus) -> SaidItem:
        """The open item with all that it has so far."""
        text = "".join(self._pieces)
        match item:
            case MessageItem():
                part = OutputText(text, logprobs=list(self._logprobs))
                return msgspec.structs.replace(item, status=status, content=(part,))
            case ReasoningItem():
                return msgspec.structs.replace(
                    item,
                    status=status,
                    content=() if self._summarized else (ReasoningText(text),),
                    summary=(SummaryText(text),) if self._summarized else (),
                    encrypted_content=seal(text) if self._sealed else None,
                )
            case FunctionCallItem():
                return msgspec.structs.replace(item, status=status, arguments=text)
            case CustomCallItem():
                return msgspec.structs.replace(item, status=status, input=text)

    def _place(self) -> tuple[str, int]:
        """Id and output index of the open item."""
        assert self._open is not None
        return self._open.id, len(self._items)

    def _part(self, what: str, part: OutputText | ReasoningText) -> PartEvent:
        item_id, index = self._place()
        return PartEvent(f"response.content_part.{what}", self.next(), item_id, index, part)
