"""The value that an answer stands for, where `--schema` was given."""

from __future__ import annotations

from dataclasses import replace

from lmnb.notebook.reply import Reply
from lmnb.notebook.schemas import Schema, UnfitAnswer


def parsed(
    reply: Reply, schema: Schema | None, *, complete: bool
) -> tuple[Reply, UnfitAnswer | None]:
    """The reply with its value, or why it has none. `complete` is whether it ended by itself."""
    if schema is None:
        return reply, None
    try:
        value = schema.parse(reply.text, reply.stop_reason, complete=complete)
    except UnfitAnswer as error:
        return reply, error
    return replace(reply, parsed=value), None
