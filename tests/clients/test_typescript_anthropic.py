"""The Anthropic SDK for TypeScript: its accumulator, its parser with zod, its runner of tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from libraries import (
    AFTERTHOUGHT,
    CITY,
    GREETING,
    REST,
    THOUGHT,
    WORDS,
    Said,
    is_pet,
    node,
    said,
    serving,
)
from server_home import CHAT, ServerHome

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def told(
    server: ServerHome, tmp_path_factory: pytest.TempPathFactory, chat_model_path: Path
) -> Iterator[Said]:
    folder = tmp_path_factory.mktemp("anthropic")
    with serving(server.attach(), folder, chat_model_path) as setting:
        yield node("anthropic", folder, setting)


def prompt_tokens(message: dict[str, Any]) -> int:
    usage = message["usage"]
    parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(usage[part] for part in parts)


def shown(message: dict[str, Any]) -> list[tuple[str, Any]]:
    """Its blocks: the type, and what is in them."""
    names = {"thinking": "thinking", "text": "text", "tool_use": "input"}
    return [(block["type"], block[names[block["type"]]]) for block in message["content"]]


ANSWER = [("thinking", AFTERTHOUGHT), ("text", REST)]


def test_messages(told: Said) -> None:
    message = said(told, "message")["created"]
    assert shown(message) == [("text", GREETING)]
    assert message["stop_reason"] == "end_turn"
    assert said(told, "message")["counted"]["input_tokens"] == prompt_tokens(message)


def test_the_accumulator(told: Said) -> None:
    streamed = said(told, "message_stream")
    final, seen = streamed["final"], streamed["seen"]
    assert shown(final) == [("text", GREETING)]
    assert final["stop_reason"] == "end_turn"
    assert len(streamed["texts"]) > 1
    assert "".join(streamed["texts"]) == GREETING
    assert (seen[0], *seen[-2:]) == ("message_start", "message_delta", "message_stop")
    assert prompt_tokens(final) == prompt_tokens(said(told, "message")["created"])


def test_calls_in_the_accumulator(told: Said) -> None:
    streamed = said(told, "tool_stream")
    assert streamed["final"]["stop_reason"] == "tool_use"
    expected = [("thinking", THOUGHT), ("text", WORDS), ("tool_use", {"city": CITY})]
    assert shown(streamed["final"]) == expected
    assert streamed["final"]["content"][0]["signature"]
    assert "".join(streamed["thoughts"]) == THOUGHT
    assert json.loads("".join(streamed["parts"])) == {"city": CITY}


def test_thinking_comes_back(told: Said) -> None:
    assert shown(said(told, "thinking_returns")) == ANSWER


@pytest.mark.parametrize("step", ["parse", "stream_parse"])
def test_parsed_with_zod(told: Said, step: str) -> None:
    assert is_pet(said(told, step))


@pytest.mark.parametrize("step", ["tool_runner", "tool_runner_stream"])
def test_the_runner(told: Said, step: str) -> None:
    ran = said(told, step)
    assert ran["cities"] == [CITY]
    asked, answered = ran["messages"]
    assert asked["stop_reason"] == "tool_use"
    assert shown(answered) == ANSWER
    assert prompt_tokens(answered) > prompt_tokens(asked), "the whole conversation is sent again"


def test_models(told: Said) -> None:
    assert {"id": CHAT, "type": "model"} in said(told, "models")


def test_errors(told: Said) -> None:
    unknown = said(told, "no_model")
    assert unknown.pop("requestID").startswith("req_")
    assert unknown == {"right": True, "status": 404, "type": "not_found_error"}
    bad = said(told, "bad_request")
    assert (bad["right"], bad["status"], bad["type"]) == (True, 400, "invalid_request_error")
    assert "messages[0].content" in bad["message"]
