"""Claude Code reads a file, answers from it, and goes on: each turn costs its new tokens only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import packages
import pytest
from agents import CONTEXT, MODEL, SECRET, Agent, agent, calling, listening, thinking
from made_models.scripted import MARKERS, Answer
from server_home import CHAT

from lmnb.client import Client

PACKAGE, VERSION = "@anthropic-ai/claude-code", "2.1.330"
PROGRAM = "node_modules/@anthropic-ai/claude-code-*/claude"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def claude(tmp_path: Path) -> Agent:
    return agent(tmp_path, PACKAGE, VERSION, PROGRAM)


def ask(claude: Agent, url: str, *words: str, **environment: str) -> list[dict[str, Any]]:
    """What it prints while it works: a JSON object a line."""
    lines = claude.run(
        "-p", *words, "--model", MODEL, "--output-format", "stream-json", "--verbose",
        ANTHROPIC_BASE_URL=url,
        ANTHROPIC_AUTH_TOKEN="lmnb",
        CLAUDE_CODE_MAX_CONTEXT_TOKENS=str(CONTEXT),
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_AUTOUPDATER="1",
        **environment,
    )  # fmt: skip
    return read(lines)


def read(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def blocks(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the model has said."""
    messages = [line["message"] for line in said if line["type"] == "assistant"]
    return [block for message in messages for block in message["content"]]


def used(said: list[dict[str, Any]]) -> list[str]:
    """The tools it has used, by name."""
    return [block["name"] for block in blocks(said) if block["type"] == "tool_use"]


def cached(line: dict[str, Any]) -> float:
    """How much of the prompt had been read before."""
    usage = line["usage"]
    read = usage["cache_read_input_tokens"]
    total = read + usage["input_tokens"] + usage["cache_creation_input_tokens"]
    assert total > 2_000, "the prompt of an agent"
    return float(read / total)


def test_it_reads_a_file_and_a_second_turn_reads_only_what_is_new(
    claude: Agent, client: Client, chat_model_path: Path, tmp_path: Path
) -> None:
    path = claude.folder / "notes.txt"
    path.write_text(SECRET)
    answers = [
        Answer((*thinking("In the file?"), *calling("I look.", "Read", file_path=str(path)))),
        Answer("It closes at nine.", MARKERS[0]),
        Answer("Quite sure: at nine.", MARKERS[1]),
    ]
    with listening(client, tmp_path, answers, chat_model_path) as url:
        first = ask(claude, url, "When does the harbour close? It is in notes.txt.")
        assert used(first) == ["Read"]
        assert "In the file?" in [block.get("thinking") for block in blocks(first)]
        assert first[-1]["result"] == "It closes at nine."
        # The entry point is part of the attribution, with which the system prompt begins.
        again = ("--resume", first[-1]["session_id"], f"Are you sure? {MARKERS[1]}")
        second = ask(claude, url, *again, CLAUDE_CODE_ENTRYPOINT="sdk-py")
    assert second[-1]["result"] == "Quite sure: at nine."
    assert cached(second[-1]) >= 0.95


def test_it_finds_tools_that_it_has_not_told_of(
    claude: Agent, client: Client, chat_model_path: Path, tmp_path: Path
) -> None:
    """Tools that are found later are told of in the result, and nothing is read again.

    `lmnb launch` starts it.
    """
    answers = [
        Answer(
            calling(f"I search {MARKERS[0]}.", "ToolSearch", query="select:CronList", max_results=1)
        ),
        Answer(calling(f"I list {MARKERS[1]}.", "CronList"), MARKERS[0]),
        Answer("There are no jobs.", MARKERS[1]),
    ]
    with listening(client, tmp_path, answers, chat_model_path, require_auth=True):
        options = ("-p", "--output-format", "stream-json", "--verbose")
        said = read(claude.launch(client, "claude", *options, "Which jobs are there?"))
    assert used(said) == ["ToolSearch", "CronList"]
    assert said[-1]["result"] == "There are no jobs."
    turns = {line["message"]["id"]: line["message"] for line in said if line["type"] == "assistant"}
    assert len(turns) == 3
    assert min(map(cached, list(turns.values())[1:])) >= 0.95


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_small_real_model_answers_however_long_its_prefill_takes(
    claude: Agent, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SmolLM2, in a context longer than it was trained for, with three of the tools.

    Told no more than that, it repeats its prompt until its tokens are used up.
    """
    monkeypatch.setattr(packages, "_RUN", 1500.0)
    list(client.load(CHAT, identifier=MODEL, context_length=32_768, parallel=1))
    url = client.serve("127.0.0.1", 0)["url"]
    options = ("--tools", "Bash,Read,Edit", "--system-prompt", "You say hello, and no more.")
    try:
        first = ask(claude, url, "Say hello.", *options)
        second = ask(claude, url, "--resume", first[-1]["session_id"], "Once more.", *options)
    finally:
        client.stop_serving()
        client.unload(MODEL)
    for said in (first, second):
        assert any(block.get("text") or block.get("name") for block in blocks(said))
    (turn, *_) = (line["message"] for line in second if line["type"] == "assistant")
    assert cached(turn) >= 0.95
