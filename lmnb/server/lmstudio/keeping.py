"""Stores a chat when its answer is complete."""

from __future__ import annotations

import secrets

from lmnb.chat.conversation import Message, Part, Text, Thinking
from lmnb.server.generation import Answer
from lmnb.server.store import NewResponse, ResponseStore


class Keeper:
    """Knows a chat up to its answer, and stores it with that.

    `active` off: nothing is stored.
    """

    def __init__(
        self,
        store: ResponseStore,
        messages: tuple[Message, ...],
        *,
        previous: str | None,
        active: bool,
    ) -> None:
        self._store = store
        self._messages = messages
        self._previous = previous
        self._active = active

    async def keep(self, answer: Answer) -> str | None:
        """Store the chat; its id, or None. It is on disk when this returns."""
        if not self._active:
            return None
        identifier = f"resp_{secrets.token_hex(24)}"
        said: list[Part] = [Thinking(answer.thinking)] if answer.thinking else []
        said.append(Text(answer.text))
        messages = (*self._messages, Message("assistant", tuple(said)))
        await self._store.save(
            NewResponse(id=identifier, messages=messages, previous=self._previous)
        )
        return identifier
