"""Codex, started by `lmnb launch`, reads a file with its shell, and writes another with its custom
tool for patches.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agents import SECRET, Agent, agent, calling, listening, thinking
from made_models.scripted import MARKERS, Answer

from lmnb.client import Client

PACKAGE, VERSION = "@openai/codex", "0.169.0"
PROGRAM = "node_modules/@openai/codex-*/vendor/*/bin/codex"
pytestmark = pytest.mark.timeout(600)

PATCH = """\
*** Begin Patch
*** Add File: answer.txt
+At nine. {marker}
*** End Patch"""


@pytest.fixture
def codex(tmp_path: Path) -> Agent:
    return agent(tmp_path, PACKAGE, VERSION, PROGRAM)


def ask(codex: Agent, client: Client, words: str, *options: str) -> list[dict[str, Any]]:
    """What it prints while it works: a JSON object a line."""
    lines = codex.launch(
        client,
        "codex",
        "exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox",
        *options, words,
    )  # fmt: skip
    return [json.loads(line) for line in lines.splitlines()]


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_it_reads_a_file_and_writes_one(
    codex: Agent, client: Client, chat_model_path: Path, tmp_path: Path, transport: str
) -> None:
    sockets = f"model_providers.lmnb.supports_websockets={str(transport == 'websocket').lower()}"
    (codex.folder / "notes.txt").write_text(SECRET)
    patch = PATCH.format(marker=MARKERS[1])
    answers = [
        Answer(
            (*thinking("In the file?"), *calling("I look.", "exec_command", cmd="cat notes.txt"))
        ),
        Answer(calling("I write.", "apply_patch", input=patch), MARKERS[0]),
        Answer("It closes at nine.", MARKERS[1]),
    ]
    with listening(client, tmp_path, answers, chat_model_path, require_auth=True):
        question = "When does the harbour close? It is in notes.txt."
        said = ask(codex, client, question, "-c", sockets)
    connected = any("WS /v1/responses 101" in line for line in client.log(20))
    assert connected or transport == "http"
    items = [line["item"] for line in said if line["type"] == "item.completed"]
    assert [item["type"] for item in items] == [
        "reasoning",
        "agent_message",
        "command_execution",
        "agent_message",
        "file_change",
        "agent_message",
    ]
    assert items[0]["text"] == "In the file?"
    assert items[2]["aggregated_output"] == SECRET
    assert items[4]["status"] == "completed"
    assert items[-1]["text"] == "It closes at nine."
    assert (codex.folder / "answer.txt").read_text() == f"At nine. {MARKERS[1]}\n"
    assert said[-1]["type"] == "turn.completed"
    usage = said[-1]["usage"]  # of its three turns together
    assert usage["reasoning_output_tokens"] > 0
    assert usage["cached_input_tokens"] > 0.6 * usage["input_tokens"] > 6_000
