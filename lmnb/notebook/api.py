"""What every API looks like to a magic: a request in, parts of an answer out.

Each API has a module, imported when it is used, that imports the SDK. Its `connect` gets ready; its
`stream` is a generator that reads the SDK's own stream in the main thread, so that an interrupt
lands in it, and that closes the connection whenever it is left, which stops the generation.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from lmnb.errors import ContextOverflow, LmnbError, ServerError
from lmnb.notebook.reply import Usage
from lmnb.notebook.tokens import Token
from lmnb.notebook.turns import Call, Turn

if TYPE_CHECKING:
    from lmnb.client import Client
    from lmnb.notebook.tools import Tool


_TOO_LONG = re.compile(r"prompt (?:has|is too long:) (\d+) tokens\D+(\d+)")
"""How Anthropic's API, and ours, say that the context is too small."""


EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
"""How hard to think, in the words of both protocols together."""


class Request(NamedTuple):
    """What a cell asks. None is "not given": the server decides.

    `thinking` is whether to think, how hard (one of `EFFORTS`), or for how many tokens. `schema` is
    the JSON schema that the answer must follow. `logprobs` asks for those of the tokens, with so many
    alternatives to each.
    """

    model: str
    turns: Sequence[Turn]
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    thinking: bool | int | str | None = None
    schema: dict[str, Any] | None = None
    tools: Sequence[Tool] = ()
    logprobs: int | None = None

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the named fields that were given."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Text(NamedTuple):
    """More of the answer, with its tokens if those were asked for."""

    text: str
    tokens: Sequence[Token] = ()


class Thinking(NamedTuple):
    """More of what the model thinks before it answers."""

    text: str


class End(NamedTuple):
    """The answer has ended. `stop_reason` is the API's own word.

    `complete` is whether the model ended it, rather than a limit; only then it has `calls`.
    `signature` belongs to the thinking before them. `raw` is the SDK's object of the whole answer.
    """

    stop_reason: str
    usage: Usage | None
    complete: bool = True
    calls: Sequence[Call] = ()
    signature: str = ""
    raw: Any = None


Part: TypeAlias = Text | Thinking | End


class Api(Protocol):
    """A module of an API."""

    def connect(self, client: Client) -> Any:
        """The SDK's object that requests go through."""

    def stream(self, resource: Any, request: Request) -> Generator[Part, None, None]:
        """Send the request, and yield the answer as it comes."""


def failure(message: str, code: str | None = None) -> LmnbError:
    """The error that a response with this message and code stands for."""
    if match := _TOO_LONG.search(message):
        error: LmnbError = ContextOverflow(int(match[1]), int(match[2]))
        error.hint = (
            "Shorten it, start over with --new, or load the model with a larger --context-length."
        )
        return error
    return LmnbError.from_dict({"code": code or "", "message": message})


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
