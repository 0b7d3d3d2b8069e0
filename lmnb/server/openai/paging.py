"""Pages of OpenAI's lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.datastructures import QueryParams

from lmnb.server.errors import InvalidValue
from lmnb.server.paging import limit

_MOST_ITEMS = 100
_USUAL_ITEMS = 20


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page; the next one begins `after` its `last_id`."""

    object: str = "list"
    data: Sequence[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


def newest_first(query: QueryParams) -> bool:
    """The `order` of a query: `desc`, which is the default, or `asc`.

    Raises
    ------
    InvalidValue
        It is another word.
    """
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidValue(
            f"Invalid value: '{order}'. Supported values are: 'asc' and 'desc'.", param="order"
        )
    return order == "desc"


def items_page(items: list[dict[str, Any]], query: QueryParams) -> Page:
    """The page of `items` (oldest first) that a query asks for.

    Raises
    ------
    InvalidValue
        `limit` is not between 1 and 100, `order` is another word than "asc" and "desc", or
        `after` is no item's id.
    """
    items = list(reversed(items)) if newest_first(query) else items
    if (after := query.get("after")) is not None:
        items = items[_place(items, after) + 1 :]
    most = limit(query, most=_MOST_ITEMS) or _USUAL_ITEMS
    return items_list(items[:most], has_more=len(items) > most)


def items_list(items: list[dict[str, Any]], *, has_more: bool = False) -> Page:
    """These items as a page."""
    return Page(
        data=items,
        first_id=items[0]["id"] if items else None,
        last_id=items[-1]["id"] if items else None,
        has_more=has_more,
    )


def _place(items: list[dict[str, Any]], after: str) -> int:
    for i, item in enumerate(items):
        if item["id"] == after:
            return i
    raise InvalidValue(f"Invalid value for 'after': no item has the id '{after}'.", param="after")
