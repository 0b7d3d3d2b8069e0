"""Answers in Anthropic's form: whole, and the values that streams use too."""

from __future__ import annotations

import re
import secrets

import msgspec
from pydantic_core import from_json

from lmnb.chat.events import Finished
from lmnb.chat.events import Usage as Counts
from lmnb.server.anthropic.schema import (
    ContextManagement,
    Message,
    MessagesBody,
    OutputTokensDetails,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
)
from lmnb.server.generation import Answer
from lmnb.server.sealing import seal

STOP_REASONS: dict[str, StopReason] = {
    "stop": "end_turn",
    "stop_string": "stop_sequence",
    "length": "max_tokens",
    "context": "model_context_window_exceeded",
    "tool_calls": "tool_use",
}


_ODD = re.compile(r"[^A-Za-z0-9_-]")


class Form(msgspec.Struct, frozen=True):
    """What the request says of the form of its answer.

    hides_thinking
        Thinking is in its block's signature only.
    manages_context
        The request has `context_management`: the answer says that no edit was applied.
    """

    hides_thinking: bool = False
    manages_context: bool = False

    @classmethod
    def of(cls, body: MessagesBody) -> Form:
        """That of a request."""
        return cls(
            hides_thinking=(body.thinking or {}).get("display") == "omitted",
            manages_context=body.context_management is not None,
        )


PLAIN = Form()


def message(answer: Answer, model: str, form: Form = PLAIN) -> Message:
    """The whole answer: thinking, text, calls. `model` is the name to be reported."""
    content: list[TextBlock | ThinkingBlock | ToolUseBlock] = []
    if answer.thinking and form.hides_thinking:
        content.append(ThinkingBlock("", seal(answer.thinking)))
    elif answer.thinking:
        content.append(ThinkingBlock(answer.thinking, signature()))
    if answer.text:
        content.append(TextBlock(answer.text))
    content.extend(
        ToolUseBlock(tool_use_id(call.id), call.name, _input(call.arguments))
        for call in answer.tool_calls
    )
    end = answer.finished
    return Message(
        id=message_id(),
        model=model,
        content=tuple(content),
        stop_reason=stop_reason(end),
        stop_sequence=stop_sequence(end),
        usage=usage(end.usage),
        context_management=ContextManagement() if form.manages_context else msgspec.UNSET,
    )


def tool_use_id(call: str) -> str:
    """A call's id in the characters that Anthropic's have. Some models write others."""
    return _ODD.sub("_", call)


def _input(arguments: str) -> msgspec.Raw:
    """The arguments as they are. Of cut ones what an SDK makes of the stream: whole values only."""
    try:
        found = from_json(arguments)
    except ValueError:
        try:
            found = from_json(arguments, allow_partial=True)
        except ValueError:
            found = None
        arguments = msgspec.json.encode(found).decode()
    return msgspec.Raw(arguments.encode() if isinstance(found, dict) else b"{}")


def stop_reason(end: Finished) -> StopReason:
    """Why it ended, in Anthropic's words. One that ended within a call has met its limit."""
    if end.is_cut and end.reason != "context":
        return "max_tokens"
    return STOP_REASONS[end.reason]


def stop_sequence(end: Finished) -> str | None:
    """The string that was met, if that is why it ended."""
    return end.stop if stop_reason(end) == "stop_sequence" else None


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
