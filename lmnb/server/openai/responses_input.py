"""Input items in the form in which they are stored and listed.

Clients send them in short forms (a string, no type, no id, content as a string); SDKs read them in
the long form only. What a client sent besides is kept.
"""

from __future__ import annotations

from typing import Any

from lmnb.server.openai import ids

_WITH_STATUS = frozenset(
    {
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
    }
)


def listed(value: Any) -> list[dict[str, Any]]:
    """The items of `input`, which has been translated already and so is well formed."""
    if value is None:
        return []
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    return [_listed(item) for item in value]


def _listed(item: dict[str, Any]) -> dict[str, Any]:
    kind = item.get("type") or "message"
    given = item.get("id")
    named = given if isinstance(given, str) and given else ids.item(kind)
    known = {key: value for key, value in item.items() if value is not None}
    found = {**known, "type": kind, "id": named}
    if kind in _WITH_STATUS:
        found.setdefault("status", "completed")
    if kind == "message":
        found["content"] = _content(item["role"], item.get("content"))
    elif kind == "reasoning":
        found.setdefault("summary", [])
    elif kind in ("function_call_output", "custom_tool_call_output"):
        found["output"] = _output(item.get("output"))
    return found


def _content(role: str, content: Any) -> list[Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    if content is None:
        return []
    if isinstance(content, str):
        content = [{"type": kind, "text": content}]
    return [_part(part, kind) for part in content]


def _output(output: Any) -> Any:
    if output is None:
        return ""
    return [_part(part, "input_text") for part in output] if isinstance(output, list) else output


def _part(part: Any, kind: str) -> Any:
    if isinstance(part, str):
        part = {"type": kind, "text": part}
    if part["type"] == "text":
        part = {**part, "type": kind}
    if part["type"] == "output_text":
        return {"annotations": [], "logprobs": [], **part}
    if part["type"] == "image_url":  # as Chat Completions has it
        url = part["image_url"]
        part = {"type": "input_image", "image_url": url["url"] if isinstance(url, dict) else url}
    return {"detail": "auto", **part} if part["type"] == "input_image" else part
