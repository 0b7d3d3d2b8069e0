"""A home of one's own for tests that start, use and kill servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lmnb import attaching, runtime
from lmnb.client import Client

PATIENCE = 60.0
CHAT = "smollm2-135m-instruct"
EMBEDDING = "all-minilm-l6-v2"
ENDLESS: dict[str, Any] = {
    "model": CHAT,
    "prompt": "One, two, three,",
    "max_tokens": 7000,
    # Both tokens with which this model could end.
    "logit_bias": {"0": -100, "2": -100},
}
"""A completion that does not end by itself while a test runs."""


def wait_for(condition: Callable[[], bool], what: str = "the condition") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def link_models(cache: Path, home: Path) -> None:
    """Let a home have the models of another, without copying them."""
    for source in (cache / "models").rglob("*"):
        if source.is_file() and ".staging" not in source.parts:
            target = home / source.relative_to(cache)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)


def processes(home: Path) -> list[psutil.Process]:
    """The server, workers and template renderers of a home. Zombies are not processes any more."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("LMNB_HOME") == str(home)
            command = process.cmdline()
            dead = process.status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if ours and not dead and "-m" in command and "lmnb." in command[command.index("-m") + 1]:
            found.append(process)
    return found


def _command(process: psutil.Process) -> list[str]:
    """Its command line; nothing if it has just ended."""
    try:
        found: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return found


@dataclass
class ServerHome:
    path: Path

    def attach(self) -> Client:
        return attaching.attach(home=self.path)

    @property
    def pid(self) -> int:
        record = runtime.read_record(self.path)
        assert record is not None
        return int(record["pid"])

    def processes(self) -> list[psutil.Process]:
        return processes(self.path)

    def workers(self) -> list[psutil.Process]:
        return [one for one in self.processes() if "lmnb.engine.worker" in _command(one)]

    def log(self) -> str:
        return runtime.log_path(self.path).read_text()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9` of the server, which the system needs a moment for."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: pid not in {one.pid for one in self.processes()}, "the server to die")

    def wait_until_empty(self) -> None:
        wait_for(lambda: not self.processes(), "the processes to end")

    def lmnb(
        self, *arguments: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        done = subprocess.run(
            [sys.executable, "-m", "lmnb", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE * 2,
            check=False,
            env=self.environment(**environment),
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the command line, with pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "lmnb", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**environment),
        )

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "LMNB_HOME": str(self.path), **more}

    def close(self) -> None:
        """End everything, gently first."""
        if (found := attaching.find(self.path)) is not None:
            found.shutdown()
        attaching.forget(self.path)
