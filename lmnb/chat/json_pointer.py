"""References inside a JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def referred(reference: str, root: Any) -> Any:
    """What a `$ref` leads to inside the schema `root`; None: nowhere, or out of it.

    It is a JSON pointer (RFC 6901) behind a `#`. What it leads to may be no schema.
    """
    if reference not in {"", "#"} and not reference.startswith("#/"):
        return None
    found = root
    for step in reference.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, list) and key.isdecimal() and int(key[:9]) < len(found):
            found = found[int(key[:9])]
        else:
            return None
    return found
