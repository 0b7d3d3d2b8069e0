"""Pages of OpenAI's lists."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.datastructures import QueryParams

from lmnb.server.errors import InvalidValue


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page; the next one begins `after` its `last_id`."""

    object: str = "list"
    data: Sequence[msgspec.Struct]
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
