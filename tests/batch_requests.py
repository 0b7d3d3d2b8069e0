"""What tests of batches have in common: requests, uploads, waiting for the end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import openai
from openai.types import Batch
from server_home import CHAT, ENDLESS, wait_for

CHATS: Any = "/v1/chat/completions"
COMPLETIONS: Any = "/v1/completions"
OPEN = {"validating", "in_progress", "finalizing", "cancelling"}


def chat(words: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": words}]
    return {"model": CHAT, "messages": messages, "max_tokens": 6, "temperature": 0, **more}


def line(custom_id: str, body: Any, url: str = CHATS, **more: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more}


def endless(count: int) -> list[dict[str, Any]]:
    """Requests that do not end by themselves while a test runs."""
    return [line(f"endless-{n}", ENDLESS, COMPLETIONS) for n in range(count)]


def jsonl(lines: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def start(sdk: openai.OpenAI, lines: Iterable[Any], endpoint: Any = CHATS, **more: Any) -> Batch:
    file = sdk.files.create(file=("requests.jsonl", jsonl(lines)), purpose="batch")
    return sdk.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
    )


def ended(sdk: openai.OpenAI, id_: str) -> Batch:
    wait_for(lambda: sdk.batches.retrieve(id_).status not in OPEN, "the batch to end")
    return sdk.batches.retrieve(id_)


def content(sdk: openai.OpenAI, id_: str | None) -> list[dict[str, Any]]:
    """The lines of a file."""
    assert id_ is not None
    return [json.loads(one) for one in sdk.files.content(id_).text.splitlines()]
