"""Thoughts in a form that clients carry and send back, but do not show.

It hides nothing from whoever wants to read it: what it is for is that a client without a place for
thoughts can still give them back to the model.
"""

from __future__ import annotations

import base64
import zlib

_SEAL = "lmnb1."
_LONGEST = 16 * 2**20
"""Bytes of thoughts that are unpacked at most."""


def seal(text: str) -> str:
    """Thoughts as a blob."""
    return _SEAL + base64.b64encode(zlib.compress(text.encode())).decode()


def unseal(blob: str) -> str | None:
    """The thoughts; None if the blob is not from here, or damaged."""
    if not blob.startswith(_SEAL):
        return None
    opener = zlib.decompressobj()
    try:
        text = opener.decompress(base64.b64decode(blob[len(_SEAL) :]), _LONGEST)
        return text.decode() if opener.eof else None
    except (ValueError, zlib.error):
        return None
