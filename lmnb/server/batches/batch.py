"""The values of batches, in no protocol's shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from lmnb.server.files import Draft, File

Status: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "cancelling", "completed", "failed", "cancelled"
]
OPEN: frozenset[Status] = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
"""Batches of such a status have something left to do."""

Drafts: TypeAlias = Callable[[], Draft]
"""Makes the drafts of new files."""

MAX_LINES = 100_000
"""Requests of a batch; what Anthropic allows."""


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch cannot be run. `line` counts from 1; None is the batch as a whole."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens of all answers: read, of these out of the cache; written, of these while thinking."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def plus(self, other: Usage) -> Usage:
        """The sum."""
        return Usage(
            self.input + other.input,
            self.cached + other.cached,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. Times in seconds since the epoch.

    protocol
        In whose shapes it was made and is answered.
    endpoint
        The path that all its requests are sent to.
    input_file
        The uploaded file that they came from, if they came from one.
    model
        The one that the first request names.
    total, succeeded, failed
        Requests: all, those answered with 200, those answered with an error.
    output_file, error_file
        Where the answers are, once the batch has ended (OpenAI's).
    output_expires
        Seconds after which these files expire; None is never.
    """

    id: str
    protocol: Literal["openai", "anthropic"]
    endpoint: str
    status: Status
    created_at: float = msgspec.field(default_factory=time.time)
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    cancelling_at: float | None = None
    ended_at: float | None = None
    input_file: str | None = None
    model: str | None = None
    metadata: dict[str, str] | None = None
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    usage: Usage = Usage()
    errors: tuple[LineError, ...] = ()
    output_file: str | None = None
    error_file: str | None = None
    output_expires: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether something is left to do."""
        return self.status in OPEN

    @property
    def left(self) -> int:
        """Requests without an answer."""
        return self.total - self.succeeded - self.failed

    def but(self, **changes: Any) -> Batch:
        """The same batch with other values in some fields."""
        return msgspec.structs.replace(self, **changes)


class Line(msgspec.Struct, frozen=True):
    """A request of a batch: the `size` bytes from `start` in the file of the batch's requests."""

    number: int
    custom_id: str
    start: int
    size: int


class Answer(msgspec.Struct, frozen=True):
    """What a request was answered with: HTTP status, request id, JSON."""

    status: int
    request_id: str
    body: bytes


class Result(msgspec.Struct, frozen=True):
    """A request that has come to its end. Without an answer it was cancelled before it had one."""

    custom_id: str
    answer: Answer | None


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What was made of the results: changes of the batch, and the files that have been written.

    `results` is a file of the batch's own, `files` are for everybody.
    """

    changes: dict[str, Any] = {}
    files: tuple[tuple[Draft, File], ...] = ()
    results: Draft | None = None


class Checked(msgspec.Struct, frozen=True):
    """What was found in an uploaded file: requests that can be run, or why they cannot."""

    lines: tuple[Line, ...] = ()
    errors: tuple[LineError, ...] = ()
    model: str | None = None


class Form(Protocol):
    """A protocol's way with batches."""

    async def check(self, batch: Batch, requests: Draft) -> Checked:
        """Read and check a batch's uploaded file; the bodies of its requests go to `requests`."""
        ...

    def write(self, batch: Batch, results: Iterator[Result], drafts: Drafts) -> Written:
        """Write down the results of a batch. Blocks (disk)."""
        ...
