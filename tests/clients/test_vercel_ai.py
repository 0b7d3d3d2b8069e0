"""The Vercel AI SDK, through each of its providers that can speak to the server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from libraries import AFTERTHOUGHT, CITY, GREETING, REST, Said, is_pet, node, said, serving
from server_home import ServerHome

pytestmark = pytest.mark.timeout(600)

SHOWS_THOUGHTS = {"compatible", "anthropic"}
"""OpenAI's own provider shows summaries only, and none in chats."""


@pytest.fixture(scope="module")
def told(
    server: ServerHome, tmp_path_factory: pytest.TempPathFactory, chat_model_path: Path
) -> Iterator[Said]:
    folder = tmp_path_factory.mktemp("vercel")
    with serving(server.attach(), folder, chat_model_path) as setting:
        yield node("vercel_ai", folder, setting)


@pytest.fixture(params=["responses", "chat", "compatible", "anthropic"])
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_text(told: Said, provider: str) -> None:
    generated = said(told, f"{provider}_text")
    assert generated["text"] == GREETING
    assert generated["finishReason"] == "stop"
    assert generated["warnings"] == []


def test_stream(told: Said, provider: str) -> None:
    streamed = said(told, f"{provider}_stream")
    assert streamed["errors"] == []
    assert len(streamed["parts"]) > 1
    assert "".join(streamed["parts"]) == GREETING
    assert streamed["finishReason"] == "stop"
    usage = said(told, f"{provider}_text")["usage"]
    assert streamed["usage"]["inputTokens"] == usage["inputTokens"]


def test_tools(told: Said, provider: str) -> None:
    ran = said(told, f"{provider}_tools")
    assert (ran["text"], ran["cities"], ran["reasons"]) == (REST, [CITY], ["tool-calls", "stop"])
    assert ran.get("thought") == (AFTERTHOUGHT if provider in SHOWS_THOUGHTS else None)


def test_object(told: Said, provider: str) -> None:
    assert is_pet(said(told, f"{provider}_object"))


@pytest.mark.parametrize("embedder", ["openai", "compatible"])
def test_embeddings(told: Said, embedder: str) -> None:
    embedded = said(told, f"{embedder}_embeddings")
    assert [math.isclose(length, 1, abs_tol=1e-4) for length in embedded["lengths"]] == [True, True]
    assert embedded["usage"]["tokens"] > 0
