"""The memory of the machine, as far as its container lets us have it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")
_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, use, and what of it can be dropped: of control groups of version 2 and 1."""


def free_memory() -> int:
    """Bytes of host memory that can be had without swapping, by the machine and its container."""
    free: int = psutil.virtual_memory().available
    for most, taken in _limits():
        free = min(free, most - taken)
    return max(0, free)


def total_memory() -> int:
    """Bytes of host memory, of the machine or of its container."""
    total: int = psutil.virtual_memory().total
    return min([total, *(most for most, _ in _limits())])


def _limits() -> Iterator[tuple[int, int]]:
    """What the container may have and what it needs of that."""
    for limit, used, stat in _GROUPS:
        try:
            most = int((_ROOT / limit).read_text())
            taken = int((_ROOT / used).read_text())
            pages = ((_ROOT / limit).parent / "memory.stat").read_text()
        except (OSError, ValueError):  # another version, another system, or no limit ("max")
            continue
        found = re.search(rf"^{stat} (\d+)$", pages, re.MULTILINE)
        yield most, taken - (int(found[1]) if found else 0)
