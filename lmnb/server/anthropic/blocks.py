"""Content blocks → parts of the conversation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from lmnb.chat.conversation import Document, Image, Part, Text, Thinking, ToolCall, ToolResult
from lmnb.chat.documents.showing import frame, joined
from lmnb.chat.joining import join
from lmnb.errors import NotSupported
from lmnb.server.anthropic.schema import Block
from lmnb.server.errors import InvalidType, MissingParameter
from lmnb.server.media import from_base64, from_data_url
from lmnb.server.notes import note
from lmnb.server.sealing import unseal

V = TypeVar("V")

_SILENT = {
    "redacted_thinking",
    "container_upload",
    "fallback",
    "mcp_tool_listing",
    "tool_reference",
}
"""Blocks that say nothing to another model; references to tools have been spelled out before."""
_RAN_ELSEWHERE = ("_tool_use", "_tool_result")
"""How the types of blocks end that are of tools which Anthropic, or an MCP server, has run."""
_OPAQUE = {"encrypted_content", "encrypted_index", "encrypted_stdout", "cache_control", "signature"}


def parts(content: str | list[Block] | None, where: str) -> list[Part]:
    """The parts of a message's content. `where` names it in errors (`messages.0.content`).

    Neighbouring texts are kept apart by a line break, where they bring none: joined as they are,
    the last word of the one and the first of the other would become one word.
    """
    if content is None or isinstance(content, str):
        return [Text(content)] if content else []
    if not isinstance(content, list):  # blocks within blocks are read as they come
        raise InvalidType(f"'{where}' must be a string or an array.", param=where)
    return joined(part for i, block in enumerate(content) for part in _parts(block, f"{where}.{i}"))


def text_of(content: str | list[Block] | None, where: str, gap: str = "\n") -> str:
    """The text of a content that can hold nothing else."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidType(f"'{where}' must be a string or an array.", param=where)
    texts = [_get(block, "text", str, f"{where}.{i}") for i, block in enumerate(content)]
    return join(texts, gap)


def _parts(block: Any, where: str) -> list[Part]:
    if not isinstance(block, dict):
        raise InvalidType(f"'{where}' must be an object.", param=where)
    kind = _get(block, "type", str, where)
    if kind in _SILENT:
        return []
    if (reader := _reader(kind)) is None:
        note(f"A content block of the type {kind!r} was left out: it is not known here.")
        return []
    return reader(block, where)


def _text(block: Block, where: str) -> list[Part]:
    return [Text(_get(block, "text", str, where))]


def _thinking(block: Block, where: str) -> list[Part]:
    text, signature = _get(block, "thinking", str, where), block.get("signature")
    hidden = unseal(signature) if not text and isinstance(signature, str) else None
    return [Thinking(hidden or text)]


def _image(block: Block, where: str) -> list[Part]:
    return [Image(*_source(block, where, "image"))]


def _document(block: Block, where: str) -> list[Part]:
    source = _get(block, "source", dict, where)
    title, context = (
        found if isinstance(found := block.get(name), str) else None
        for name in ("title", "context")
    )
    if source.get("type") == "text":
        text = _get(source, "data", str, f"{where}.source")
        return frame([Text(text)], title, context)
    if source.get("type") == "content":
        return frame(parts(source.get("content"), f"{where}.source.content"), title, context)
    data, media_type = _source(block, where, "document")
    return [Document(data, media_type, title, context)]


def _search_result(block: Block, where: str) -> list[Part]:
    head = [str(block[name]) for name in ("title", "source") if block.get(name)]
    return [Text(join([*head, text_of(block.get("content"), f"{where}.content")]))]


def _tool_use(block: Block, where: str) -> list[Part]:
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    return [ToolCall(_get(block, "id", str, where), _get(block, "name", str, where), arguments)]


def _tool_result(block: Block, where: str) -> list[Part]:
    found = parts(block.get("content"), f"{where}.content")
    shown = tuple(part for part in found if isinstance(part, Text | Image | Document))
    error = bool(block.get("is_error"))
    return [ToolResult(_get(block, "tool_use_id", str, where), shown, error)]


def _compaction(block: Block, _where: str) -> list[Part]:
    """The summary of what was said before; there is none if making it failed."""
    summary = block.get("content")
    return [Text(summary)] if isinstance(summary, str) else []


def _as_json(block: Block, _where: str) -> list[Part]:
    """Blocks of tools that ran elsewhere, as they are but for what only Anthropic can read."""
    return [Text(json.dumps(_readable(block), ensure_ascii=False))]


def _readable(value: Any) -> Any:
    if isinstance(value, list):
        return [_readable(one) for one in value]
    if not isinstance(value, dict):
        return value
    hidden = _OPAQUE | {"data"} if value.get("type") == "base64" else _OPAQUE
    return {key: _readable(one) for key, one in value.items() if key not in hidden}


def _reader(kind: str) -> Callable[[Block, str], list[Part]] | None:
    return _READERS.get(kind) or (_as_json if kind.endswith(_RAN_ELSEWHERE) else None)


_READERS: dict[str, Callable[[Block, str], list[Part]]] = {
    "text": _text,
    "thinking": _thinking,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "compaction": _compaction,
    "browser_state": _as_json,
}


def _source(block: Block, where: str, what: str) -> tuple[bytes, str]:
    source = _get(block, "source", dict, where)
    where = f"{where}.source"
    if source.get("type") == "url":
        return from_data_url(_get(source, "url", str, where), f"{where}.url")
    if source.get("type") != "base64":
        raise NotSupported(
            f"Only {what}s sent as base64 can be read, not those of type {source.get('type')!r}.",
            hint=f"Send the {what}'s data.",
            param=where,
        )
    data = from_base64(_get(source, "data", str, where), f"{where}.data")
    return data, _get(source, "media_type", str, where)


_NAMES: dict[type[Any], str] = {str: "a string", dict: "an object", list: "an array"}


def _get(block: Block, name: str, kind: type[V], where: str) -> V:
    if name not in block:
        raise MissingParameter(f"'{where}.{name}' is required.", param=f"{where}.{name}")
    value = block[name]
    if not isinstance(value, kind):
        place = f"{where}.{name}"
        raise InvalidType(f"'{place}' must be {_NAMES[kind]}.", param=place)
    return value
