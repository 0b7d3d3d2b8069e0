"""Many requests over one connection: `Client.answers`, and `Client.identify`."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from server_home import CHAT, EMBEDDING, ENDLESS, wait_for

from lmnb.client import Client
from lmnb.errors import InvalidRequest, ModelNotFound

_PATH = "/v1/chat/completions"
_WORDS: Any = [{"role": "user", "content": "One, two, three,"}]
_ENDLESS = {key: value for key, value in ENDLESS.items() if key != "prompt"} | {"messages": _WORDS}


def active(client: Client) -> int:
    return sum(row["active"] for row in client.ps())


def test_each_request_has_its_answer(client: Client) -> None:
    bodies = [{"model": EMBEDDING, "input": text} for text in ("a", "b", "", "c")]
    found = {one["number"]: one for one in client.answers("/v1/embeddings", bodies)}
    assert {number: one["status"] for number, one in found.items()} == {
        0: 200,
        1: 200,
        2: 400,
        3: 200,
    }
    assert "empty string" in found[2]["body"]["error"]["message"]
    assert len(found[0]["body"]["data"][0]["embedding"]) == 384
    assert list(client.answers("/v1/embeddings", [])) == []


def test_only_what_is_meant_for_tables_can_be_sent(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="path must be one of"):
        list(client.answers("/v1/files", [{}]))
    with pytest.raises(InvalidRequest, match="concurrency"):
        list(client.answers(_PATH, [{}], concurrency=0))


def test_everybody_else_goes_first_and_leaving_ends_all(client: Client) -> None:
    for _ in client.load(CHAT, parallel=2):
        pass
    sdk = client.openai(timeout=60, max_retries=0)
    short = {**_ENDLESS, "max_tokens": 1}
    with closing(client.answers(_PATH, [short, *[_ENDLESS] * 9])) as many:
        assert next(many)["number"] == 0
        wait_for(lambda: active(client) == 4, "two slots and two spare ones to be taken")
        # At the same priority this would wait for thousands of tokens.
        said = sdk.chat.completions.create(model=CHAT, messages=_WORDS, max_tokens=4)
        assert said.usage is not None
        assert active(client) == 4
    wait_for(lambda: active(client) == 0, "the others to end")


def test_no_more_are_under_way_than_wanted(client: Client) -> None:
    short = {**_ENDLESS, "max_tokens": 1}
    with closing(client.answers(_PATH, [short, *[_ENDLESS] * 9], concurrency=1)) as many:
        assert next(many)["number"] == 0
        wait_for(lambda: active(client) == 1, "the next one to be under way")


def test_a_request_that_takes_too_long(client: Client) -> None:
    [one] = client.answers(_PATH, [_ENDLESS], timeout=0.2)
    assert one["status"] == 408
    assert one["body"]["error"]["code"] == "timeout"


def test_a_model_is_known_by_its_file(client: Client, chat_model_path: Path) -> None:
    client.unload(all=True)
    digest = hashlib.sha256(chat_model_path.read_bytes()).hexdigest()
    found = client.identify(CHAT.upper())
    assert found == {"key": CHAT, "kind": "llm", "digest": digest, "endpoint": None, "options": {}}
    for _ in client.load(CHAT, identifier="mine", flash_attention=True, cache_type_k="q8_0"):
        pass
    assert client.identify("mine") == {**found, "options": {"cache_type_k": "q8_0"}}
    client.unload("mine")
    with pytest.raises(ModelNotFound):
        client.identify("nobody/has-this")
