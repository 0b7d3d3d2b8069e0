"""One generation on its way through the engine: its tokens, its sampler, its text."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Literal

import numpy as np

from lmnb.engine.protocol import Delta, End, Generate, Progress, TokenLogprob
from lmnb.engine.stream import TextStream

if TYPE_CHECKING:
    from lmnb.engine.cache import Tokens
    from lmnb.engine.sampling import Sampler

Reason = Literal["stop", "stop_string", "length", "context", "aborted"]


class Sequence:
    """State of one generation.

    `tokens` are prompt and answer so far; `computed` of them are in its slot of the KV cache, the
    first `cached` of which were there when it started. It reads its prompt while more than one
    token is missing in the cache, and gets its next token once just one is.
    """

    def __init__(self, command: Generate, prompt: Tokens, limit: int, sampler: Sampler) -> None:
        self.id = command.id
        self.command = command
        self.sampler = sampler
        self.prompt_length = len(prompt)
        self.limit = limit
        """Most tokens that prompt and answer may have together."""
        self.length = len(prompt)
        self._buffer = np.empty(min(limit, len(prompt) + 256), np.int32)
        self._buffer[: len(prompt)] = prompt
        self.stream = TextStream(command.stop)
        self.slot: int | None = None
        self.computed = 0
        self.cached = 0
        self.cancelled = False
        self.reason: Reason | None = None
        self.arrived = monotonic()
        self.admitted = 0.0
        self.prefilled = 0.0
        self.finished = 0.0
        self.reported = -1

    @property
    def tokens(self) -> Tokens:
        """Prompt and answer so far, (length,)."""
        return self._buffer[: self.length]

    @property
    def output_length(self) -> int:
        """Tokens generated so far."""
        return self.length - self.prompt_length

    @property
    def missing(self) -> int:
        """Tokens that must still go through the model before the next one can be sampled."""
        return self.length - self.computed

    def start(self, slot: int, reused: int) -> None:
        """Give it a slot of the cache, in which its first `reused` tokens are already."""
        self.slot = slot
        self.computed = self.cached = reused
        self.admitted = monotonic()

    def append(self, token: int) -> None:
        """Add a sampled token."""
        if self.length == len(self._buffer):
            grown = np.empty(min(self.limit, 2 * self.length), np.int32)
            grown[: self.length] = self._buffer
            self._buffer = grown
        self._buffer[self.length] = token
        self.length += 1

    def take(self, token: int, piece: bytes, *, ends: bool, logprob: TokenLogprob | None) -> None:
        """Take a sampled token: extend the text and see whether the answer ends with it."""
        if not self.prefilled:
            self.prefilled = monotonic()
        self.append(token)
        if ends:
            self.reason = "stop"
        elif self.stream.push(piece, logprob):
            self.reason = "stop_string"
        elif self.length >= self.limit:
            asked = self.command.max_tokens
            met = asked is not None and 0 <= asked <= self.output_length
            self.reason = "length" if met else "context"
        if self.reason not in {None, "stop_string"}:
            self.stream.finish()

    def delta(self) -> Delta | None:
        """What can be sent since the last call, if anything."""
        text, logprobs = self.stream.take()
        return Delta(self.id, text, logprobs) if text or logprobs else None

    def progress(self) -> Progress | None:
        """How far the prompt has been read, if that has changed since the last call."""
        done = min(self.computed, self.prompt_length)
        if done <= self.reported:
            return None
        self.reported = done
        return Progress(self.id, done, self.prompt_length, self.cached)

    def end(self) -> End:
        """The final report."""
        self.finished = monotonic()
        admitted = self.admitted or self.finished
        prefilled = self.prefilled or self.finished
        return End(
            id=self.id,
            reason=self.reason or "aborted",
            stop=self.stream.stop,
            prompt_tokens=self.prompt_length,
            cached_tokens=self.cached,
            output_tokens=self.output_length,
            queue_seconds=admitted - self.arrived,
            prompt_seconds=prefilled - admitted,
            first_token_seconds=prefilled - self.arrived,
            generation_seconds=self.finished - prefilled,
        )
