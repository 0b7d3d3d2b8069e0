"""What endpoints answer: within bounds, and refusals as errors in the caller's words."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import msgspec

from lmnb.errors import (
    ContextOverflow,
    EndpointBusy,
    EndpointFailed,
    EndpointLoop,
    InvalidRequest,
    LmnbError,
    ModelNotFound,
    NotSupported,
)

MOST_BYTES = 256 << 20
"""Of one answer that is no stream: 10,000 vectors of 4,096 numbers in base64 have 220 MB."""
_MOST_BYTES_OF_ERROR = 1 << 20
_LONGEST = 1000
"""Characters of somebody else's error message."""

_OVERFLOWS = (
    re.compile(r"prompt has (?P<prompt>\d+) tokens, but .*?context of (?P<context>\d+) tokens"),
    re.compile(r"request \((?P<prompt>\d+) tokens\) exceeds .*?context size \((?P<context>\d+)"),
    re.compile(
        r"maximum context length is (?P<context>\d+) tokens.*?"
        r"(?:requested|resulted in|contains at least) (?P<prompt>\d+)",
        re.DOTALL,
    ),
)
"""How lmnb, llama.cpp's server, and OpenAI and vLLM say that a prompt is too long."""


async def read(response: httpx2.Response, most: int = MOST_BYTES) -> bytes:
    """The body.

    Raises
    ------
    httpx2.ReadError
        It is longer than `most` bytes.
    """
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > most:
            raise httpx2.ReadError(f"it sent more than {most >> 20} MiB")
        pieces.append(piece)
    return b"".join(pieces)


async def refusal(name: str, response: httpx2.Response) -> LmnbError:
    """The error that the endpoint `name` answers with."""
    try:
        content = await read(response, _MOST_BYTES_OF_ERROR)
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, httpx2.ReadError):
        body = None
    wait = response.headers.get("retry-after", "")
    seconds = float(wait) if re.fullmatch(r"\d{1,6}(\.\d+)?", wait) else None
    return error_of(name, body, response.status_code, seconds)


def error_of(name: str, body: Any, status: int, retry_after: float | None = None) -> LmnbError:
    """The error that `body`, a JSON value, describes."""
    found = _details(body)
    message = _message(found, body) or f"status {status}"
    code, param = found.get("code"), found.get("param")
    param = param if isinstance(param, str) else None
    if status == 508 or code == EndpointLoop.code:
        return EndpointLoop(f"The endpoint {name} leads back to this server.", param="model")
    if status in {401, 403}:
        return EndpointFailed(
            f"The endpoint {name} does not let us in ({status}): {message}",
            hint=f"`lmnb connect URL --name {name} --key-env VARIABLE` gives it another key.",
        )
    if status in {429, 503}:
        error = EndpointBusy(f"The endpoint {name} is busy ({status}): {message}")
        error.retry_after = retry_after
        return error
    if status >= 500 or status in {408, 425} or status < 400:
        return EndpointFailed(f"The endpoint {name} failed ({status}): {message}")
    if code == "model_not_found" or (status == 404 and "model" in message.lower()):
        return ModelNotFound(f"The endpoint {name} does not find it: {message}", param="model")
    if status in {404, 405, 501}:
        return NotSupported(f"The endpoint {name} has no such route ({status}).", param="model")
    if overflow := _overflow(found, message):
        return overflow
    return InvalidRequest(f"The endpoint {name} refuses the request: {message}", param=param)


def _details(body: Any) -> dict[str, Any]:
    """OpenAI has an object `error`; some have its fields at the top."""
    if not isinstance(body, dict):
        return {}
    error = body.get("error")
    return error if isinstance(error, dict) else body


def _message(found: dict[str, Any], body: Any) -> str:
    for value in (found.get("message"), found.get("error"), found.get("detail")):
        if value:
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            return " ".join(text.split())[:_LONGEST]
    return " ".join(body.split())[:_LONGEST] if isinstance(body, str) else ""


def _overflow(found: dict[str, Any], message: str) -> ContextOverflow | None:
    prompt, context = found.get("n_prompt_tokens"), found.get("n_ctx")
    if isinstance(prompt, int) and isinstance(context, int):
        return ContextOverflow(prompt, context)
    for pattern in _OVERFLOWS:
        if match := pattern.search(message):
            return ContextOverflow(int(match["prompt"]), int(match["context"]))
    return None
