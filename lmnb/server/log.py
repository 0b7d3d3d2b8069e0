"""The server's log: one file that rotates, written by a thread so that no request waits for it."""

from __future__ import annotations

import logging
import sys
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from queue import SimpleQueue

from lmnb.runtime import log_path

_SIZE = 2 * 1024 * 1024
_OLD_FILES = 3


class _Formatter(logging.Formatter):
    """`2026-03-01 12:00:00 POST /v1/messages 200 12 ms`; anything unusual says its level."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
        self._unusual = logging.Formatter(
            "%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"
        )

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno > logging.INFO:
            return self._unusual.format(record)
        return super().format(record)


def start_log(home: Path, *, terminal: bool) -> QueueListener:
    """Send all logging to the file, and to stderr with `terminal`. `stop()` it at the end."""
    path = log_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=_SIZE, backupCount=_OLD_FILES, encoding="utf-8")
    ]
    if terminal:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        handler.setFormatter(_Formatter())
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    root = logging.getLogger()
    root.addHandler(QueueHandler(queue))
    root.setLevel(logging.WARNING)
    logging.getLogger("lmnb").setLevel(logging.INFO)
    # What goes wrong there is told to whoever asked; its traces quote answers, tokens and all.
    logging.getLogger("mcp.client.auth").setLevel(logging.CRITICAL)
    logging.captureWarnings(capture=True)
    listener = QueueListener(queue, *handlers)
    listener.start()
    return listener
