"""The uploaded file of a batch: a request a line, checked before any of them is run.

Codes and params are those that OpenAI's own checks give; a file with one bad line is not run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lmnb.server.batches.batch import MAX_LINES, Checked, Line, LineError
from lmnb.server.body import MAX_BODY
from lmnb.server.files import Draft
from lmnb.server.openai.values import json_type

_MOST_ERRORS = 100
"""That are listed: what is wrong with one line is often wrong with all."""
_MOST_ID = 512
"""Characters of a `custom_id`."""
_NEEDED = {
    "/v1/chat/completions": ("model", "messages"),
    "/v1/completions": ("model", "prompt"),
    "/v1/embeddings": ("model", "input"),
    "/v1/responses": ("model",),
    "/v1/rerank": ("model", "query", "documents"),
}
"""What the body of a request must have at least."""


class _Body(msgspec.Struct, frozen=True):
    """A line's body as it is written."""

    body: msgspec.Raw


class Bad(Exception):
    """A line cannot be run."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


@dataclass
class BatchInput:
    """What is in an uploaded file.

    models
        The models that are named, each with the lines that do.
    """

    lines: list[Line] = field(default_factory=list)
    errors: list[LineError] = field(default_factory=list)
    models: dict[str, list[int]] = field(default_factory=dict)

    @property
    def is_refused(self) -> bool:
        """Whether so much is wrong that more would not be noted."""
        return len(self.errors) >= _MOST_ERRORS

    def refuse(self, error: LineError) -> None:
        """Note what is wrong, unless enough has been noted."""
        if not self.is_refused:
            self.errors.append(error)

    def checked(self) -> Checked:
        """The outcome."""
        if self.errors:
            return Checked(errors=tuple(sorted(self.errors, key=lambda one: one.line or 0)))
        return Checked(lines=tuple(self.lines), model=next(iter(self.models), None))


def read_input(path: Path, endpoint: str, requests: Draft) -> BatchInput:
    """Check the file at `path`, and write the bodies of its requests to `requests`. Blocks (disk)."""
    found = BatchInput()
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        number = 0
        while text := file.readline(MAX_BODY + 1):
            number += 1
            if len(seen) >= MAX_LINES:
                message = f"A batch has at most {MAX_LINES} requests."
                found.refuse(LineError(code="too_many_requests", message=message))
                break
            try:
                if text.strip():
                    _read_line(text, number, endpoint, seen, found, requests)
            except Bad as error:
                found.refuse(
                    LineError(code=error.code, message=str(error), param=error.param, line=number)
                )
            if len(text) > MAX_BODY:  # what follows is the rest of this line
                break
    if not seen and not found.errors:
        message = "The batch's file is empty: it must contain at least one request."
        found.refuse(LineError(code="empty_file", message=message))
    return found


def _read_line(
    text: bytes,
    number: int,
    endpoint: str,
    seen: dict[str, int],
    found: BatchInput,
    requests: Draft,
) -> None:
    data = _decode(text)
    custom_id = _custom_id(data)
    if custom_id in seen:
        raise Bad(
            "duplicate_custom_id",
            f"The custom_id '{custom_id}' is a duplicate of that of line {seen[custom_id]}. "
            "It must be unique for each request in a batch.",
            "custom_id",
        )
    seen[custom_id] = number
    if _string(data, "method") != "POST":
        raise Bad(
            "invalid_method",
            f"Invalid value: '{data['method']}'. Supported values are: 'POST'.",
            "method",
        )
    if _string(data, "url") != endpoint:
        raise Bad(
            "invalid_url",
            "The URL provided for this request does not match the batch's endpoint, "
            f"which is {endpoint}.",
            "url",
        )
    model = _check_body(data.get("body"), endpoint)
    found.models.setdefault(model, []).append(number)
    body = bytes(msgspec.json.decode(text, type=_Body).body)
    found.lines.append(Line(number, custom_id, requests.size, len(body)))
    if not found.errors:
        requests.write(body)


def _decode(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_BODY:
        raise Bad("invalid_json_line", f"This line has more than {MAX_BODY >> 20} MiB.")
    try:
        data = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Bad("invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not isinstance(data, dict):
        raise Bad("invalid_json_line", f"This line is not a JSON object, but {json_type(data)}.")
    return data


def _custom_id(data: dict[str, Any]) -> str:
    custom_id = _string(data, "custom_id")
    if not 1 <= len(custom_id) <= _MOST_ID:
        raise Bad(
            "invalid_value", f"'custom_id' must have 1 to {_MOST_ID} characters.", "custom_id"
        )
    return custom_id


def _string(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if value is None:
        raise Bad("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    if not isinstance(value, str):
        raise Bad(
            "invalid_type",
            f"Invalid type for '{name}': expected a string, got {json_type(value)}.",
            name,
        )
    return value


def _check_body(body: Any, endpoint: str) -> str:
    """The model that a body names, which has what it needs; the rest its endpoint will check."""
    if body is None:
        raise Bad("missing_required_parameter", "Missing required parameter: 'body'.", "body")
    if not isinstance(body, dict):
        raise Bad(
            "invalid_type",
            f"Invalid type for 'body': expected an object, got {json_type(body)}.",
            "body",
        )
    for name in ("stream", "background"):
        if body.get(name):
            raise Bad(
                "streaming_unsupported" if name == "stream" else "invalid_request",
                f"'{name}' is not supported in a batch: all its requests are answered whole, "
                "and in the background.",
                f"body.{name}",
            )
    for name in _NEEDED[endpoint]:
        if body.get(name) is None:
            raise Bad("invalid_request", f"{name.title()} parameter is required.", f"body.{name}")
    model = body["model"]
    if not isinstance(model, str) or not model.strip():
        raise Bad("invalid_request", "Model parameter must be a name.", "body.model")
    return model
