"""What a process gives up that reads what strangers have made: chat templates, documents.

Such a process holds nothing of value and may die; whoever started it starts another.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Let the kernel end this process if the block computes for longer than that."""
    if sys.platform == "win32":
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def confine(memory: int) -> None:
    """Give up files and processes, and all memory beyond `memory` more bytes than are in use now.

    Where the system offers no limits, nothing happens.
    """
    if sys.platform == "win32":
        return
    import resource

    limits = {
        resource.RLIMIT_AS: _address_space(memory) + memory,
        resource.RLIMIT_DATA: _address_space(memory) + memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for limit, value in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))
    with contextlib.suppress(OSError):
        os.chdir("/")


def _address_space(guess: int) -> int:
    """Bytes of address space in use; a generous guess where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return guess
    return pages * os.sysconf("SC_PAGE_SIZE")


def cause_of_death(status: int) -> str | None:
    """Why a confined process ended, by its exit status; None if somebody else ended it."""
    if status >= 0:
        return None
    if sys.platform != "win32" and -status == signal.SIGPROF:
        return "it takes too much computing"
    if -status == signal.SIGKILL:
        return None
    return f"it crashed its process ({signal.Signals(-status).name})"
