"""The log of requests: what a line of it says, and reading it, with or without a server.

`$LMNB_HOME/log/requests.jsonl`, one JSON object a request, written when the request has ended; older
parts lie next to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from lmnb.errors import InvalidRequest
from lmnb.runtime import log_path

OLD_FILES = 3
"""Older parts that are kept."""

_CLASSES = ("2xx", "3xx", "4xx", "5xx")


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """What a model was given or has said, word for word, control tokens spelled out.

    complete
        False for an answer that was stopped. Control tokens are left out of it then.
    """

    type: Literal["input", "output"]
    text: str
    complete: bool = True


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A request. What is not known, or not in question, is left out of its line.

    id
        Also in the headers `x-request-id` and `request-id` of the answer, and in reports of crashes.
    time
        When it came, RFC 3339 in UTC.
    token
        Id of the API token it came with, never the token itself.
    route
        Its path with names in the places of ids: `/v1/models/{model_id}`.
    protocol
        `openai`, `anthropic` or `lmstudio`.
    model
        The instance that answered, or the name that was asked for if none did.
    status
        Of HTTP; None if the client left before. 101 is an open WebSocket; answers in it, and those
        that were made after their request had ended, have lines of their own without a status.
    prompt_tokens, cached_tokens, completion_tokens
        Of all that was generated, embedded or ranked for it. Cached ones are among the prompt's.
    time_to_first_token, duration
        Seconds since it came, loading included.
    finish_reason
        As `lmnb.chat.events.FinishReason`, or `cancelled`.
    error
        Code of what went wrong.
    words
        In the file only with the setting `log_prompts`.
    """

    id: str
    time: str
    method: str
    route: str
    protocol: str
    token: str | None = None
    model: str | None = None
    status: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    time_to_first_token: float | None = None
    duration: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    words: list[Words] = []


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests are wanted; None is any.

    model
        A part of the model's name.
    status
        Such as `404`, `5xx`, or `error` for whatever failed, also in mid-answer.
    route
        The beginning of the route.
    """

    model: str | None = None
    status: str | None = None
    route: str | None = None

    def check(self) -> None:
        """Raise `InvalidRequest` if no status is like that."""
        known = self.status in {None, "error", *_CLASSES}
        if not known and not (self.status or "").isdecimal():
            raise InvalidRequest(
                f"{self.status!r} is no status.",
                hint=f"Such as 404, {', '.join(_CLASSES)}, or error.",
                param="status",
            )

    def matches(self, record: Record) -> bool:
        """Whether it is one of them."""
        return self.may_match(record) and self._has_status(record)

    def may_match(self, record: Record) -> bool:
        """Whether it is one of them as far as is known before it has ended."""
        named = self.model is None or self.model.lower() in (record.model or "").lower()
        return named and record.route.startswith(self.route or "")

    def _has_status(self, record: Record) -> bool:
        if self.status is None:
            return True
        if self.status == "error":
            return record.error is not None or (record.status or 0) >= 400
        status = str(record.status or "")
        return status == self.status or (
            self.status in _CLASSES and len(status) == 3 and status[0] == self.status[0]
        )


def journal_path(home: Path) -> Path:
    """The newest part of it."""
    return log_path(home).with_name("requests.jsonl")


def last(home: Path, count: int, wanted: Filter) -> list[Record]:
    """The last `count` requests that are wanted, oldest first. Blocks (disk)."""
    found: list[Record] = []
    lines = _newest_first(home) if count > 0 else iter(())
    for line in lines:
        try:
            record = msgspec.json.decode(line, type=Record)
        except msgspec.DecodeError:
            continue  # half a line, of a server that was killed
        if wanted.matches(record):
            found.append(record)
            if len(found) == count:
                break
    return found[::-1]


def _newest_first(home: Path) -> Iterator[bytes]:
    path = journal_path(home)
    parts = (path, *(path.with_name(f"{path.name}.{n}") for n in range(1, OLD_FILES + 1)))
    for part in parts:
        try:
            lines = part.read_bytes().splitlines()
        except FileNotFoundError:
            continue
        yield from reversed(lines)
