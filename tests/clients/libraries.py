"""Client libraries, each driven by a program of its own that tells what the library made of answers.

A program is given a `Setting` and prints a JSON object: for each of its steps either what it
`said`, or how it `failed`. So one start of an interpreter serves many tests.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import packages
from agents import MODEL, listening, thinking
from made_models.scripted import MARKERS, Answer
from server_home import CHAT, EMBEDDING

from lmnb.client import Client
from lmnb.engine.options import Segment

PROGRAMS = Path(__file__).parent / "programs"
REQUIREMENTS = Path(__file__).parents[1] / "requirements"
_NODE = (
    "openai@7.57.0",
    "@anthropic-ai/sdk@1.12.0",
    "zod@4.6.7",
    "ai@7.0.173",
    "@ai-sdk/openai@4.0.118",
    "@ai-sdk/openai-compatible@3.0.92",
    "@ai-sdk/anthropic@4.0.105",
)

CITY = 'Zürich "☂"'
WORDS = "I look."
THOUGHT = "Outside?"
GREETING = "Good morning, 世界 🌍!"
AFTERTHOUGHT = "I see."
REST = "It rains."
"""What the model thinks of the tool's result, and answers."""
_CONTEXT = 8192


@dataclass(frozen=True)
class Setting:
    """What a program works with.

    scripted
        A model that greets whoever sends `greet`, calls the tool `weather` with the argument `city`
        for anybody else, and answers from `weather`, which only a call with that city gets.
    small, embedder
        Real models.
    """

    url: str
    city: str = CITY
    greet: str = f"Greet me {MARKERS[0]}."
    ask: str = "How is the weather?"
    weather: str = f"rain {MARKERS[1]}"
    scripted: str = MODEL
    small: str = CHAT
    embedder: str = EMBEDDING


@contextlib.contextmanager
def serving(client: Client, folder: Path, words_of: Path) -> Iterator[Setting]:
    """The server on a port, with the scripted model; the real ones are loaded when asked for."""
    call = (
        *thinking(THOUGHT),
        # A segment begins where the grammar leaves a choice, which a single tool's name is not.
        Segment(
            f'{WORDS}\n<tool_call>\n{{"name": "weather", "arguments": {{"city": "', special=True
        ),
        Segment(json.dumps(CITY, ensure_ascii=False)[1:-1]),
        Segment('"}}\n</tool_call>', special=True),
    )
    answers = [
        Answer(call),
        # Without a thought, so that the first piece of the text is sent at once, and alone.
        Answer(list(map(Segment, GREETING.partition("世"))), MARKERS[0]),
        Answer((*thinking(AFTERTHOUGHT), Segment(REST)), MARKERS[1]),
    ]
    with listening(client, folder, answers, words_of, context=_CONTEXT) as url:
        yield Setting(url)


Said = dict[str, Any]
"""For each step what it said, or how it failed."""


def node(program: str, folder: Path, setting: Setting) -> Said:
    """What a JavaScript program says."""
    # Modules are looked for beside the program.
    for path in PROGRAMS.glob("*.mjs"):
        shutil.copy(path, folder)
    modules = packages.npm("libraries-" + packages.digest(*_NODE), *_NODE) / "node_modules"
    (folder / "node_modules").symlink_to(modules)
    return _told(["node", f"{program}.mjs"], folder, setting)


def environment(requirements: str) -> Path:
    """The interpreter that has the packages of a file of `requirements`."""
    return packages.python(REQUIREMENTS / f"{requirements}.txt")


def python(
    program: str, requirements: str, folder: Path, setting: Setting, **variables: str
) -> Said:
    """What a Python program says, in an environment of its own."""
    command: list[str | Path] = [environment(requirements), PROGRAMS / f"{program}.py"]
    return _told(command, folder, setting, **variables)


def said(told: Said, step: str) -> Any:
    """What a step said. Fails with how it failed."""
    assert step in told, list(told)
    assert "failed" not in told[step], told[step]["failed"]
    return told[step]["said"]


def _told(command: list[str | Path], folder: Path, setting: Setting, **variables: str) -> Said:
    given = json.dumps(asdict(setting))
    lines = packages.run([*command, given], folder, folder, **variables).splitlines()
    told: Said = json.loads(lines[-1])
    return told


def is_pet(value: Any) -> bool:
    """Whether it is what the small model is bound to."""
    return (
        set(value) == {"kind", "tame"}
        and value["kind"] in {"cat", "dog", "hen"}
        and isinstance(value["tame"], bool)
    )
