"""Bodies of LM Studio's API, with a word of help where another protocol's field is used."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import Request

from lmnb.server import body
from lmnb.server.errors import UnknownField

T = TypeVar("T")

_MEANT = {
    "messages": "input",
    "prompt": "input",
    "system": "system_prompt",
    "instructions": "system_prompt",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning",
    "stop_sequences": "stop",
    "tools": "integrations",
    "n_ctx": "context_length",
}


async def read(request: Request, kind: type[T]) -> T:
    """The body as a `kind`; errors as in `lmnb.server.body.read`."""
    try:
        return await body.read(request, kind)
    except UnknownField as error:
        meant = _MEANT.get(error.param or "")
        if meant in getattr(kind, "__struct_fields__", ()):
            error.hint = f"Here it is called '{meant}'."
        raise
