"""Stores a chat when its answer is complete."""

from __future__ import annotations

import secrets

from lmnb.chat.conversation import Message
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

    async def keep(self, answer: tuple[Message, ...]) -> str | None:
        """Store the chat with all messages of its answer; its id, or None.

        It is on disk when this returns.
        """
        if not self._active:
            return None
        identifier = f"resp_{secrets.token_hex(24)}"
        messages = (*self._messages, *answer)
        await self._store.save(
            NewResponse(id=identifier, messages=messages, previous=self._previous)
        )
        return identifier
