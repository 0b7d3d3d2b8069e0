"""How much an answer that streams may send to the front end."""

from __future__ import annotations

from lmnb.notebook.output import Elapsed

ENVELOPE = 700
"""Bytes of a message of Jupyter's protocol besides what it says."""

_AT_ONCE = 30_000
_FOR_EACH = 3
_PER_SECOND = 5_000


class Pace:
    """Counts bytes, and says when there is room for more.

    A widget's value is sent as a whole, and each message of the protocol has hundreds of bytes of its
    own. So what may be sent is bounded by what is there to be shown, and by the time: an answer of
    40 kB takes less than 200 kB, and 5 kB a second more if it takes its time.
    """

    def __init__(self) -> None:
        self._elapsed = Elapsed()
        self.sent = 0

    def allows(self, cost: int, length: int) -> bool:
        """Whether so many bytes may be sent now that the answer has `length` bytes."""
        room = _AT_ONCE + _FOR_EACH * length + _PER_SECOND * self._elapsed()
        return self.sent + cost <= room

    def add(self, cost: int) -> None:
        """So many bytes were sent."""
        self.sent += cost
