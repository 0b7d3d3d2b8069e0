"""One generation on its way through the engine: its tokens, its sampler, its text."""

from __future__ import annotations

from bisect import insort
from time import monotonic
from typing import TYPE_CHECKING, Literal

import numpy as np

from lmnb.engine.adapters import PLAIN, AdapterSet
from lmnb.engine.options import TokenLogprob
from lmnb.engine.positions import positions
from lmnb.engine.protocol import Delta, End, Generate, Progress
from lmnb.engine.stream import TextStream

if TYPE_CHECKING:
    from lmnb.engine.cache import Mark
    from lmnb.engine.constraint import Constraint
    from lmnb.engine.draft import Assisted, Lookup
    from lmnb.engine.prefixes import Tokens
    from lmnb.engine.sampling import Sampler
    from lmnb.engine.vision import Span

SEND_INTERVAL = 0.025
"""Seconds between two pieces of an answer's text, at least: 40 a second look like all of them at once.
Each wakes the server and the client, which on a CPU takes time from the forward passes."""

Reason = Literal["stop", "stop_string", "length", "context", "aborted"]


class Sequence:
    """State of one generation.

    `tokens` are prompt and answer so far; `computed` of them are in its slot of the KV cache, the
    first `cached` of which were there when it started. It reads its prompt first, and answers from
    then on: what is missing in the cache is the last sampled token and what the grammar added to
    it. `drafts` are guesses about what comes after `tokens`; the forward pass computes them along,
    and `append` finds out which of them were right.
    """

    def __init__(
        self,
        command: Generate,
        prompt: Tokens,
        limit: int,
        sampler: Sampler,
        constraint: Constraint | None = None,
        adapters: AdapterSet = PLAIN,
        media: tuple[Span, ...] = (),
    ) -> None:
        self.id = command.id
        self.command = command
        self.sampler = sampler
        self.constraint = constraint
        self.adapters = adapters
        self.media = media
        self.prompt_length = len(prompt)
        self.limit = limit
        """Most tokens that prompt and answer may have together."""
        self.length = len(prompt)
        self._bytes, self._buffer = _buffer(min(limit, len(prompt) + 256))
        self._buffer[: len(prompt)] = prompt
        self.lookup: Lookup | None = None
        self.assisted: Assisted | None = None
        self.drafts: list[int] = []
        self.drafted = self.accepted = 0  # of all drafts so far
        self.stream = TextStream(command.stop)
        self.slot: int | None = None
        self.computed = 0
        self.seen = 0
        """Of the medium that comes after those computed, how many tokens are in its slot as well."""
        self.cached = 0
        self.scores: list[TokenLogprob] = []
        """Of the prompt's first tokens, if it is to be scored."""
        self.marks: list[Mark] = []
        """Where its memory is to be copied while its prompt is read, in order."""
        self._settled = len(prompt) - 1
        self.reason: Reason | None = None
        self.arrived = monotonic()
        self.admitted = 0.0
        self.prefilled = 0.0
        self.finished = 0.0
        self._sent = 0.0
        self.reported = -1

    @property
    def tokens(self) -> Tokens:
        """Prompt and answer so far, (length,)."""
        return self._buffer[: self.length]

    @property
    def keys(self) -> Tokens:
        """What `tokens` are called in the KV cache, (length,)."""
        return self.adapters.keys(self.tokens)

    @property
    def output(self) -> Tokens:
        """The answer so far, the token that ended it included, (output_length,)."""
        return self._buffer[self.prompt_length : self.length]

    @property
    def output_length(self) -> int:
        """Tokens generated so far."""
        return self.length - self.prompt_length

    @property
    def position(self) -> int:
        """Position in the model's context of the token after those computed."""
        return positions(self.tokens[: self.computed]) if self.media else self.computed

    @property
    def missing(self) -> int:
        """Tokens that must still go through the model before the next one can be sampled."""
        return self.length - self.computed

    @property
    def reading(self) -> bool:
        """Whether it reads what is long known: its prompt, or after a fault its answer again."""
        return self.computed < self._settled

    @property
    def readable(self) -> int:
        """Tokens that may be read in one pass: a mark is where the pass has to end, and a medium
        takes one of its own.
        """
        if self.medium_here is not None:
            return 0
        until = self.marks[0].length if self.marks else self.length
        media = (span.start for span in self.media if span.start > self.computed)
        return max(1, min(until, next(media, until)) - self.computed)

    @property
    def reusable(self) -> int:
        """Tokens it may take from the cache: what comes after those has to be scored."""
        return max(0, len(self.scores) - 1) if self.command.score_prompt else self.length

    def mark(self, mark: Mark) -> None:
        """Have its memory copied at one more place."""
        if mark not in self.marks:
            insort(self.marks, mark)

    @property
    def medium_here(self) -> Span | None:
        """The medium that is to be computed next, if it is not text."""
        if not self.media:
            return None
        return next((span for span in self.media if span.start == self.computed), None)

    @property
    def awaits_encoding(self) -> bool:
        """Whether nothing can be computed until a medium is encoded."""
        here = self.medium_here
        encoding = here.medium.encoding if here is not None else None
        return here is not None and (encoding is None or not encoding.done.is_set())

    def see(self, count: int) -> None:
        """So many more tokens of the medium here are computed."""
        here = self.medium_here
        assert here is not None
        self.seen += count
        if here.start + self.seen == here.end:
            self.computed, self.seen = here.end, 0

    def whole(self, length: int) -> int:
        """`length`, or where the medium begins that it would cut."""
        cut = (span.start for span in self.media if span.start < length < span.end)
        return next(cut, length)

    def start(self, slot: int, reused: int) -> None:
        """Give it a slot of the cache, in which its first `reused` tokens are already."""
        self.slot = slot
        self.computed = reused
        self.seen = 0
        if not self.admitted:
            self.cached = min(reused, self.prompt_length)
            self.admitted = monotonic()

    def suspend(self) -> None:
        """Go back to waiting: what it has computed is no longer in a slot."""
        self.slot = None
        self.computed = self.seen = 0
        self.drafts = []

    def propose(self, drafts: list[int]) -> None:
        """Have these guesses about the next tokens computed along in the next forward pass.

        There is no use in more than `limit - length - 1` of them.
        """
        self.drafts = drafts
        self.drafted += len(drafts)
        self._reserve(len(drafts))
        self._buffer[self.length : self.length + len(drafts)] = drafts

    def next_tokens(self, count: int) -> Tokens:
        """The tokens a forward pass computes: the next `count`, and after the last the drafts."""
        drafts = len(self.drafts) if count == self.missing else 0
        return self._buffer[self.computed : self.computed + count + drafts]

    def find_earlier(self, count: int, window: int) -> int:
        """The index after the last place where the last `count` tokens stood before; 0 if none.

        Looks at the last `window` tokens. A search for bytes, since that needs no index.
        """
        if self.length <= count:
            return 0
        first, last = 4 * max(0, self.length - window), 4 * (self.length - 1)
        wanted = self._bytes[4 * (self.length - count) : 4 * self.length]
        found = self._bytes.rfind(wanted, first, last)
        while found > 0 and found % 4:  # between two tokens
            found = self._bytes.rfind(wanted, first, found + len(wanted) - 1)
        return found // 4 + count if found >= 0 else 0

    def append(self, token: int) -> None:
        """Add a token to the answer. One that was drafted is in the cache already."""
        if self.drafts:
            if self.drafts[0] == token:
                del self.drafts[0]
                self.computed += 1
                self.accepted += 1
            else:
                self.drafts.clear()
        self._reserve(1)
        self._buffer[self.length] = token
        self.length += 1

    def _reserve(self, count: int) -> None:
        if self.length + count > len(self._buffer):
            size = max(self.length + count, min(self.limit, 2 * self.length))
            self._bytes, grown = _buffer(size)
            grown[: self.length] = self._buffer[: self.length]
            self._buffer = grown

    def begin_token(self) -> None:
        """The logits after all of `tokens` are there, and a token is about to be sampled."""
        if not self.prefilled:
            self.prefilled = monotonic()
        self._settled = self.length

    def take(self, token: int, piece: bytes, *, ends: bool, logprob: TokenLogprob | None) -> bool:
        """Take a token: extend the text. False if the answer ends with it."""
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
        return self.reason is None

    def finish(self, reason: Reason) -> None:
        """End the answer without a further token."""
        self.reason = reason
        self.stream.finish()

    def delta(self, *, patient: bool = False) -> Delta | None:
        """What is to be sent now, if anything.

        With patience only the first text and the last come at once, others after `SEND_INTERVAL`.
        """
        if not (self.prefilled or self.reason):
            return None  # tokens the grammar put before the first sampled one
        now = monotonic()
        if patient and not self.reason and now < self._sent + SEND_INTERVAL:
            return None
        text, logprobs, ends = self.stream.take()
        prompt = () if self._sent else tuple(self.scores)
        if not (text or ends or prompt):
            return None
        self._sent = now
        return Delta(self.id, text, logprobs, ends, prompt)

    def progress(self) -> Progress | None:
        """How far the prompt has been read, if that has changed since the last call."""
        done = min(self.computed, self.prompt_length)
        if done <= self.reported:
            return None
        self.reported = done
        return Progress(self.id, done, self.prompt_length, self.cached)

    def end(self, verbatim: str | None = None) -> End:
        """The final report, with the text of all tokens of the answer if it was asked for."""
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
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted,
            queue_seconds=admitted - self.arrived,
            prompt_seconds=prefilled - admitted,
            first_token_seconds=prefilled - self.arrived,
            generation_seconds=self.finished - prefilled,
            verbatim=verbatim,
        )


def _buffer(size: int) -> tuple[bytearray, Tokens]:
    """Memory for so many tokens, as bytes and as numbers."""
    data = bytearray(4 * size)
    return data, np.frombuffer(data, np.int32)
