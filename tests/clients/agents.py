"""Coding agents from npm, run headless against a server whose model says what a test has written.

An agent gets a home and a folder of its own, and every way out but the one to this machine leads to
a closed port.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from made_models.scripted import MARKERS, Answer, ascii_merges, scripted

import lmnb
from lmnb.client import Client
from lmnb.engine.protocol import Segment

MODEL = "local-agent"
CONTEXT = 262_144
"""Tokens; more than any of the agents asks for."""

_MERGES = 8000
"""So many merges of a real vocabulary spare most of the minutes that byte tokens would take."""

_INSTALL = 300.0
_RUN = 240.0
"""Seconds until an installation, or an agent, is given up."""

TEMPLATE = (
    (Path(__file__).parents[1] / "templates" / "json_in_tags.jinja")
    .read_text()
    .replace("call>", "tool_call>")
)
"""Calls as Hermes and Qwen write them."""

CONTROLS = (
    "<|system|>",
    "<|user|>",
    "<|bot|>",
    "<|tool|>",
    "<|tools|>",
    "<tool_call>",
    "</tool_call>",
)
END = "<|end|>"

SECRET = f"The harbour of Ulm {MARKERS[0]} closes at nine."
"""What the file says that agents read. Its marker is what the model waits for: only an agent that
has read the file, and has sent what it read, gets the answer."""


def calling(words: str, name: str, **arguments: Any) -> tuple[Segment, ...]:
    """Words and a call, as the model writes them.

    Between the segments a grammar leaves it no choice.
    """
    text = json.dumps(arguments, ensure_ascii=False)
    return (
        Segment(f"{words}\n<tool_call>", special=True),
        Segment(f'{name}", "arguments": {text}}}'),
        Segment(""),
    )


def thinking(words: str) -> tuple[Segment, ...]:
    """A thought, as the model writes it."""
    return Segment(f"<think>\n{words}"), Segment("\n</think>\n\n")


@dataclass(frozen=True)
class Agent:
    """An agent that can be run: its program, and the folders it lives and works in."""

    program: Path
    home: Path
    folder: Path

    def launch(self, client: Client, name: str, *arguments: str) -> str:
        """Its output when `lmnb launch` starts it for the model."""
        path = os.pathsep.join([str(self.program.parent), os.environ["PATH"]])
        return Agent(Path(sys.executable), self.home, self.folder).run(
            "-m", "lmnb", "launch", name, "--model", MODEL, "--", *arguments,
            PATH=path,
            LMNB_HOME=str(client.home),
            PYTHONPATH=str(Path(lmnb.__file__).parents[1]),
        )  # fmt: skip

    def run(self, *arguments: str, **environment: str) -> str:
        """Its output. Fails the test with everything that it said if it fails or takes too long."""
        closed = "http://127.0.0.1:9"
        done = subprocess.run(
            [self.program, *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RUN,
            check=False,
            env={
                "HOME": str(self.home),
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "HTTP_PROXY": closed,
                "HTTPS_PROXY": closed,
                "ALL_PROXY": closed,
                "NO_PROXY": "127.0.0.1,localhost",
                **environment,
            },
        )
        assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def agent(folder: Path, package: str, version: str, program: str) -> Agent:
    """The agent of an npm package; `program` is a pattern of its file for this platform."""
    found = Agent(_installed(package, version, program), folder / "home", folder / "work")
    found.home.mkdir()
    found.folder.mkdir()
    return found


def _installed(package: str, version: str, program: str) -> Path:
    """Fetched once per machine. Without npm, or the registry, the test is skipped."""
    cache = Path(os.environ.get("LMNB_TEST_MODELS") or Path.home() / ".cache" / "lmnb-tests")
    folder = cache / "npm" / f"{package.replace('/', '-').lstrip('@')}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _install(folder, f"{package}@{version}")
            (folder / "complete").touch()
    programs = sorted(path for path in folder.glob(program) if os.access(path, os.X_OK))
    if not programs:
        pytest.skip(f"{package} {version} has no program for this platform")
    return programs[0]


def _install(folder: Path, package: str) -> None:
    if (npm := shutil.which("npm")) is None:
        pytest.skip(f"npm is not installed, with which {package} would be")
    print(f"installing {package} in {folder}", flush=True)  # noqa: T201
    (folder / "package.json").write_text('{"private": true}')
    quick = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")  # where there is no registry
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", *quick, package]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{package} was not installed within {_INSTALL:.0f} s")
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        pytest.skip(f"{package} could not be installed: {' '.join(errors[:2])}")


@contextlib.contextmanager
def listening(
    client: Client,
    folder: Path,
    answers: Sequence[Answer],
    words_of: Path,
    *,
    require_auth: bool = False,
) -> Iterator[str]:
    """The address of the server, with a model loaded as `MODEL` that gives `answers`.

    It reads prompts in the words of another model, `words_of`. With `require_auth` it asks for a
    token, which `lmnb launch` has to see to.
    """
    path = scripted(
        folder / "agent.gguf",
        answers,
        template=TEMPLATE,
        controls=CONTROLS,
        end=END,
        seed=None,
        context=CONTEXT,
        merges=ascii_merges(words_of, _MERGES),
    )
    list(client.load(str(path), identifier=MODEL, context_length=CONTEXT))
    url = client.serve("127.0.0.1", 0, require_auth=require_auth)["url"]
    try:
        yield url
    finally:
        client.stop_serving()
        client.unload(MODEL)
