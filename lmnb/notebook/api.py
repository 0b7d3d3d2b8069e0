"""What every API looks like to a magic: a request in, parts of an answer out.

Each API has a module with one function `stream(client, request)`. It is a generator that reads
the SDK's own stream in the main thread, so that an interrupt lands in it, and that closes the
connection whenever it is left, which stops the generation in the server.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lmnb.errors import ContextOverflow, LmnbError, ServerError
from lmnb.notebook.reply import Turn, Usage

if TYPE_CHECKING:
    from lmnb.client import Client


class Request(NamedTuple):
    """What a cell asks. None is "not given": the server decides."""

    model: str
    turns: Sequence[Turn]
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the named fields that were given."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Text(NamedTuple):
    """More of the answer."""

    text: str


class Thinking(NamedTuple):
    """More of what the model thinks before it answers."""

    text: str


class End(NamedTuple):
    """The answer is complete. `stop_reason` is the API's own word."""

    stop_reason: str
    usage: Usage | None


Part: TypeAlias = Text | Thinking | End
Stream: TypeAlias = Callable[["Client", Request], Generator[Part, None, None]]


def failure(message: str, code: str | None = None) -> LmnbError:
    """The error that a response with this message and code stands for."""
    error = LmnbError.from_dict({"code": code or "", "message": _sentence(message)})
    if code == ContextOverflow.code or message.startswith("prompt is too long"):
        error = LmnbError.from_dict({"code": ContextOverflow.code, "message": error.message})
        error.hint = "Start over with --new, or load the model with a larger --context-length."
    return error


@contextmanager
def connection_errors() -> Iterator[None]:
    """Turn the failures of a connection into a `ServerError`."""
    import httpx2

    try:
        yield
    except httpx2.HTTPError as error:
        raise server_gone() from error


def server_gone() -> ServerError:
    """The server ended, or was killed, while it was needed."""
    return ServerError(
        "The lmnb server ended while it was answering.",
        hint="Run the cell again: the server starts by itself. %lm log shows what happened.",
    )


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:] if not message.startswith("prompt is") else message
