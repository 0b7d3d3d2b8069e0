"""Items of MCP that come as input, as what the model has called and been told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmnb.chat.conversation import Message, Text, ToolCall, ToolResult
from lmnb.server.mcp import content
from lmnb.server.openai.chat_messages import arguments
from lmnb.server.openai.values import string

_UNMADE = ("in_progress", "calling", "incomplete")


def call_and_result(item: dict[str, Any], where: str) -> tuple[ToolCall, Message] | None:
    """An `mcp_call`; None if it was never made."""
    name = string(item, "name", where)
    if item.get("status") in _UNMADE:
        return None
    id_ = item.get("id")
    call = ToolCall(
        id_ if isinstance(id_, str) else where, name, arguments(item.get("arguments"), where)
    )
    error, output = item.get("error"), item.get("output")
    if error is not None:
        return call, _result(call, f"Error: {_reason(error)}", is_error=True)
    return call, _result(call, content.words(output) if isinstance(output, str) else "")


def denied(
    item: dict[str, Any], requests: Mapping[str, dict[str, Any]]
) -> tuple[ToolCall, Message] | None:
    """What comes of a refusal to approve a call; None if nobody knows of the call."""
    request = requests.get(item["approval_request_id"])
    if request is None:
        return None
    call = ToolCall(request["id"], request["name"], request["arguments"])
    reason = item.get("reason")
    said = f": {reason}" if isinstance(reason, str) and reason else "."
    return call, _result(call, f"Error: The user did not allow this call{said}", is_error=True)


def _result(call: ToolCall, text: str, *, is_error: bool = False) -> Message:
    return Message("tool", (ToolResult(call.id, (Text(text),), is_error=is_error),))


def _reason(error: Any) -> str:
    """What an error says: ours and OpenAI's are objects, older ones a string."""
    if not isinstance(error, dict):
        return str(error)
    if isinstance(error.get("message"), str):
        return str(error["message"])
    blocks = error.get("content")
    return content.words(content.as_json(blocks)) if isinstance(blocks, list) else str(error)
