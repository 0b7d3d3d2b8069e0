"""Answers in Anthropic's form: whole, and the values that streams use too."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from lmnb.chat.events import Finished
from lmnb.chat.events import Usage as Counts
from lmnb.server.anthropic.schema import (
    Message,
    OutputTokensDetails,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
)
from lmnb.server.generation import Answer

STOP_REASONS: dict[str, StopReason] = {
    "stop": "end_turn",
    "stop_string": "stop_sequence",
    "length": "max_tokens",
    "context": "model_context_window_exceeded",
    "tool_calls": "tool_use",
}


def message(answer: Answer, model: str) -> Message:
    """The whole answer: thinking, text, calls. `model` is the name to be reported."""
    content: list[TextBlock | ThinkingBlock | ToolUseBlock] = []
    if answer.thinking:
        content.append(ThinkingBlock(answer.thinking, signature()))
    if answer.text:
        content.append(TextBlock(answer.text))
    content.extend(
        ToolUseBlock(call.id, call.name, _input(call.arguments)) for call in answer.tool_calls
    )
    end = answer.finished
    return Message(
        id=message_id(),
        model=model,
        content=tuple(content),
        stop_reason=stop_reason(end),
        stop_sequence=end.stop,
        usage=usage(end.usage),
    )


def _input(arguments: str) -> msgspec.Raw:
    """The arguments as they are; an empty object if they were cut before they were whole."""
    try:
        msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.DecodeError:
        return msgspec.Raw(b"{}")
    return msgspec.Raw(arguments.encode())


def stop_reason(end: Finished) -> StopReason:
    """Why it ended, in Anthropic's words."""
    return STOP_REASONS[end.reason]


def usage(counts: Counts) -> Usage:
    """The counts, of which clients add up the input's three."""
    return Usage(
        input_tokens=counts.input - counts.cached,
        output_tokens=counts.output,
        cache_read_input_tokens=counts.cached,
        output_tokens_details=OutputTokensDetails(counts.reasoning),
    )


def message_id() -> str:
    """`msg_` and 24 hexadecimal digits."""
    return f"msg_{secrets.token_hex(12)}"


def signature() -> str:
    """Opaque and not empty, which some clients check; nothing here reads it."""
    return f"lmnb{secrets.token_hex(16)}"
