"""Whether a model is going to fit into this machine's memory, told by the size of its files.

After the download llama.cpp itself reckons what it takes (`lmnb.engine.estimate`); before, there is
nothing to ask but the size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Fit: TypeAlias = Literal["fits", "tight", "too large"]

CONTEXT_SHARE = 0.2
"""The assumption: for its cache and its forward passes a model takes this share of its weights, …"""
PROCESS_BYTES = 500_000_000
"""… and this much for the process and the vocabulary, whatever its size."""
_USABLE = 0.9
"""As in the estimate: memory is never planned to the last byte."""


class MachineMemory(NamedTuple):
    """In bytes, host and GPUs together: a model may be spread over both."""

    free: int
    total: int


def needed(weights: int) -> int:
    """About what a model takes when it is loaded, from the bytes of its files."""
    return int(weights * (1 + CONTEXT_SHARE)) + PROCESS_BYTES


def judge(weights: int, memory: MachineMemory) -> Fit:
    """`fits` now, `tight` (only if something else is ended or unloaded), or `too large`."""
    wanted = needed(weights)
    if wanted <= memory.free * _USABLE:
        return "fits"
    return "tight" if wanted <= memory.total * _USABLE else "too large"
