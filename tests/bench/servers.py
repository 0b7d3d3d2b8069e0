"""The two servers under comparison, started alike and on the same build."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmnb.engine import native
from lmnb.engine.context import default_threads
from lmnb.engine.gguf import read_header


@dataclass(frozen=True)
class Deployment:
    """How both servers are started for some of the rows.

    `slots` slots of `context` tokens each; 0 leaves both to the servers (the embedding model).
    `peer_options`: further options of llama-server. Where there are several sets, all are run and
    the best figure counts.
    """

    title: str
    slots: int
    context: int
    embedding: bool = False
    peer_options: tuple[tuple[str, ...], ...] = ((),)


@dataclass(frozen=True)
class Machine:
    """Where everything is, and the number of threads, which is the same for both.

    `peer_options` go to llama-server and `lmnb_options` to `lmnb load` in every row, to see what they
    change.

    For lmnb it is the most it may use. It is not told where it is lmnb's default anyway, since a
    number that is told is fixed, and without one lmnb leaves cores to others that are busy.
    """

    peer: Path
    model: Path
    embedding_model: Path
    threads: int
    logs: Path
    peer_options: tuple[str, ...] = ()
    lmnb_options: tuple[str, ...] = ()

    def file(self, deployment: Deployment) -> Path:
        """The model file of a deployment."""
        return self.embedding_model if deployment.embedding else self.model


def environment() -> dict[str, str]:
    """Ours without settings of OpenMP: both servers run with their own defaults."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "LMNB_"))}


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
def running(command: list[str], log: Path, env: dict[str, str], port: int) -> Iterator[None]:
    """A server process, from its first answer on."""
    with (
        log.open("ab") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=env) as process,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def llama_server(machine: Machine, deployment: Deployment, *extra: str) -> Iterator[int]:
    """llama.cpp's own server; yields its port."""
    port, threads = free_port(), str(machine.threads)
    command = [
        str(machine.peer), "-m", str(machine.file(deployment)), "--host", "127.0.0.1",
        "--port", str(port), "-t", threads, "-tb", threads, "--no-webui", *machine.peer_options, *extra,
    ]  # fmt: skip
    if deployment.slots:
        total = deployment.slots * deployment.context
        command += ["-c", str(total), "-np", str(deployment.slots)]
    header = read_header(machine.file(deployment))
    if not native.extra_buffers_work(header):  # it would crash, and lmnb does without them too
        command.append("--no-repack")
    with running(command, machine.logs / "llama-server.log", environment(), port):
        yield port


@contextmanager
def lmnb_server(
    machine: Machine, deployment: Deployment, own_home: Path | None = None
) -> Iterator[int]:
    """`lmnb serve --own` with a home of its own and the model loaded; yields its port."""
    port = free_port()
    log = machine.logs / "lmnb.log"
    lmnb = [sys.executable, "-m", "lmnb"]
    load = [
        *lmnb,
        "load",
        str(machine.file(deployment)),
        "--identifier",
        "bench",
        *machine.lmnb_options,
    ]
    if machine.threads != default_threads():
        load += ["--threads", str(machine.threads)]
    if deployment.slots:
        load += ["--context-length", str(deployment.context), "--parallel", str(deployment.slots)]
    with tempfile.TemporaryDirectory(prefix="lmnb-bench-home-", ignore_cleanup_errors=True) as new:
        env = environment() | {"LMNB_HOME": str(own_home or new)}
        with running([*lmnb, "serve", "--own", "--port", str(port)], log, env, port):
            with log.open("ab") as output:
                subprocess.run(load, env=env, check=True, stdout=output, stderr=output)
            yield port


def system_info(text: str) -> str:
    """The features of ggml's CPU backend out of a `system_info` line, for comparison."""
    found = re.search(r"CPU : ([^\n]*?)\|?\s*(?:$|\n)", text)
    if not found:
        raise RuntimeError("no system_info found")
    return " ".join(part.strip() for part in found[1].split("|") if part.strip())


def builds(machine: Machine) -> tuple[str, str]:
    """`system_info` of the llama.cpp in lmnb, and of the peer's."""
    log = machine.logs / "llama-server.log"
    with llama_server(machine, Deployment("", 1, 512), "-lv", "5"):  # or it is not logged
        pass
    peer = system_info(log.read_text(errors="replace"))
    command = [sys.executable, "-m", "lmnb.engine.devices"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    own = json.loads(done.stdout.strip().splitlines()[-1])["system_info"]
    return system_info(own), peer
