"""JSON schemas that pydantic makes of types, and its errors, as the magics and tables need them."""

from __future__ import annotations

from typing import Any


def closed(schema: Any) -> Any:
    """Objects have the properties that they name: others only lead a small model astray."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), dict) and "type" in found:
        found.setdefault("additionalProperties", False)
    return found


def told(error: ValueError) -> str:
    """What does not fit, and where: the first of pydantic's errors, or the error of `json`."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
