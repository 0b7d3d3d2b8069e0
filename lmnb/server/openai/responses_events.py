"""The events of a streamed response: their shapes (protocols, 1.3).

All carry a sequence number; those about an item say which, and where in the
output it stands. SDKs raise on any that is missing.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from lmnb.server.openai.responses_objects import (
    Item,
    OutputText,
    ReasoningText,
    ResponseObject,
    SummaryText,
)
from lmnb.server.openai.wire import Logprob


class Lifecycle(msgspec.Struct, frozen=True):
    """`response.created`, `.queued`, `.in_progress`, `.completed`, `.incomplete`, `.failed`."""

    type: str
    sequence_number: int
    response: ResponseObject


class ItemEvent(msgspec.Struct, frozen=True):
    """`response.output_item.added` and `.done`."""

    type: str
    sequence_number: int
    output_index: int
    item: Item


class PartEvent(msgspec.Struct, frozen=True):
    """`response.content_part.added` and `.done`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    part: OutputText | ReasoningText
    content_index: int = 0


class TextDeltaEvent(msgspec.Struct, frozen=True):
    """`response.output_text.delta`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    logprobs: list[Logprob]
    content_index: int = 0


class TextDoneEvent(msgspec.Struct, frozen=True):
    """`response.output_text.done`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    text: str
    logprobs: list[Logprob]
    content_index: int = 0


class ReasoningDeltaEvent(msgspec.Struct, frozen=True):
    """`response.reasoning_text.delta`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    content_index: int = 0


class ReasoningDoneEvent(msgspec.Struct, frozen=True):
    """`response.reasoning_text.done`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    text: str
    content_index: int = 0


class SummaryPartEvent(msgspec.Struct, frozen=True):
    """`response.reasoning_summary_part.added` and `.done`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    part: SummaryText
    summary_index: int = 0


class SummaryDeltaEvent(msgspec.Struct, frozen=True):
    """`response.reasoning_summary_text.delta`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    summary_index: int = 0


class SummaryDoneEvent(msgspec.Struct, frozen=True):
    """`response.reasoning_summary_text.done`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    text: str
    summary_index: int = 0


class ArgumentsDeltaEvent(msgspec.Struct, frozen=True):
    """`response.function_call_arguments.delta`, `response.mcp_call_arguments.delta`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(msgspec.Struct, frozen=True):
    """`response.function_call_arguments.done`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str
    name: str


class InputDeltaEvent(msgspec.Struct, frozen=True):
    """`response.custom_tool_call_input.delta`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class InputDoneEvent(msgspec.Struct, frozen=True):
    """`response.custom_tool_call_input.done`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    input: str


class McpEvent(msgspec.Struct, frozen=True):
    """`response.mcp_list_tools.in_progress`, `.completed`, `.failed`; the same of `mcp_call`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int


class McpArgumentsDoneEvent(msgspec.Struct, frozen=True):
    """`response.mcp_call_arguments.done`."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str


class ErrorEvent(msgspec.Struct, frozen=True):
    """`error`: the stream ends, but not because its response does."""

    code: str | None
    message: str
    param: str | None
    sequence_number: int = 0
    type: str = "error"


ResponseEvent: TypeAlias = (
    Lifecycle
    | ErrorEvent
    | ItemEvent
    | PartEvent
    | TextDeltaEvent
    | TextDoneEvent
    | ReasoningDeltaEvent
    | ReasoningDoneEvent
    | SummaryPartEvent
    | SummaryDeltaEvent
    | SummaryDoneEvent
    | ArgumentsDeltaEvent
    | ArgumentsDoneEvent
    | InputDeltaEvent
    | InputDoneEvent
    | McpEvent
    | McpArgumentsDoneEvent
)
