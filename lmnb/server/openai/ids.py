"""Identifiers with the prefixes that clients know and sometimes check."""

from __future__ import annotations

import secrets

_ITEM_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "mcp_list_tools": "mcpl",
    "mcp_call": "mcp",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
}


def chat_completion() -> str:
    return f"chatcmpl-{secrets.token_hex(16)}"


def completion() -> str:
    return f"cmpl-{secrets.token_hex(16)}"


def response() -> str:
    """48 hex digits, as LM Studio's."""
    return f"resp_{secrets.token_hex(24)}"


def message() -> str:
    return f"msg_{secrets.token_hex(24)}"


def file() -> str:
    return f"file-{secrets.token_hex(12)}"


def batch() -> str:
    return f"batch_{secrets.token_hex(12)}"


def batch_request() -> str:
    return f"batch_req_{secrets.token_hex(12)}"


def reasoning() -> str:
    return f"rs_{secrets.token_hex(24)}"


def function_call() -> str:
    return f"fc_{secrets.token_hex(24)}"


def custom_call() -> str:
    return f"ctc_{secrets.token_hex(24)}"


def conversation() -> str:
    return f"conv_{secrets.token_hex(24)}"


def item(kind: str) -> str:
    """For an input item of that type."""
    return f"{_ITEM_PREFIXES.get(kind, 'item')}_{secrets.token_hex(24)}"
