"""Events as the items and events of a response (protocols, 1.3).

One machine for both forms: a plain answer is what a stream would have ended with.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from lmnb.chat.conversation import Message, Part, Text, Thinking, ToolCall
from lmnb.chat.events import (
    Event,
    Finished,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from lmnb.errors import ContextOverflow, LmnbError
from lmnb.server.openai import ids
from lmnb.server.openai.custom_input import CustomInput
from lmnb.server.openai.responses_events import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    InputDeltaEvent,
    InputDoneEvent,
    ItemEvent,
    Lifecycle,
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
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    ResponseError,
    ResponseObject,
    SummaryText,
    usage,
)
from lmnb.server.openai.toolbox import NO_TOOLS, Toolbox, arguments_of, flat_name
from lmnb.server.openai.wire import Logprob, logprobs
from lmnb.server.sealing import seal


class ResponseStream:
    """Turns events into a response and its stream. One per response.

    Call `start`, then `feed` for every event, then `end`; or `fail`, or `cancel`. With `sealed`,
    what was thought is also given in a form that clients send back unread. With `prefill`, there
    is no output: the events are those of a request whose prompt only is to be read.
    """

    def __init__(
        self,
        response: ResponseObject,
        toolbox: Toolbox = NO_TOOLS,
        *,
        sealed: bool = False,
        prefill: bool = False,
    ) -> None:
        self.response = response
        self._toolbox = toolbox
        self._sealed = sealed
        self._prefill = prefill
        self._summarized = response.reasoning["summary"] is not None
        self._sequence = -1
        self._items: list[Item] = []
        self._open: Item | None = None
        self._pieces: list[str] = []
        self._logprobs: list[Logprob] = []
        self._input = CustomInput()

    def start(self) -> Iterator[ResponseEvent]:
        """The two events that come before all others."""
        yield self._lifecycle("response.created")
        yield self._lifecycle(f"response.{self.response.status}")

    def heartbeat(self) -> ResponseEvent:
        """A repeated `response.in_progress`: Codex's watchdog counts events, not comments."""
        return self._lifecycle("response.in_progress")

    def feed(self, event: Event) -> Iterator[ResponseEvent]:
        """What the client hears of `event`."""
        if self.response.status == "queued":
            self.response = msgspec.structs.replace(self.response, status="in_progress")
            yield self.heartbeat()
        if self._prefill and not isinstance(event, Finished):
            return
        match event:
            case TextDelta():
                yield from self._text(event)
            case ThinkingDelta(text=text):
                yield from self._thinking(text)
            case ToolCallStart():
                yield from self._close("completed")
                yield from self._add(self._new_call(event))
            case ToolCallDelta(json=json):
                yield from self._more_of_call(json)
            case ToolCallEnd():
                yield from self._close("completed")
            case Finished():
                yield from self._finish(event)
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
            output=self._so_far("incomplete"),
            error=ResponseError(failure_code(error), str(error)),
        )

    def cancel(self) -> None:
        """Somebody has called the response off. What had been said stays; `end` tells of it."""
        output = self._so_far("incomplete")
        self.response = msgspec.structs.replace(self.response, status="cancelled", output=output)

    def snapshot(self) -> ResponseObject:
        """The response as it is now, with what has been said so far."""
        if not self.is_running:
            return self.response
        return msgspec.structs.replace(self.response, output=self._so_far("in_progress"))

    @property
    def is_running(self) -> bool:
        """Whether there is still something to come."""
        return self.response.status in ("queued", "in_progress")

    def message(self) -> Message:
        """The answer as part of a conversation: what has been said."""
        parts: list[Part] = []
        for item in self._so_far("incomplete"):
            match item:
                case ReasoningItem():
                    parts.extend(Thinking(part.text) for part in item.content or item.summary)
                case MessageItem():
                    parts.extend(Text(part.text) for part in item.content)
                case FunctionCallItem():
                    parts.append(ToolCall(item.call_id, _name(item), item.arguments))
                case CustomCallItem():
                    parts.append(ToolCall(item.call_id, _name(item), arguments_of(item.input)))
        return Message("assistant", tuple(parts))

    # --- items ------------------------------------------------------------------

    def _text(self, event: TextDelta) -> Iterator[ResponseEvent]:
        if not isinstance(self._open, MessageItem):
            yield from self._open_message()
        item_id, index = self._place()
        known = logprobs(event.logprobs)
        self._pieces.append(event.text)
        self._logprobs.extend(known)
        kind = "response.output_text.delta"
        yield TextDeltaEvent(kind, self._next(), item_id, index, event.text, known)

    def _open_message(self) -> Iterator[ResponseEvent]:
        yield from self._close("completed")
        yield from self._add(MessageItem(ids.message(), "in_progress"))
        yield self._part("added", OutputText(""))

    def _thinking(self, text: str) -> Iterator[ResponseEvent]:
        if not isinstance(self._open, ReasoningItem):
            yield from self._close("completed")
            yield from self._add(ReasoningItem(ids.reasoning(), "in_progress"))
            yield self._thought_part("added", "")
        item_id, index = self._place()
        self._pieces.append(text)
        if self._summarized:
            kind = "response.reasoning_summary_text.delta"
            yield SummaryDeltaEvent(kind, self._next(), item_id, index, text)
        else:
            kind = "response.reasoning_text.delta"
            yield ReasoningDeltaEvent(kind, self._next(), item_id, index, text)

    def _thought_part(self, what: str, text: str) -> ResponseEvent:
        if not self._summarized:
            return self._part(what, ReasoningText(text))
        item_id, index = self._place()
        kind = f"response.reasoning_summary_part.{what}"
        return SummaryPartEvent(kind, self._next(), item_id, index, SummaryText(text))

    def _end_thinking(self, text: str) -> Iterator[ResponseEvent]:
        item_id, index = self._place()
        if self._summarized:
            kind = "response.reasoning_summary_text.done"
            yield SummaryDoneEvent(kind, self._next(), item_id, index, text)
        else:
            kind = "response.reasoning_text.done"
            yield ReasoningDoneEvent(kind, self._next(), item_id, index, text)
        yield self._thought_part("done", text)

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

    def _more_of_call(self, json: str) -> Iterator[ResponseEvent]:
        if isinstance(self._open, CustomCallItem):
            yield from self._more_input(self._input.feed(json))
            return
        item_id, index = self._place()
        self._pieces.append(json)
        kind = "response.function_call_arguments.delta"
        yield ArgumentsDeltaEvent(kind, self._next(), item_id, index, json)

    def _more_input(self, text: str) -> Iterator[ResponseEvent]:
        if text:
            item_id, index = self._place()
            self._pieces.append(text)
            kind = "response.custom_tool_call_input.delta"
            yield InputDeltaEvent(kind, self._next(), item_id, index, text)

    def _add(self, item: Item) -> Iterator[ResponseEvent]:
        self._open = item
        self._pieces = []
        self._logprobs = []
        kind = "response.output_item.added"
        yield ItemEvent(kind, self._next(), len(self._items), item)

    def _close(self, status: ItemStatus) -> Iterator[ResponseEvent]:
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
                yield TextDoneEvent(kind, self._next(), item_id, index, text, self._logprobs)
                yield self._part("done", OutputText(text, logprobs=self._logprobs))
            case ReasoningItem():
                yield from self._end_thinking(text)
            case FunctionCallItem(name=name):
                kind = "response.function_call_arguments.done"
                yield ArgumentsDoneEvent(kind, self._next(), item_id, index, text, name)
            case CustomCallItem():
                kind = "response.custom_tool_call_input.done"
                yield InputDoneEvent(kind, self._next(), item_id, index, text)
        done = self._filled(self._open, status)
        self._open = None
        self._items.append(done)
        yield ItemEvent("response.output_item.done", self._next(), index, done)

    def _so_far(self, status: ItemStatus) -> tuple[Item, ...]:
        """The items, the open one included, to which `status` is given."""
        if self._open is None:
            return tuple(self._items)
        return (*self._items, self._filled(self._open, status))

    def _filled(self, item: Item, status: ItemStatus) -> Item:
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

    def _finish(self, end: Finished) -> Iterator[ResponseEvent]:
        cut = not self._prefill and (end.is_cut or end.reason in {"length", "context"})
        status: ItemStatus = "incomplete" if cut else "completed"
        silent = self._open is None and not self._items
        if silent and not self._prefill:  # a message, though an empty one
            yield from self._open_message()
        yield from self._close(status)
        self.response = msgspec.structs.replace(
            self.response,
            status=status,
            completed_at=None if cut else int(time.time()),
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            output=tuple(self._items),
            usage=usage(end, output=not self._prefill),
        )

    # --- numbers ----------------------------------------------------------------

    def _place(self) -> tuple[str, int]:
        """Id and output index of the open item."""
        assert self._open is not None
        return self._open.id, len(self._items)

    def _part(self, what: str, part: OutputText | ReasoningText) -> PartEvent:
        item_id, index = self._place()
        return PartEvent(f"response.content_part.{what}", self._next(), item_id, index, part)

    def _lifecycle(self, kind: str) -> ResponseEvent:
        return Lifecycle(kind, self._next(), self.response)

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence


def _name(item: CallItem) -> str:
    """The name for the model."""
    return flat_name(item.name, item.namespace or None)


def failure_code(error: LmnbError) -> str:
    """The code of `response.failed`.

    Codex compacts its conversation on `context_length_exceeded` and retries on others. The
    rest are from OpenAI's own list, which openai-python checks under strict validation.
    """
    if isinstance(error, ContextOverflow):
        return error.code
    if error.status == 429:
        return "rate_limit_exceeded"
    return "server_error" if error.status >= 500 or error.status == 409 else "invalid_prompt"
