"""How much of a prompt is read between two tokens of the answers that run beside it.

A token deep in a prompt takes longer than one at its beginning, since attention looks at all that
came before: on a CPU several times as long after some thousand tokens. So what a pass takes is
followed as `tokens * (base + slope * depth)`, and slices shrink as a prompt is read.

llama.cpp's flash attention for CPUs has two ways of going about it, by the tokens that a sequence has
in a pass: tiles of 64 (`GGML_FA_TILE_Q`) from so many on, and one by one below, which takes nearly
twice as long. At the beginning of a prompt, and in large models for long, that is little of the whole,
and a slice may be as small as the time demands. Deep in the prompt of a small model attention is most
of the work: smaller slices would double the prompt's time there, and each has 64 tokens at least.
"""

from __future__ import annotations

TILE = 64
"""Tokens of a sequence in a pass from which on flash attention computes them in tiles. Larger slices
are multiples of it, as equal shapes let llama.cpp use its graph again."""
STEP = 8
"""Smaller slices are multiples of this. In fewer tokens each would cost more, since a pass goes through
all weights; what a pass of fewer takes says little about others."""
_ONE_BY_ONE = 1.8
"""Times what flash attention takes in tiles (an EPYC with AVX-512: 1.7 to 1.9 after 2,000 and 7,000)."""
_MOST_LOSS = 1.25
"""Times as long as in tiles that a token may take for the sake of those who wait."""
_RATE = 0.3
"""How far a measurement moves the expectation."""
_THOUSAND = 1000.0
"""Depth is counted in thousands, so that base and slope are numbers of about the same size."""


class Slices:
    """What reading has taken so far, and how many tokens fit a time."""

    def __init__(self, *, flash: bool) -> None:
        self._one_by_one = _ONE_BY_ONE if flash else 1.0
        self._base = 0.0
        """Seconds per token at the beginning of a prompt."""
        self._slope = 0.0
        """Seconds more per token after each thousand, in tiles."""

    def observe(self, tokens: int, depth: float, seconds: float, *, tiled: bool) -> None:
        """Learn from a pass: its tokens, and how many came before one of them, in the mean."""
        if tokens < STEP:
            return
        measured = seconds / tokens
        if not self._base:
            self._base = measured
            return
        # Normalised least mean squares: the step that would explain the error, and a part of it.
        x = self._attention(depth, tiled=tiled)
        error = _RATE * (measured - self._seconds_per_token(depth, tiled=tiled)) / (1 + x * x)
        self._base = max(self._base / 2, self._base + error)
        self._slope = max(0.0, self._slope + error * x)

    def fit(self, most: int, depth: int, seconds: float) -> int:
        """How many of the next `most` tokens of a prompt, after `depth`, fit so many seconds.

        None if that would be too few to read them at a fair speed.
        """
        if not self._base:
            return most
        fitting = int(seconds / self._seconds_per_token(depth, tiled=True))
        if min(most, fitting) < TILE:
            if self.least(depth) == TILE <= most:
                return 0
            fitting = int(seconds / self._seconds_per_token(depth, tiled=False))
            fitting = min(fitting, TILE - 1)
        return max(0, min(most, fitting))

    def whole_steps(self, readable: int, room: int, depth: int, seconds: float) -> int:
        """What fits of the next `readable` tokens, at most `room`: all of them, or whole steps."""
        count = self.fit(min(readable, room), depth, seconds)
        if count < readable:
            count -= count % (TILE if count >= TILE else STEP)
        return count

    def least(self, depth: int) -> int:
        """The smallest slice in which tokens after `depth` are read at a fair speed."""
        tiled, small = (self._seconds_per_token(depth, tiled=tiled) for tiled in (True, False))
        return TILE if small > _MOST_LOSS * tiled else STEP

    def seconds(self, tokens: int, depth: int) -> float:
        """What a slice takes, as far as is known."""
        return tokens * self._seconds_per_token(depth, tiled=tokens >= TILE)

    def _seconds_per_token(self, depth: float, *, tiled: bool) -> float:
        return self._base + self._slope * self._attention(depth, tiled=tiled)

    def _attention(self, depth: float, *, tiled: bool) -> float:
        """Of a token; that of one after a thousand others, in tiles, is 1."""
        return depth / _THOUSAND * (1.0 if tiled else self._one_by_one)
