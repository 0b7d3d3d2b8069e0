"""The OpenAI SDK for TypeScript: its accumulators, its parsers with zod, its runners of tools."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

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
from server_home import CHAT, EMBEDDING, ServerHome

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def told(
    server: ServerHome, tmp_path_factory: pytest.TempPathFactory, chat_model_path: Path
) -> Iterator[Said]:
    folder = tmp_path_factory.mktemp("openai")
    with serving(server.attach(), folder, chat_model_path) as setting:
        yield node("openai", folder, setting)


def test_chat(told: Said) -> None:
    completion = said(told, "chat")
    [choice] = completion["choices"]
    assert choice["message"]["content"] == GREETING
    assert choice["finish_reason"] == "stop"
    usage = completion["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_accumulator_of_chats(told: Said) -> None:
    streamed = said(told, "chat_stream")
    [choice] = streamed["final"]["choices"]
    assert choice["message"]["content"] == GREETING
    assert choice["finish_reason"] == "stop"
    assert len(streamed["deltas"]) > 1
    assert "".join(streamed["deltas"]) == GREETING
    whole = said(told, "chat")
    assert streamed["final"]["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert set(choice["message"]) >= set(whole["choices"][0]["message"])


def test_calls_in_the_accumulator_of_chats(told: Said) -> None:
    streamed = said(told, "chat_tool_stream")
    [choice] = streamed["final"]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == WORDS
    [call] = choice["message"]["tool_calls"]
    assert choice["message"]["reasoning_content"] == THOUGHT
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert call["function"]["parsed_arguments"] == {"city": CITY}
    assert json.loads("".join(streamed["parts"])) == {"city": CITY}


@pytest.mark.parametrize("step", ["chat_run_tools", "chat_run_tools_stream"])
def test_the_runner_of_chats(told: Said, step: str) -> None:
    ran = said(told, step)
    assert ran["content"] == REST
    assert ran["cities"] == [CITY]
    assert ran["roles"] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    "step", ["chat_parse", "chat_stream_parse", "responses_parse", "responses_stream_parse"]
)
def test_parsed_with_zod(told: Said, step: str) -> None:
    assert is_pet(said(told, step))


def test_responses(told: Said) -> None:
    response = said(told, "responses")
    assert response["text"] == GREETING
    assert [item["type"] for item in response["created"]["output"]] == ["message"]


def test_the_accumulator_of_responses(told: Said) -> None:
    streamed = said(told, "responses_stream")
    final = streamed["final"]
    assert final["output_text"] == GREETING
    assert len(streamed["deltas"]) > 1
    assert "".join(streamed["deltas"]) == GREETING
    assert streamed["seen"][0] == "response.created"
    assert streamed["seen"][-1] == "response.completed"
    whole = said(told, "responses")["created"]
    assert final["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert set(final) >= set(whole)


@pytest.mark.parametrize("step", ["responses_run_tools", "responses_run_tools_stream"])
def test_the_runner_of_responses(told: Said, step: str) -> None:
    ran = said(told, step)
    assert (ran["thought"], ran["text"]) == (AFTERTHOUGHT, REST)
    assert ran["cities"] == [CITY]
    turns = ran["seen"].count("response.completed")
    assert turns == (2 if step.endswith("stream") else 0)


def test_embeddings(told: Said) -> None:
    """The SDK asks for base64, and decodes it."""
    embedded = said(told, "embeddings")
    assert embedded["size"] == 384
    assert all(math.isclose(length, 1, abs_tol=1e-4) for length in embedded["lengths"])
    assert embedded["usage"]["prompt_tokens"] > 0


def test_models(told: Said) -> None:
    assert {CHAT, EMBEDDING} < set(said(told, "models"))


def test_errors(told: Said) -> None:
    unknown = said(told, "no_model")
    assert unknown.pop("requestID").startswith("req_")
    assert unknown == {
        "right": True,
        "status": 404,
        "code": "model_not_found",
        "param": "model",
        "type": "invalid_request_error",
    }
    bad = said(told, "bad_request")
    assert (bad["right"], bad["status"], bad["param"]) == (True, 400, "temperature")
    assert "expected a valid number" in bad["message"]
    assert said(told, "too_long") == {"right": True, "code": "context_length_exceeded"}
