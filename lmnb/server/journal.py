"""The log of requests, as the server keeps it: written to a file, and told to those who follow.

A request is recorded by `Recorded`, which every way into the public app passes. What a model does for
it is noted on the way through `lmnb.server.generation`, found by the task's context.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmnb.chat.events import Event, Finished, Loading, Prompt
from lmnb.config import Settings
from lmnb.errors import Cancelled, LmnbError
from lmnb.journal import Filter, Record, Words
from lmnb.server.auth import TOKEN
from lmnb.server.errors import ERROR, REQUEST_ID, new_request_id, protocol_of
from lmnb.server.route import route_of
from lmnb.server.tokens import Token

LOGGER = logging.getLogger("lmnb.requests")
"""Each message is a line of the file; see `lmnb.server.log`."""

_MOST_WAITING = 1000
_MOST_CHARACTERS = 32_000_000
"""What may wait for a follower; then the oldest is left out."""
_LONGEST_IN_FILE = 1_000_000
"""Characters of a prompt or an answer; of longer ones the middle is left out of the file."""
_LONGEST_NAME = 200

News: TypeAlias = dict[str, Any]
"""What a follower is told: `type` is `ready`, `input`, `output`, `request` or `missed`."""


class Journal:
    """All requests of a server, each when it has ended."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._followers: set[_Follower] = set()

    @property
    def wants_words(self) -> bool:
        """Whether anybody wants to read what models are given and say."""
        return self._settings.log_prompts or any(one.words for one in self._followers)

    @contextmanager
    def generation(self, model: str | None) -> Iterator[Generation]:
        """Note what a model does for the request of this task.

        If that has ended already, or is a connection, this has a record of its own.
        """
        request = _current.get()
        alone = request is None or not request.open
        recording = _Recording.again(request) if alone or request is None else request
        generation = Generation(self, recording, model)
        try:
            yield generation
        except (GeneratorExit, asyncio.CancelledError, Cancelled):
            if not generation.is_over:
                recording.record.finish_reason = "cancelled"
            raise
        except LmnbError as error:
            recording.record.error = error.code
            raise
        finally:
            if alone:
                self.end(recording)

    def end(self, recording: _Recording) -> None:
        """Nothing is to be added to it; write it down."""
        recording.open = False
        record = recording.record
        record.duration = recording.seconds()
        for follower in self._followers:
            follower.ended(record)
        words = [_shortened(one) for one in record.words] if self._settings.log_prompts else []
        written = msgspec.structs.replace(record, words=words)
        LOGGER.info("%s", msgspec.json.encode(written).decode())

    def say(self, record: Record, words: Words) -> None:
        """A model was given this, or has said it."""
        record.words.append(words)
        for follower in self._followers:
            follower.said(record, words)

    async def follow(self, wanted: Filter, *, words: bool) -> AsyncGenerator[News, None]:
        """Requests from now on, and with `words` what models are given and say as it happens.

        `{"type": "ready"}` comes first: nothing is missed from then on. Whoever reads too slowly
        misses the oldest of it (`{"type": "missed", "count": n}`).
        """
        follower = _Follower(wanted, words=words)
        self._followers.add(follower)
        try:
            yield {"type": "ready"}
            while True:
                yield await follower.next()
        finally:
            self._followers.discard(follower)


class Generation:
    """What a model does for a request. A request may have several, also at once.

    is_over
        Its last event has come: whoever leaves now has it all.
    """

    def __init__(self, journal: Journal, recording: _Recording, model: str | None) -> None:
        self._journal = journal
        self._recording = recording
        self._record = recording.record
        self._record.model = model[:_LONGEST_NAME] if model else self._record.model
        self.witness = self if journal.wants_words else None
        self.is_over = False

    @property
    def id(self) -> str:
        """The request's."""
        return self._record.id

    def use(self, instance: str) -> None:
        """Name the instance that answers."""
        self._record.model = instance or self._record.model

    def saw(self, event: Event) -> None:
        """An event of the answer."""
        record = self._record
        begun = not isinstance(event, Loading | Prompt)
        if begun and record.time_to_first_token is None:
            record.time_to_first_token = self._recording.seconds()
        if isinstance(event, Finished):
            self.use(event.instance)
            self.read(event.usage.input)
            record.cached_tokens = (record.cached_tokens or 0) + event.usage.cached
            record.completion_tokens = (record.completion_tokens or 0) + event.usage.output
            record.finish_reason = event.reason
            self.is_over = True

    def read(self, tokens: int) -> None:
        """Count tokens that went into the model."""
        self._record.prompt_tokens = (self._record.prompt_tokens or 0) + tokens

    def given(self, prompt: str) -> None:
        """As of `lmnb.chat.verbatim.Witness`."""
        self._journal.say(self._record, Words(type="input", text=prompt))

    def said(self, text: str, *, complete: bool) -> None:
        """As of `lmnb.chat.verbatim.Witness`."""
        self._journal.say(self._record, Words(type="output", text=text, complete=complete))


class Recorded:
    """ASGI: writes down each request to an app, and what became of it."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self._app = app
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        recording = _Recording.of(scope)
        record = recording.record
        before = _current.set(recording)

        async def send_noted(message: Message) -> None:
            if message["type"].endswith("http.response.start"):
                record.status = message["status"]
            elif message["type"] == "websocket.accept":
                record.status = 101
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            _current.reset(before)
            recording.complete(scope)
            self._journal.end(recording)


class _Recording:
    """A record in the making. `open`: what is done for the request is part of it."""

    def __init__(self, record: Record, *, is_open: bool) -> None:
        self.record = record
        self.open = is_open
        self._begun = time.monotonic()

    @classmethod
    def of(cls, scope: Scope) -> _Recording:
        record = Record(
            id=scope.setdefault(REQUEST_ID, new_request_id()),
            time=_now(),
            method=scope.get("method", "WS"),
            route=scope["path"][:_LONGEST_NAME],
            protocol=protocol_of(scope),
        )
        return cls(record, is_open=scope["type"] == "http")

    @classmethod
    def again(cls, request: _Recording | None) -> _Recording:
        """Another record of the same request, or one of nobody's."""
        old = request.record if request else None
        record = Record(
            id=old.id if old else new_request_id(),
            time=_now(),
            method=old.method if old else "",
            route=old.route if old else "",
            protocol=old.protocol if old else "",
            token=old.token if old else None,
        )
        return cls(record, is_open=True)

    def seconds(self) -> float:
        """Since it came."""
        return round(time.monotonic() - self._begun, 4)

    def complete(self, scope: Scope) -> None:
        """Take over what became known of the request on its way."""
        token: Token | None = scope.get(TOKEN)
        record = self.record
        record.token = token.id if token else None
        record.route = route_of(scope) or record.route
        record.error = scope.get(ERROR, record.error)


class _Follower:
    """Somebody who reads along. What he has not read yet is bounded, so that nobody waits for him."""

    def __init__(self, wanted: Filter, *, words: bool) -> None:
        self.words = words
        self._wanted = wanted
        self._waiting: deque[tuple[int, News]] = deque()
        self._characters = 0
        self._missed = 0
        self._news = asyncio.Event()

    def said(self, record: Record, words: Words) -> None:
        # With a status to match, words can be told only when that is known.
        if self.words and self._wanted.status is None and self._wanted.may_match(record):
            self._put_words(record, words)

    def ended(self, record: Record) -> None:
        if not self._wanted.matches(record):
            return
        if self.words and self._wanted.status is not None:
            for words in record.words:
                self._put_words(record, words)
        data = msgspec.to_builtins(msgspec.structs.replace(record, words=[]))
        self._put({"type": "request", **data}, 0)

    async def next(self) -> News:
        while not (self._waiting or self._missed):
            self._news.clear()
            await self._news.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return {"type": "missed", "count": missed}
        size, news = self._waiting.popleft()
        self._characters -= size
        return news

    def _put_words(self, record: Record, words: Words) -> None:
        about = {"id": record.id, "model": record.model, "route": record.route}
        news = {"type": words.type, **about, "text": words.text, "complete": words.complete}
        self._put(news, len(words.text))

    def _put(self, news: News, size: int) -> None:
        self._waiting.append((size, news))
        self._characters += size
        while len(self._waiting) > _MOST_WAITING or self._characters > _MOST_CHARACTERS:
            dropped, _ = self._waiting.popleft()
            self._characters -= dropped
            self._missed += 1
        self._news.set()


_current: ContextVar[_Recording | None] = ContextVar("recording", default=None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shortened(words: Words) -> Words:
    text, half = words.text, _LONGEST_IN_FILE // 2
    if len(text) <= _LONGEST_IN_FILE:
        return words
    left_out = f"[{len(text) - 2 * half} characters left out]"
    return msgspec.structs.replace(words, text=f"{text[:half]}{left_out}{text[-half:]}")
