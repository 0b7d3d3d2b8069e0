"""Questions to llama.cpp that a process of its own answers, since the server never loads it."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


async def ask(module: str, *arguments: str, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109
    """The JSON that `python -m module` prints as its last line; `{"error": reason}` if it does not.

    A build whose native code crashes while it looks must not take the server with it.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), timeout)
        return dict(json.loads(output.strip().rpartition(b"\n")[2]))
    except TimeoutError:
        return {"error": f"No answer within {timeout:.0f} seconds."}
    except ValueError:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        return {"error": last or f"It ended with status {process.returncode}."}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
