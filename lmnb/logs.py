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


def follow(path: Path, *, interval: float = 0.2, until: Callable[[], bool]) -> Iterator[str]:
    """Lines as they are written from now on, across rotations, until `until()` says so."""
    position = path.stat().st_size if path.exists() else 0
    inode = path.stat().st_ino if path.exists() else None
    rest = ""
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
            yield from complete
        time.sleep(interval)
