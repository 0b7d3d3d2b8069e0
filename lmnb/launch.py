"""Starting the server process, detached from whoever asks for it."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

from lmnb.errors import LmnbError, ServerError
from lmnb.runtime import log_path

_LOCKED = 3  # Exit status of a server that found another one running.
_KERNEL_VARIABLES = {
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "FORCE_COLOR",
    "GIT_PAGER",
    "JPY_PARENT_PID",
    "JPY_SESSION_NAME",
    "MPLBACKEND",
    "PAGER",
    "PYTHONSTARTUP",
    "TERM",
}
_KERNEL_PREFIXES = ("JPY_", "PYDEVD_", "VSCODE_", "COVERAGE_PROCESS_")

# Kept, so that a server that ends before this process is no zombie.
_started: list[subprocess.Popen[bytes]] = []


@atexit.register
def _let_go() -> None:
    """A Popen complains if its process outlives it, which is the very purpose here."""
    for process in _started:
        if process.poll() is None:
            process.returncode = 0


class Launch:
    """One attempt to start the server of a home. `failure` tells whether it has failed."""

    def __init__(self, home: Path) -> None:
        self.began = time.monotonic()
        self._errors = log_path(home).with_name("start.log")
        try:
            self._errors.parent.mkdir(parents=True, exist_ok=True)
            self._process = _spawn(self._errors, home)
        except OSError as error:
            raise ServerError(
                f"The lmnb server could not be started: {error.strerror} ({error.filename}).",
                hint="Set LMNB_HOME to a folder that you can write to.",
            ) from None
        _started[:] = [process for process in _started if process.poll() is None]
        _started.append(self._process)

    def failure(self) -> LmnbError | None:
        """Why the process has ended, if it has.

        That another server holds the lock is no failure: that server will answer, or the caller
        gives up waiting for it.
        """
        status = self._process.poll()
        if status is None or status == _LOCKED:
            return None
        text = self._errors.read_text(encoding="utf-8", errors="replace").strip()
        last = text.rpartition("\n")[2]
        try:
            return LmnbError.from_dict(json.loads(last))
        except (ValueError, KeyError, AttributeError):
            reason = textwrap.shorten(last, 200, placeholder=" …") or f"status {status}"
            return ServerError(
                f"The lmnb server failed to start: {reason}", hint=f"See {self._errors}."
            )


def clean_environment(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """The environment for a process that outlives the notebook it is started from."""
    kept = {
        name: value
        for name, value in environment.items()
        if name not in _KERNEL_VARIABLES and not name.startswith(_KERNEL_PREFIXES)
    }
    kept["LMNB_HOME"] = str(home)
    path = [str(Path(entry).absolute()) for entry in kept.pop("PYTHONPATH", "").split(":") if entry]
    source = str(Path(__file__).resolve().parents[1])
    if source not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *path}:
        # Imported from a source tree, which the current folder or the kernel's sys.path leads to.
        path.insert(0, source)
    if path:
        kept["PYTHONPATH"] = ":".join(path)
    return kept


def _spawn(errors: Path, home: Path) -> subprocess.Popen[bytes]:
    with errors.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "lmnb.server"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=clean_environment(os.environ, home),
            start_new_session=True,
        )
