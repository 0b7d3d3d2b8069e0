"""What goes into a model and what comes out of it, word for word, for whoever wants to look."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from lmnb.engine.client import Update
from lmnb.engine.config import ModelInfo
from lmnb.engine.options import Segment
from lmnb.engine.protocol import Delta, End, Generate


class Witness(Protocol):
    """Is told of each generation: `given` when it begins, `said` when it ends, however it ends."""

    def given(self, prompt: str) -> None:
        """What the model reads, control tokens spelled out."""

    def said(self, text: str, *, complete: bool) -> None:
        """What it has written; without control tokens, and maybe a little less, if it was stopped."""


async def witnessed(
    updates: AsyncGenerator[Update, None], witness: Witness
) -> AsyncGenerator[Update, None]:
    """The same updates, of which the witness is told. They are those of a `verbatim` command."""
    seen: list[str] = []
    whole: str | None = None
    try:
        async with aclosing(updates):
            async for update in updates:
                if isinstance(update, Delta):
                    seen.append(update.text)
                elif isinstance(update, End):
                    whole = update.verbatim
                yield update
    finally:
        witness.said("".join(seen) if whole is None else whole, complete=whole is not None)


def spelled(command: Generate, info: ModelInfo) -> str:
    """The prompt as one text. Of one that came as tokens, which have no text here, their ids."""
    if command.tokens is not None:
        return f"tokens {list(command.tokens)}"
    text = "".join(map(_text, command.segments))
    begun = not info.adds_bos or text.startswith(info.bos_text)
    return text if begun else info.bos_text + text


def _text(segment: Segment) -> str:
    return segment.text if segment.media is None else f"[{len(segment.media)} bytes of media]"
