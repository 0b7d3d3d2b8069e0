"""A scripted model that tells a story for each marker, and the protocols to ask it in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from made_models.scripted import MARKERS, Answer, scripted

MODEL = "maker/teller"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STORIES = {
    marker: f"Story {n}: " + " ".join(f"part {n}.{part}" for part in range(12))
    for n, marker in enumerate(MARKERS)
}
"""What the scripted model tells about each marker: nothing that any other answer begins with."""


def write_model(folder: Path) -> Path:
    answers = [Answer(text, marker) for marker, text in STORIES.items()]
    controls = ("<|im_start|>",)
    return scripted(
        folder / "teller-F32.gguf", answers, template=TEMPLATE, controls=controls, end="<|im_end|>"
    )


# --- the ways to ask ------------------------------------------------------------------


class Way(NamedTuple):
    """A protocol: where and how a prompt is sent, and the text in an event of its answer."""

    path: str
    body: Callable[[str], dict[str, Any]]
    text: Callable[[Any], str]


def _chat_text(event: Any) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


WAYS = (
    Way(
        "/v1/chat/completions", lambda p: {"messages": [{"role": "user", "content": p}]}, _chat_text
    ),
    Way(
        "/v1/completions",
        lambda p: {"prompt": p},
        lambda event: "".join(choice["text"] for choice in event["choices"]),
    ),
    Way(
        "/v1/responses",
        lambda p: {"input": p, "store": False},
        lambda event: event["delta"] if event["type"] == "response.output_text.delta" else "",
    ),
    Way(
        "/v1/messages",
        lambda p: {"messages": [{"role": "user", "content": p}], "max_tokens": 1000},
        lambda event: event["delta"]["text"] if event["type"] == "content_block_delta" else "",
    ),
)


async def told(response: httpx2.Response) -> AsyncIterator[Any]:
    """The events of a stream, none of which may be an error."""
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            assert "error" not in event or event["error"] is None, event
            yield event
