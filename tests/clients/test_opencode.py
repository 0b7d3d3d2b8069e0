"""opencode, started by `lmnb launch`, reads a file with its tool, and answers from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agents import SECRET, Agent, agent, calling, listening, thinking
from made_models.scripted import MARKERS, Answer

from lmnb.client import Client

PACKAGE, VERSION = "opencode-ai", "1.18.33"
PROGRAM = "node_modules/opencode-*/bin/opencode"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def opencode(tmp_path: Path) -> Agent:
    return agent(tmp_path, PACKAGE, VERSION, PROGRAM)


def test_it_reads_a_file(
    opencode: Agent, client: Client, chat_model_path: Path, tmp_path: Path
) -> None:
    path = opencode.folder / "notes.txt"
    path.write_text(SECRET)
    answers = [
        Answer((*thinking("In the file?"), *calling("I look.", "read", filePath=str(path)))),
        Answer("It closes at nine.", MARKERS[0]),
    ]
    with listening(client, tmp_path, answers, chat_model_path, require_auth=True):
        said = opencode.launch(
            client,
            "opencode",
            "run", "--format", "json", "--thinking", "When does the harbour close? It is in notes.txt.",
        )  # fmt: skip
    parts = [line["part"] for line in map(json.loads, said.splitlines()) if "part" in line]
    [used] = [part for part in parts if part["type"] == "tool"]
    assert used["tool"] == "read"
    assert used["state"]["status"] == "completed"
    assert SECRET in used["state"]["output"]
    assert [part["text"] for part in parts if part["type"] == "text"] == [
        "I look.",
        "It closes at nine.",
    ]
    assert [part["text"] for part in parts if part["type"] == "reasoning"] == ["In the file?"]
    # The last turn's prompt had been read but for the call and its result.
    tokens = [part["tokens"] for part in parts if part["type"] == "step-finish"][-1]
    assert tokens["cache"]["read"] > 10 * tokens["input"]
