"""The server's logs, one of text and one of requests: files that rotate, written by a thread.

So no request waits for them.
"""

from __future__ import annotations

import logging
import os
import sys
from io import TextIOWrapper
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from queue import SimpleQueue

from lmnb.journal import OLD_FILES, journal_path
from lmnb.runtime import log_path
from lmnb.server import journal

_SIZE = 2 * 1024 * 1024
_REQUESTS_SIZE = 8 * 1024 * 1024


class _RequestsFile(RotatingFileHandler):
    """For this user alone, as prompts may be in it. Takes nothing but lines of the journal."""

    def _open(self) -> TextIOWrapper:
        file = super()._open()
        os.fchmod(file.fileno(), 0o600)
        return file

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name == journal.LOGGER.name


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


def _is_text(record: logging.LogRecord) -> bool:
    return record.name != journal.LOGGER.name


def start_log(home: Path, *, terminal: bool) -> QueueListener:
    """Send all logging to the file, and to stderr with `terminal`. `stop()` it at the end."""
    path = log_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=_SIZE, backupCount=OLD_FILES, encoding="utf-8")
    ]
    if terminal:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        handler.setFormatter(_Formatter())
        handler.addFilter(_is_text)
    handlers.append(
        _RequestsFile(
            journal_path(home),
            maxBytes=_REQUESTS_SIZE,
            backupCount=OLD_FILES,
            encoding="utf-8",
            delay=True,
        )
    )
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
