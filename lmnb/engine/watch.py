"""Notices a forward pass that does not end.

How long a pass may take depends on how long passes of its size took before: `FACTOR` times that,
and never less than `FLOOR`. Before anything was measured it is `UNKNOWN`, since a first pass may
read the weights off a slow disk, or compile kernels for a GPU.

What counts is not the clock but the time that the watching thread itself has lived through, a
second or two a tick. A process that was stopped, a machine that slept and a container that was
frozen all look like one short tick, so that nothing healthy is ended for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lmnb.engine.recorder import Recorder
from lmnb.errors import EngineStuck

TICK = 1.0
"""Seconds between two looks."""
FLOOR = 60.0
"""Seconds that any pass may take."""
FACTOR = 20.0
"""How many times as long as expected a pass may take."""
UNKNOWN = 1800.0
"""Seconds that a pass may take with nothing to compare it with, and any work between passes."""
GRACE = 15.0
"""Seconds between the abort flag and the end of the process."""
_FADE = 0.9

Verdict: TypeAlias = Literal["fine", "abort", "kill"]


@dataclass(eq=False)
class _Work:
    """Something the engine does: a forward pass over `tokens`, or anything else (0)."""

    tokens: int
    limit: float
    expected: float | None = None
    spent: float = 0.0
    given_up: bool = False
    typical: bool = True


class Watch:
    """The engine's thread says what it does; another thread calls `tick` and acts on the verdict."""

    def __init__(
        self, recorder: Recorder | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._recorder = recorder
        self._now = now
        self._last = now()
        self._work: _Work | None = None
        self._costs: dict[int, tuple[int, float]] = {}  # bit length of the size → size, seconds

    # --- the engine's thread ---------------------------------------------------------

    def begin(self) -> None:
        """The engine does something."""
        self._work = _Work(0, UNKNOWN)

    def end(self) -> None:
        """The engine waits for work."""
        self._work = None

    @contextmanager
    def passing(self, tokens: int, ids: Collection[int]) -> Iterator[None]:
        """Encloses a forward pass over `tokens` of these requests, until its results are there."""
        expected = self.expected(tokens)
        limit = UNKNOWN if expected is None else max(FLOOR, FACTOR * expected)
        work = _Work(tokens, limit, expected)
        outer, self._work = self._work, work
        if self._recorder is not None:
            self._recorder.passing(ids)
        began = self._now()
        try:
            yield
        finally:
            if work.typical:
                self._observe(tokens, self._now() - began)
            self._work = outer
        # After an exception they stay: it may be the one that ends the process.
        if self._recorder is not None:
            self._recorder.passing(())

    def encoding(self, request: int) -> None:
        """The calling thread, another one, encodes an image of this request; 0: it is done."""
        if self._recorder is not None:
            self._recorder.encoding(request)

    def broken_off(self) -> EngineStuck | None:
        """The running pass was aborted or has failed, so it says nothing about how long one takes.

        The result is the error for its requests, if it was aborted for its length.
        """
        work = self._work
        if work is None:
            return None
        work.typical = False
        return _stuck(work) if work.given_up else None

    def expected(self, tokens: int) -> float | None:
        """Seconds that a pass of this size may well take; None without any experience.

        A size never seen takes as long as the slowest of the others, more in proportion if it is
        larger: too much rather than too little, both where reading the weights takes the time
        (one token as slow as many) and where computing does.
        """
        known = self._costs.get(tokens.bit_length())
        candidates = [known] if known else list(self._costs.values())
        return max(
            (seconds * max(1.0, tokens / size) for size, seconds in candidates), default=None
        )

    def _observe(self, tokens: int, seconds: float) -> None:
        place = max(1, tokens).bit_length()
        size, last = self._costs.get(place, (tokens, 0.0))
        self._costs[place] = (max(1, min(size, tokens)), max(seconds, _FADE * last))

    # --- the watching thread -----------------------------------------------------------

    def tick(self) -> Verdict:
        """Look at the clock, every `TICK` seconds."""
        now = self._now()
        lived = min(now - self._last, 2 * TICK)
        self._last = now
        work = self._work
        if work is None:
            return "fine"
        work.spent += lived
        if work.spent <= work.limit:
            return "fine"
        work.given_up = True
        return "abort" if work.spent <= work.limit + GRACE else "kill"

    def last_words(self) -> EngineStuck:
        """What to say before the process is ended."""
        return _stuck(self._work or _Work(0, UNKNOWN))


def _stuck(work: _Work) -> EngineStuck:
    what = f"A forward pass over {work.tokens} tokens" if work.tokens else "The engine's work"
    usual = "" if work.expected is None else f"; {work.expected:.1f} s were to be expected"
    return EngineStuck(
        f"{what} had not ended after {work.spent:.0f} s{usual}. It was given up.",
        hint="The device hangs, or the machine is short of memory and swaps; "
        "a smaller model or context_length needs less.",
    )
