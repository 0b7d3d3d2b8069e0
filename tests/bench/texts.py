"""What the requests of the benchmark say: prompts of an exact number of tokens, and a schema."""

from __future__ import annotations

import random
from typing import Any

WORDS = [
    "river",
    "stone",
    "cloud",
    "garden",
    "window",
    "paper",
    "silver",
    "morning",
    "engine",
    "harbour",
    "candle",
    "forest",
    "mirror",
    "winter",
    "bridge",
    "orange",
    "pencil",
    "village",
    "thunder",
    "blanket",
    "copper",
    "meadow",
    "signal",
    "desert",
    "lantern",
    "market",
    "summer",
    "letter",
    "mountain",
    "island",
    "doctor",
    "kitchen",
    "table",
    "yellow",
    "circle",
    "animal",
    "street",
    "music",
    "simple",
    "school",
    "captain",
    "travel",
    "record",
    "number",
]
"""Each is one token of SmolLM2's vocabulary, with a space before it."""

SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
ENDLESS: dict[str, Any] = {"logit_bias": {"0": -100, "2": -100}}
"""Forbids SmolLM2's <|endoftext|> and <|im_end|>, so that answers have the length asked for."""


def words(count: int, dice: random.Random) -> str:
    """A text of `count` tokens that shares no prefix with another."""
    return "".join(f" {word}" for word in dice.choices(WORDS, k=count))


def completion(prompt_tokens: int, max_tokens: int, dice: random.Random) -> dict[str, Any]:
    """A body for /v1/completions: a prompt and an answer of exactly these lengths."""
    prompt = {"model": "bench", "prompt": words(prompt_tokens, dice), "max_tokens": max_tokens}
    return prompt | SAMPLING | ENDLESS | {"seed": dice.randrange(1 << 30)}


def chat(
    messages: list[dict[str, str]], max_tokens: int, dice: random.Random, *, endless: bool = True
) -> dict[str, Any]:
    """A body for /v1/chat/completions."""
    body = {"model": "bench", "messages": messages, "max_tokens": max_tokens}
    return body | SAMPLING | (ENDLESS if endless else {}) | {"seed": dice.randrange(1 << 30)}


_RECORD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1, "maximum": 9999},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{2,10} [A-Z][a-z]{2,10}$"},
        "department": {"type": "string", "enum": ["sales", "research", "support", "finance"]},
        "level": {"type": "integer", "minimum": 1, "maximum": 5},
        "hired": {"type": "string", "pattern": "^20[0-2][0-9]-(0[1-9]|1[0-2])-[0-2][1-8]$"},
        "active": {"type": "boolean"},
        "skills": {
            "type": "array",
            "items": {"type": "string", "enum": ["python", "statistics", "design", "writing"]},
            "minItems": 1,
            "maxItems": 3,
        },
    },
    "additionalProperties": False,
}
_RECORD["required"] = list(_RECORD["properties"])
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"employees": {"type": "array", "items": _RECORD, "minItems": 6, "maxItems": 6}},
    "required": ["employees"],
    "additionalProperties": False,
}
"""Six records with patterns, enumerations and bounds."""
