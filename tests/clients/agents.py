"""Coding agents from npm, run headless against a server whose model says what a test has written.

An agent gets a home and a folder of its own, and every way out but the one to this machine leads to
a closed port.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import packages
import pytest
from made_models.scripted import MARKERS, Answer, ascii_merges, scripted

import lmnb
from lmnb.client import Client
from lmnb.engine.options import Segment

MODEL = "local-agent"
CONTEXT = 262_144
"""Tokens; more than any of the agents asks for."""

_MERGES = 8000
"""So many merges of a real vocabulary spare most of the minutes that byte tokens would take."""

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
        return packages.run([self.program, *arguments], self.home, self.folder, **environment)


def agent(folder: Path, package: str, version: str, program: str) -> Agent:
    """The agent of an npm package; `program` is a pattern of its file for this platform."""
    name = f"{package.replace('/', '-').lstrip('@')}-{version}"
    installed = packages.npm(name, f"{package}@{version}")
    programs = sorted(path for path in installed.glob(program) if os.access(path, os.X_OK))
    if not programs:
        pytest.skip(f"{package} {version} has no program for this platform")
    found = Agent(programs[0], folder / "home", folder / "work")
    found.home.mkdir()
    found.folder.mkdir()
    return found


@contextlib.contextmanager
def listening(
    client: Client,
    folder: Path,
    answers: Sequence[Answer],
    words_of: Path,
    *,
    require_auth: bool = False,
    context: int = CONTEXT,
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
        context=context,
        merges=ascii_merges(words_of, _MERGES),
    )
    list(client.load(str(path), identifier=MODEL, context_length=context))
    url = client.serve("127.0.0.1", 0, require_auth=require_auth)["url"]
    try:
        yield url
    finally:
        client.stop_serving()
        client.unload(MODEL)
