"""Identifiers with the prefixes that clients know and sometimes check."""

from __future__ import annotations

import secrets


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
