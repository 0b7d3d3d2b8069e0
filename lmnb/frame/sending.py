"""Sending many requests to the server, which sets the pace, and reading the answers."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from lmnb.client import Client
from lmnb.errors import LmnbError

Json = dict[str, Any]

_SLICE = 2000
"""Requests that are sent at once; the slots run empty once per slice."""
_SLICE_CHARACTERS = 8_000_000

_ABOUT_ROWS = {"messages", "input", "query", "documents"}
_STOPPING = {
    "config_error",
    "forbidden",
    "invalid_api_key",
    "invalid_model",
    "model_keeps_crashing",
    "model_load_failed",
    "model_not_found",
    "not_supported",
}


class Answer(NamedTuple):
    """The answer to the request of this number: a body, or why there is none."""

    number: int
    body: Json
    error: str | None


def send(
    client: Client, path: str, bodies: Sequence[Json], *, alike: bool = True, **options: Any
) -> Generator[Answer, None, None]:
    """The answers to all requests, as they come. `options` are those of `Client.answers`.

    `alike`: they differ in their texts only, so that what one fails for otherwise all would fail for.

    Raises
    ------
    LmnbError
        The server is gone, or a request can not be answered for a reason that all of them share,
        such as a model that is not there.
    """
    for first, some in _slices(bodies):
        with closing(client.answers(path, some, **options)) as events:
            for event in events:
                yield read({**event, "number": first + event["number"]}, alike=alike)


def read(event: Json, *, alike: bool = True) -> Answer:
    """The answer that an event of `Client.answers` holds.

    Raises
    ------
    LmnbError
        With `alike`: all other requests would fail for the same reason.
    """
    number, body = event["number"], event["body"]
    return Answer(number, body, None if event["status"] == 200 else _reason(body, alike=alike))


def _slices(bodies: Sequence[Json]) -> Iterator[tuple[int, list[Json]]]:
    some: list[Json] = []
    first = size = 0
    for number, body in enumerate(bodies):
        length = _length(body)
        if some and (len(some) >= _SLICE or size + length > _SLICE_CHARACTERS):
            yield first, some
            first, some, size = number, [], 0
        some.append(body)
        size += length
    if some:
        yield first, some


def _length(body: Json) -> int:
    """About how many characters of texts a request has."""
    messages = body.get("messages", ())
    texts = [*body.get("input", ()), *body.get("documents", ())]
    return sum(map(len, texts)) + sum(len(one["content"]) for one in messages)


def _reason(body: Json, *, alike: bool) -> str:
    """Why one request failed.

    Raises
    ------
    LmnbError
        All others would fail for the same reason.
    """
    error = body.get("error") or {}
    code, message, param = (
        error.get("code"),
        error.get("message") or "unknown error",
        error.get("param"),
    )
    if code == "timeout":
        return "timeout"
    about_all = code in _STOPPING or (param and param.partition(".")[0] not in _ABOUT_ROWS)
    if alike and about_all:
        raise LmnbError.from_dict({"code": code or "", "message": message, "param": param})
    return str(message)
