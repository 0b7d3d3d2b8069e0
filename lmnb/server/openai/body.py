"""Request bodies: from bytes to a checked pydantic model, errors in the caller's terms.

The rules are those of the clients (protocols, 1.0): unknown fields are ignored,
null means "not given", wrong types are a 400 that names the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from starlette.requests import Request

from lmnb.errors import InvalidRequest
from lmnb.server.body import read_bytes
from lmnb.server.openai.errors import (
    InvalidJson,
    InvalidType,
    InvalidValue,
    MissingParameter,
)
from lmnb.server.openai.values import json_type


def _integral(value: Any) -> Any:
    """Let 5.0 pass for 5: some clients know one kind of number only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_integral)]


class Fields(BaseModel):
    """Base of all bodies: lenient about fields, strict about types."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


Body = TypeVar("Body", bound=Fields)


async def read(request: Request, model: type[Body]) -> Body:
    """Read and check the body of `request`.

    Raises
    ------
    PayloadTooLarge, InvalidJson
        The body is no JSON object, or too large.
    MissingParameter, InvalidType, InvalidValue
        A field is wrong; `param` says which.
    """
    return check(decode(await read_bytes(request)), model)


def decode(body: bytes) -> dict[str, Any]:
    """A JSON object. NaN, infinities and lone surrogates are not JSON."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The request body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise InvalidJson("The request body is nested too deeply.") from error
    if not isinstance(data, dict):
        raise InvalidJson(f"The request body must be a JSON object, not {json_type(data)}.")
    return data


def check(data: dict[str, Any], model: type[Body]) -> Body:
    """`data` as a `model`; the first thing wrong with it as an error."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    param = path(first["loc"])
    kind = first["type"]
    if kind == "missing":
        return MissingParameter(f"Missing required parameter: '{param}'.", param=param)
    wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if kind.endswith(("_type", "_parsing", "_from_float")):
        got = json_type(first["input"])
        return InvalidType(
            f"Invalid type for '{param}': expected {wanted}, got {got}.", param=param
        )
    return InvalidValue(f"Invalid value for '{param}': expected {wanted}.", param=param)


def path(location: Sequence[int | str]) -> str:
    """`("messages", 0, "content")` as `messages[0].content`."""
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text
