"""What a response continues or refers to: stored responses, conversations, items."""

from __future__ import annotations

from dataclasses import dataclass

from lmnb.chat.conversation import Message
from lmnb.errors import NotFound
from lmnb.server.attached import attach
from lmnb.server.conversations import Item
from lmnb.server.openai.errors import ConversationNotFound, PreviousResponseNotFound
from lmnb.server.openai.responses_items import Find
from lmnb.server.openai.responses_items import translate as translate_items
from lmnb.server.openai.responses_mcp_past import NOTHING, McpPast, answers_requests, mcp_items
from lmnb.server.openai.responses_request import ResponsesBody
from lmnb.server.state import State


@dataclass(frozen=True, kw_only=True)
class Past:
    """What a response continues; `stored` is the stored response with exactly these messages.

    `mcp` is found only if the response has to do with it.
    """

    messages: tuple[Message, ...] = ()
    stored: str | None = None
    mcp: McpPast = NOTHING


class Recent:
    """Conversations of a connection's latest responses, which may not be stored anywhere else."""

    KEPT = 32

    def __init__(self) -> None:
        self._conversations: dict[str, Past] = {}

    def add(self, id_: str, conversation: Past) -> None:
        """Remember the conversation that ends with the response of that id."""
        self._conversations[id_] = conversation
        while len(self._conversations) > self.KEPT:
            del self._conversations[next(iter(self._conversations))]

    def find(self, id_: str) -> Past | None:
        """The conversation, if it is remembered."""
        return self._conversations.get(id_)


def find_item(state: State) -> Find:
    """Finds stored items, of responses or conversations."""

    async def find(id_: str) -> Item:
        try:
            return await state.responses.item(id_)
        except NotFound:
            return await state.conversations.item(id_)

    return find


async def past_of(state: State, body: ResponsesBody, recent: Recent | None = None) -> Past:
    """What `body` continues.

    Raises
    ------
    PreviousResponseNotFound, ConversationNotFound
        It is not stored.
    NotFound, PayloadTooLarge
        A file that the conversation refers to was deleted, or all of them are too large.
    """
    if (previous := body.previous_response_id) is not None:
        if recent is not None and (known := recent.find(previous)) is not None:
            return known
        try:
            return await _stored(state, previous, with_mcp=_needs_mcp(body))
        except NotFound:
            raise PreviousResponseNotFound(
                f"Previous response with id '{previous}' not found.",
                hint="It is still being made in the background."
                if state.background.find(previous)
                else None,
                param="previous_response_id",
            ) from None
    if body.conversation is None:
        return Past()
    try:
        contents = await state.conversations.contents(body.conversation)
    except NotFound as error:
        raise ConversationNotFound(error.message, param="conversation") from None
    items = await attach(contents.items, state.files)
    return Past(
        messages=translate_items(items, "conversation"),
        stored=contents.latest,
        mcp=McpPast(mcp_items(contents.items)),
    )


async def _stored(state: State, id_: str, *, with_mcp: bool) -> Past:
    found = await state.responses.load(id_)
    mcp = NOTHING
    if with_mcp:
        items = [*await state.responses.input(id_), *(found.body or {}).get("output", ())]
        mcp = McpPast(mcp_items(items))
    return Past(messages=found.messages, stored=id_, mcp=mcp)


def _needs_mcp(body: ResponsesBody) -> bool:
    return bool(body.given_tools.servers) or answers_requests(body.input)
