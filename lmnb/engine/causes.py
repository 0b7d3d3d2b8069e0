"""Why a worker process died: from its exit status, its log and what the kernel counted."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from lmnb.errors import EngineCrashed

_TAIL = 1 << 16  # Bytes of the log that are looked through.

_MEANINGS = {
    signal.SIGSEGV: "invalid memory access",
    signal.SIGBUS: "the model's file was changed, or could not be read, while it was in use",
    signal.SIGILL: "llama.cpp was built for another kind of processor",
    signal.SIGFPE: "arithmetic error",
    signal.SIGABRT: "llama.cpp gave up",
}
_HINTS = {
    signal.SIGBUS: "Load the model again once the file is in order.",
    signal.SIGILL: "Build it on this machine: pip install --force-reinstall --no-binary "
    "llama-cpp-python llama-cpp-python.",
}
_LESS_MEMORY = "A smaller context_length or a smaller model needs less; so does unloading another."

# The C++ library's words before it calls abort().
_EXCEPTION = re.compile(r"terminate called after throwing an instance of '([^']+)'")
_WHAT = re.compile(r"^\s*what\(\):\s*(.+)$", re.MULTILINE)
# Python's faulthandler: the innermost frame of the thread in which it happened.
_FRAME = re.compile(r'Current thread .*?\n\s+File "[^"]*?([^"/\\]+)", line \d+ in (\w+)')
_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|failed to (?:re)?allocate|out of memory|MemoryError", re.IGNORECASE
)


def oom_kills() -> int | None:
    """How many processes the kernel has ended for want of memory; None where it does not say.

    The count is that of the whole machine or, in a container that shows only its own, of that.
    """
    counts = [_counted(path) for path in _counters()]
    known = [count for count in counts if count is not None]
    return max(known) if known else None


def _counters() -> list[Path]:
    """The files in which Linux counts them: of the machine, and of this process's control group."""
    found = [Path("/proc/vmstat")]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            root, name = Path("/sys/fs/cgroup"), "memory.events"
        elif controllers == "memory":
            root, name = Path("/sys/fs/cgroup/memory"), "memory.oom_control"
        else:
            continue
        # In a container the group's own path may be visible or not; its root always is.
        found += [root / group.lstrip("/") / name, root / name]
    return found


def _counted(path: Path) -> int | None:
    try:
        text = path.read_text()
    except OSError:
        return None
    match = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else None


def log_since(log: Path | None, start: int) -> str:
    """The end of what a process has logged, `start` bytes having been there before."""
    if log is None:
        return ""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def cause(status: int | None, text: str, *, oom_kills: int | None) -> EngineCrashed:
    """The error for a worker that ended without saying why.

    Parameters
    ----------
    status
        As of `subprocess.Popen`: negative is a signal. None if the process does not even end.
    text
        The end of its log.
    oom_kills
        By how much the kernel's count has risen since; None if it cannot be read.
    """
    if status is None:
        return EngineCrashed(
            "The model's process can neither go on nor be ended: it hangs in the kernel or a driver.",
            hint="Its memory is free only after that is over, or after a restart of the machine.",
        )
    if status == -signal.SIGKILL:
        return _killed(oom_kills)
    if status < 0:
        return _signalled(-status, text)
    if _OUT_OF_MEMORY.search(text):
        return EngineCrashed("The model's process ran out of memory.", hint=_LESS_MEMORY)
    return EngineCrashed(f"The model's process ended unexpectedly (exit status {status}).")


def _killed(oom_kills: int | None) -> EngineCrashed:
    if oom_kills:
        return EngineCrashed(
            "The kernel killed the model's process because the machine ran out of memory.",
            hint=_LESS_MEMORY,
        )
    if oom_kills is None:
        return EngineCrashed(
            "The model's process was killed, most likely because the machine ran out of memory.",
            hint=_LESS_MEMORY,
        )
    return EngineCrashed(
        "The model's process was killed (SIGKILL) by another program: not by the kernel for want of "
        "memory, as its count of such kills has not risen.",
        hint="A memory watchdog such as earlyoom or a job scheduler does that, or somebody by hand.",
    )


def _signalled(number: int, text: str) -> EngineCrashed:
    thrown = _EXCEPTION.search(text)
    if number == signal.SIGABRT and thrown:
        if "bad_alloc" in thrown[1]:
            message = f"The model's process ran out of memory ({thrown[1]})."
            return EngineCrashed(message, hint=_LESS_MEMORY)
        what = _WHAT.search(text, thrown.end())
        return EngineCrashed(
            f"llama.cpp stopped the model's process: {what[1].strip() if what else thrown[1]}"
        )
    try:
        known = signal.Signals(number)
    except ValueError:
        return EngineCrashed(f"The model's process crashed (signal {number}).")
    meaning = f": {_MEANINGS[known]}" if known in _MEANINGS else ""
    frame = _FRAME.search(text)
    where = f" in {frame[2]} of {frame[1]}" if frame else ""
    return EngineCrashed(
        f"The model's process crashed{where} ({known.name}{meaning}).", hint=_HINTS.get(known)
    )
