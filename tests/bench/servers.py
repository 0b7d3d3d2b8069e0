"""The two servers under comparison, started alike and on the same build."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmnb.engine import native


@dataclass(frozen=True)
class Options:
    """What both servers are given: model file, context shared by all slots, slots, threads."""

    model: Path
    context: int
    slots: int
    threads: int


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Until the server answers 200."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=1) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"no answer from {url}")


@contextmanager
def llama_server(binary: Path, options: Options, log: Path, *extra: str) -> Iterator[int]:
    """llama.cpp's own server; yields its port."""
    port = free_port()
    command = [
        str(binary), "-m", str(options.model), "--host", "127.0.0.1", "--port", str(port),
        "-c", str(options.context), "-np", str(options.slots), "-t", str(options.threads),
        "-tb", str(options.threads), "--no-webui", *extra,
    ]  # fmt: skip
    if not native.extra_buffers_work():  # it would crash, and lmnb does without them too
        command.append("--no-repack")
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as process,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield port
        finally:
            process.terminate()


@contextmanager
def lmnb_server(options: Options, home: Path, log: Path) -> Iterator[int]:
    """`lmnb serve --own`, with the model loaded; yields its port."""
    port = free_port()
    environment = os.environ | {"LMNB_HOME": str(home)}
    lmnb = [sys.executable, "-m", "lmnb"]
    serve = [*lmnb, "serve", "--own", "--port", str(port)]
    with (
        log.open("wb") as output,
        subprocess.Popen(serve, stdout=output, stderr=output, env=environment) as process,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            load = [
                *lmnb, "load", str(options.model), "--identifier", "bench",
                "--context-length", str(options.context // options.slots), "--parallel", str(options.slots),
                "--threads", str(options.threads),
            ]  # fmt: skip
            subprocess.run(load, env=environment, check=True, stdout=output, stderr=output)
            yield port
        finally:
            process.terminate()


def system_info(text: str) -> str:
    """The features of ggml's CPU backend out of a `system_info` line, for comparison."""
    found = re.search(r"CPU : ([^\n]*?)\|?\s*(?:$|\n)", text)
    if not found:
        raise RuntimeError("no system_info found")
    return " ".join(part.strip() for part in found[1].split("|") if part.strip())
