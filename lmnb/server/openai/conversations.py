"""/v1/conversations: items that responses continue, and that clients may add and take away."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from lmnb.errors import NotFound
from lmnb.server.attached import attach
from lmnb.server.conversations import Conversation, Item
from lmnb.server.openai import body as bodies
from lmnb.server.openai import ids
from lmnb.server.openai.body import Fields
from lmnb.server.openai.errors import ConversationNotFound, InvalidValue, ItemNotFound
from lmnb.server.openai.paging import items_list, items_page
from lmnb.server.openai.responses_input import listed
from lmnb.server.openai.responses_items import resolve, translate
from lmnb.server.openai.responses_past import find_item
from lmnb.server.openai.values import array
from lmnb.server.reply import reply
from lmnb.server.state import State, state_of


class NewConversation(Fields):
    """POST /v1/conversations."""

    items: Any = None
    metadata: dict[str, str] = Field(default_factory=dict)


class NewItems(Fields):
    """POST /v1/conversations/{id}/items."""

    items: Any


async def create(request: Request) -> Response:
    """POST /v1/conversations: with items, or empty."""
    body = await bodies.read(request, NewConversation)
    state = state_of(request)
    id_ = ids.conversation()
    await state.conversations.create(id_, await _items(state, body.items), body.metadata)
    return reply(_shown(await state.conversations.load(id_)))


async def retrieve(request: Request) -> Response:
    """GET /v1/conversations/{id}."""
    state, id_ = _where(request)
    return reply(await _load(state, id_))


async def update(request: Request) -> Response:
    """POST /v1/conversations/{id}: other metadata, none if it is null."""
    body = await bodies.read(request, NewConversation)
    state, id_ = _where(request)
    try:
        return reply(_shown(await state.conversations.update(id_, body.metadata)))
    except NotFound:
        raise _not_found(id_) from None


async def delete(request: Request) -> Response:
    """DELETE /v1/conversations/{id}. Responses that were made with it stay."""
    state, id_ = _where(request)
    try:
        await state.conversations.delete(id_)
    except NotFound:
        raise _not_found(id_) from None
    return reply({"id": id_, "object": "conversation.deleted", "deleted": True})


async def add_items(request: Request) -> Response:
    """POST /v1/conversations/{id}/items: more of them at the end."""
    body = await bodies.read(request, NewItems)
    state, id_ = _where(request)
    items = await _items(state, body.items)
    if not items:
        raise InvalidValue("'items' is empty; at least one item is needed.", param="items")
    try:
        return reply(items_list(await state.conversations.add(id_, items)))
    except NotFound:
        raise _not_found(id_) from None


async def list_items(request: Request) -> Response:
    """GET /v1/conversations/{id}/items: a page of them, newest first unless asked otherwise."""
    state, id_ = _where(request)
    try:
        items = (await state.conversations.contents(id_)).items
        return reply(items_page(items, request.query_params))
    except NotFound:
        raise _not_found(id_) from None


async def retrieve_item(request: Request) -> Response:
    """GET /v1/conversations/{id}/items/{item}."""
    state, id_ = _where(request)
    await _load(state, id_)
    item = request.path_params["item"]
    try:
        return reply(await state.conversations.item(item, id_))
    except NotFound:
        raise _no_item(item) from None


async def delete_item(request: Request) -> Response:
    """DELETE /v1/conversations/{id}/items/{item}; the answer is the conversation."""
    state, id_ = _where(request)
    conversation = await _load(state, id_)
    item = request.path_params["item"]
    try:
        await state.conversations.delete_item(id_, item)
    except NotFound:
        raise _no_item(item) from None
    return reply(conversation)


async def _items(state: State, given: Any) -> list[Item]:
    """Items in the form in which they are stored; those that are wrong are refused now."""
    items = await resolve(array(given, "items"), find_item(state), "items")
    translate(await attach(items, state.files), "items")
    return listed(items)


async def _load(state: State, id_: str) -> dict[str, Any]:
    try:
        return _shown(await state.conversations.load(id_))
    except NotFound:
        raise _not_found(id_) from None


def _shown(found: Conversation) -> dict[str, Any]:
    return {
        "id": found.id,
        "object": "conversation",
        "created_at": found.created_at,
        "metadata": found.metadata,
    }


def _where(request: Request) -> tuple[State, str]:
    return state_of(request), request.path_params["id"]


def _not_found(id_: str) -> ConversationNotFound:
    return ConversationNotFound(f"Conversation with id '{id_}' not found.", param="id")


def _no_item(id_: str) -> ItemNotFound:
    return ItemNotFound(f"Item with id '{id_}' not found in this conversation.", param="item")
