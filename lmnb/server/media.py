"""Images and sounds as requests bring them."""

from __future__ import annotations

import base64
import binascii
import re

from lmnb.errors import InvalidRequest, NotSupported

_DATA_URL = re.compile(r"data:(?P<type>[\w.+/-]*)(?P<options>(?:;[^;,]*)*),", re.ASCII)


def from_data_url(url: str, where: str) -> tuple[bytes, str]:
    """The bytes and the media type of a data URL. `where` names the field in errors.

    Raises
    ------
    NotSupported
        It is another address: this server fetches nothing, for nobody. Whoever may send requests
        could otherwise have it look around in the network it stands in.
    InvalidRequest
        The data URL is damaged.
    """
    match = _DATA_URL.match(url)
    if match is None:
        raise NotSupported(
            f"Only data URLs can be read in '{where}'; this server fetches nothing from addresses.",
            hint="Send the data itself: data:image/png;base64,…",
            param=where,
        )
    if ";base64" not in match["options"].lower():
        raise InvalidRequest(f"The data URL in '{where}' must be base64.", param=where)
    return from_base64(url[match.end() :], where), match["type"].lower()


def from_base64(text: str, where: str) -> bytes:
    """The bytes. White space in it is ignored, as some clients break lines."""
    try:
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"'{where}' is no base64.", param=where) from None
