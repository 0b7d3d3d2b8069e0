"""What the installed build of llama.cpp can compute on, asked once and in another process."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from lmnb.server.asking import ask

_log = logging.getLogger(__name__)
_TIMEOUT = 60.0  # Seconds. A GPU driver that wakes up can take ten.


class Devices:
    """`await devices.get()`: the report of `python -m lmnb.engine.devices`, kept for good.

    If that fails the report says `{"error": reason}`.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._report: dict[str, Any] | None = None

    async def get(self) -> dict[str, Any]:
        async with self._lock:
            if self._report is None:
                self._report = await ask("lmnb.engine.devices", timeout=_TIMEOUT)
                if "error" in self._report:
                    _log.warning("The devices could not be listed: %s", self._report["error"])
            return self._report
