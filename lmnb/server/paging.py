"""What the lists of all protocols are asked for."""

from __future__ import annotations

from starlette.datastructures import QueryParams

from lmnb.server.errors import InvalidValue


def limit(query: QueryParams, *, most: int) -> int | None:
    """The `limit` of a query; None if it has none.

    Raises
    ------
    InvalidValue
        It is no number from 1 to `most`.
    """
    text = query.get("limit")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise InvalidValue(f"'limit' must be a number from 1 to {most}.", param="limit")
    return int(text)
