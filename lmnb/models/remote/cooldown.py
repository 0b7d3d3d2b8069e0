"""Leaving out an endpoint that fails: a circuit breaker whose pauses grow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeAlias

FIRST = 2.0
"""Seconds an endpoint is left out after its first failure; each further one in a row doubles them."""
LONGEST = 300.0

Circuit: TypeAlias = Literal["closed", "open", "half-open"]
"""`closed`: it is used. `open`: it is left out. `half-open`: one request tries it."""


class Cooldown:
    """The circuit breaker of one endpoint.

    A failure opens it. When the pause is over the endpoint is probed (`lmnb.models.remote.link`), and
    if it answers, one request may try it: its success closes the circuit, its failure opens it again.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: float | None = None
        self._answers = False
        self._tried = False
        self.failures = 0
        self.cause: str | None = None

    @property
    def circuit(self) -> Circuit:
        """How the endpoint is to be treated."""
        if self._until is None:
            return "closed"
        return "half-open" if self._answers else "open"

    @property
    def seconds_left(self) -> float:
        """Until it is probed."""
        return 0.0 if self._until is None else max(0.0, self._until - self._now())

    @property
    def wants_probe(self) -> bool:
        """Whether the pause is over, and nobody has seen yet whether the endpoint answers."""
        return self.circuit == "open" and not self.seconds_left

    @property
    def is_usable(self) -> bool:
        """Whether a request may go there now."""
        return self.circuit == "closed" or (self.circuit == "half-open" and not self._tried)

    def answered(self) -> None:
        """The probe was answered."""
        if self._until is not None and not self.seconds_left:
            self._answers = True

    def begin(self) -> None:
        """A request goes there. Of an endpoint that is tried out it is the only one."""
        self._tried = self.circuit == "half-open"

    def give_up(self) -> None:
        """A request has ended and shown nothing: its client has left."""
        self._tried = False

    def succeed(self) -> None:
        """A request was answered."""
        self._until, self.cause, self.failures = None, None, 0
        self._answers = self._tried = False

    def fail(self, cause: str, pause: float | None = None) -> None:
        """A request, or a probe, has failed. `pause`: the seconds that the endpoint asks for."""
        grown = min(FIRST * 2**self.failures, LONGEST)
        pause = grown if pause is None else min(max(pause, FIRST), LONGEST)
        # Requests that went out together fail together: that is one failure, not many.
        if self.circuit != "open" or self.wants_probe:
            self.failures += 1
            self._until = self._now() + pause
        self.cause = cause
        self._answers = self._tried = False
