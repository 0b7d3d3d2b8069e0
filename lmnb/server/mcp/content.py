"""Results of tools: MCP's content blocks as JSON text, as parts for the model, and in words."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lmnb.chat.conversation import Image, Text
from lmnb.engine.pictures import check_picture
from lmnb.errors import InvalidRequest

if TYPE_CHECKING:
    from mcp.types import CallToolResult, ContentBlock

MOST_OUTPUT = 100_000
"""Characters of one result that the model and the caller are shown."""
MOST_BLOCKS = 1000
"""Content blocks of one result."""
UNSEEN = Text("[An image, which you cannot see]")
"""What takes the place of an image for models, and in forms, that have none."""


def content(result: CallToolResult) -> tuple[str, tuple[Text | Image, ...]]:
    """The result as JSON text, and as parts for the model; both cut to `MOST_OUTPUT`."""
    blocks = [_dumped(block) for block in result.content[:MOST_BLOCKS]]
    if result.structured_content is not None and "text" not in {block["type"] for block in blocks}:
        # Servers repeat it as text for whoever does not know it; not all do.
        blocks.append({"type": "text", "text": json.dumps(result.structured_content)})
    shown: list[dict[str, Any]] = []
    parts: list[Text | Image] = []
    left = MOST_OUTPUT
    if (more := len(result.content) - MOST_BLOCKS) > 0:
        blocks.append({"type": "text", "text": f"[{more} more were left out]"})
    for block in blocks:
        part = _part(block)
        if isinstance(part, Text) and len(part.text) > left:
            note = f"\n[{len(part.text) - left} more characters were left out]"
            part = Text(part.text[:left] + note)
            shown.append({"type": "text", "text": part.text})
        else:
            shown.append(block)
        parts.append(part)
        left -= len(part.text) if isinstance(part, Text) else 0
        if left <= 0:
            break
    return as_json(shown), tuple(parts)


def as_json(blocks: Sequence[Any]) -> str:
    """Blocks as JSON text."""
    return json.dumps(blocks, ensure_ascii=False, separators=(",", ":"))


def blocks_of(output: str) -> list[dict[str, Any]] | None:
    """The blocks of a result that is JSON text of some; None if it is other text."""
    try:
        found = msgspec.json.decode(output)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not found:
        return None
    are_blocks = all(isinstance(one, dict) and isinstance(one.get("type"), str) for one in found)
    return found if are_blocks else None


def plain(output: str) -> str:
    """JSON text of blocks as the text that is in them, if there is nothing but text."""
    blocks = blocks_of(output) or []
    if all(block["type"] == "text" for block in blocks):
        return "\n".join(block["text"] for block in blocks)
    return output


def words(output: str) -> str:
    """What `plain` gave, or somebody else has, for a model: without pictures."""
    blocks = blocks_of(output)
    if blocks is None:
        return output
    parts = [_part(block) for block in blocks]
    return "\n".join((part if isinstance(part, Text) else UNSEEN).text for part in parts)


def _dumped(block: ContentBlock) -> dict[str, Any]:
    return block.model_dump(mode="json", by_alias=True, exclude_none=True)


def _part(block: dict[str, Any]) -> Text | Image:
    """A content block for the model: text and images as they are, the rest in words."""
    kind = block["type"]
    try:
        if kind == "text":
            return Text(_string(block, "text"))
        if kind == "image":
            return _image(block["data"], _string(block, "mimeType"))
        if kind == "resource":
            return _resource(block["resource"])
        if kind == "resource_link":
            return Text(f"[{block.get('name', 'Resource')}: {block['uri']}]")
    except (AttributeError, KeyError, TypeError):  # Such as a client may have sent.
        return Text(f"[{kind}: cannot be read]")
    return Text(f"[{kind}: cannot be shown]")


def _resource(resource: dict[str, Any]) -> Text | Image:
    if "text" in resource:
        return Text(_string(resource, "text"))
    media_type = resource.get("mimeType", "")
    if media_type.startswith("image/"):
        return _image(resource["blob"], media_type)
    return Text(f"[{resource['uri']}: {media_type or 'data'}, which cannot be shown]")


def _image(data: str, media_type: str) -> Text | Image:
    """An image, or why there is none: the engine would refuse the whole request for it."""
    try:
        image = Image(base64.b64decode(data, validate=True), media_type)
        check_picture(image.data)
    except (binascii.Error, ValueError):
        return Text("[An image that cannot be read]")
    except InvalidRequest as error:
        return Text(f"[An image that cannot be shown: {error.message}]")
    return image


def _string(block: dict[str, Any], key: str) -> str:
    value = block[key]
    if not isinstance(value, str):
        raise TypeError(key)
    return value
