"""JSON values that must be of some type; if not, an error that names the field."""

from __future__ import annotations

from typing import Any

from lmnb.server.openai.errors import InvalidType, MissingParameter


def json_type(value: Any) -> str:
    """What JSON calls the type of `value`, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list | tuple) else "an object"


def mapping(value: Any, where: str) -> dict[str, Any]:
    """`value` if it is an object."""
    if value is None:
        raise MissingParameter(f"Missing required parameter: '{where}'.", param=where)
    if isinstance(value, dict):
        return value
    raise InvalidType(
        f"Invalid type for '{where}': expected an object, got {json_type(value)}.", param=where
    )


def string(data: dict[str, Any], key: str, where: str) -> str:
    """The required string `data[key]`."""
    value = data.get(key)
    param = f"{where}.{key}"
    if value is None:
        raise MissingParameter(f"Missing required parameter: '{param}'.", param=param)
    if isinstance(value, str):
        return value
    raise InvalidType(
        f"Invalid type for '{param}': expected a string, got {json_type(value)}.", param=param
    )


def array(value: Any, where: str) -> list[Any]:
    """`value` if it is an array; nothing is the empty one."""
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise InvalidType(
        f"Invalid type for '{where}': expected an array, got {json_type(value)}.", param=where
    )
