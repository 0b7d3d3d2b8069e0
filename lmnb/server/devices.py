"""What the installed build of llama.cpp can compute on, asked once and in another process."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

_log = logging.getLogger(__name__)
_TIMEOUT = 60.0  # Seconds. A GPU driver that wakes up can take ten.


class Devices:
    """`await devices.get()`: the report of `python -m lmnb.engine.devices`, kept for good.

    A build whose native code crashes while it looks must not take the server with it, hence the
    process; the report then says `{"error": reason}`.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._report: dict[str, Any] | None = None

    async def get(self) -> dict[str, Any]:
        async with self._lock:
            if self._report is None:
                self._report = await _ask()
            return self._report


async def _ask() -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "lmnb.engine.devices",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), _TIMEOUT)
        # Native code may print before it; the report is the last line.
        report = json.loads(output.strip().rpartition(b"\n")[2])
    except TimeoutError:
        report = {"error": f"No answer within {_TIMEOUT:.0f} seconds."}
    except ValueError:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        report = {"error": last or f"It ended with status {process.returncode}."}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if "error" in report:
        _log.warning("The devices could not be listed: %s", report["error"])
    return dict(report)
