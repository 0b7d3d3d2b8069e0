"""What is said of a worker that died, by what it left."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from lmnb.engine import causes

BAD_ALLOC = """load: fine
terminate called after throwing an instance of 'std::bad_alloc'
  what():  std::bad_alloc
Fatal Python error: Aborted
"""
THROWN = """terminate called after throwing an instance of 'std::runtime_error'
  what():  unexpected tensor shape
"""
SEGFAULT = """Fatal Python error: Segmentation fault

Current thread 0x00007f0000000740 (most recent call first):
  File "/somewhere/lmnb/engine/context.py", line 147 in decode
  File "/somewhere/lmnb/engine/generator.py", line 147 in _forward
"""


@pytest.mark.parametrize(
    ("status", "log", "oom_kills", "words"),
    [
        (-signal.SIGKILL, "", 1, "The kernel killed the model's process because the machine ran"),
        (-signal.SIGKILL, "", 0, "by another program: not by the kernel for want of memory"),
        (-signal.SIGKILL, "", None, "most likely because the machine ran out of memory"),
        (-signal.SIGABRT, BAD_ALLOC, 0, "ran out of memory (std::bad_alloc)"),
        (-signal.SIGABRT, THROWN, 0, "stopped the model's process: unexpected tensor shape"),
        (-signal.SIGSEGV, SEGFAULT, 0, "crashed in decode of context.py (SIGSEGV: invalid memory"),
        (-signal.SIGSEGV, "", 0, "crashed (SIGSEGV: invalid memory access)"),
        (-signal.SIGBUS, "", 0, "the model's file was changed"),
        (-signal.SIGILL, "", 0, "built for another kind of processor"),
        (-signal.SIGTERM, "", 0, "crashed (SIGTERM)"),
        (-63, "", 0, "signal 63"),
        (1, "MemoryError", 0, "ran out of memory"),
        (3, "", 0, "exit status 3"),
        (None, "", 0, "can neither go on nor be ended"),
    ],
)
def test_causes(status: int | None, log: str, oom_kills: int | None, words: str) -> None:
    assert words in causes.cause(status, log, oom_kills=oom_kills).message


def test_only_what_this_process_has_logged_counts(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    log.write_text("old: out of memory\n")
    start = log.stat().st_size
    with log.open("a") as file:
        file.write("new\n")
    assert causes.log_since(log, start) == "new\n"
    assert causes.log_since(None, 0) == ""
    assert causes.log_since(tmp_path / "none", 0) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts them")
def test_kills_are_counted_where_the_kernel_says(tmp_path: Path) -> None:
    assert causes.oom_kills() is None or causes.oom_kills() >= 0  # type: ignore[operator]
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 2\noom_kill 2\noom_group_kill 0\n")
    assert causes._counted(events) == 2
    control = tmp_path / "memory.oom_control"
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert causes._counted(control) == 3
    assert causes._counted(tmp_path / "none") is None
