"""Reading the server's log, with or without a server."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path


def tail(path: Path, lines: int) -> list[str]:
    """The last lines, oldest first; none if there is no log yet."""
    if lines <= 0:
        return []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=lines)]
    except FileNotFoundError:
        return []


def follow(
    path: Path, *, last: int = 0, interval: float = 0.2, until: Callable[[], bool]
) -> Iterator[str]:
    """The `last` lines, then lines as they are written, across rotations, until `until()` says so."""
    position, inode, rest = 0, None, ""
    old = True
    while not until():
        if path.exists():
            found = path.stat()
            if found.st_ino != inode or found.st_size < position:
                inode, position, rest = found.st_ino, 0, ""
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(position)
                rest += file.read()
                position = file.tell()
            *complete, rest = rest.split("\n")
            # One reading for what was there and what comes: a line in between would be lost.
            yield from complete[max(0, len(complete) - last) :] if old else complete
        old = False
        time.sleep(interval)
