"""LiteLLM: its prefixes for LM Studio, OpenAI and Anthropic."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import litellm
from steps import ANTHROPIC, DESCRIBE, OPENAI, Pet, asked, setting, tell, weather

PREFIXES = {"lm_studio": OPENAI, "openai": OPENAI, "anthropic": ANTHROPIC}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def complete(prefix: str, model: str, messages: list[Any], **options: Any) -> Any:
    return litellm.completion(
        model=f"{prefix}/{model}", messages=messages, num_retries=0, max_tokens=500,
        **PREFIXES[prefix], **options,
    )  # fmt: skip


def user(words: str) -> list[Any]:
    return [{"role": "user", "content": words}]


def text(prefix: str) -> Any:
    answer = complete(prefix, setting.scripted, user(setting.greet))
    return answer.choices[0].message.content


def stream(prefix: str) -> Any:
    chunks = complete(prefix, setting.scripted, user(setting.greet), stream=True)
    parts = [chunk.choices[0].delta.content for chunk in chunks]
    return [part for part in parts if part]


def tools(prefix: str) -> Any:
    messages = user(setting.ask)
    said = complete(prefix, setting.scripted, messages, tools=[WEATHER]).choices[0].message
    messages.append(said)
    for call in said.tool_calls:
        result = weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = complete(prefix, setting.scripted, messages, tools=[WEATHER])
    return {"text": answer.choices[0].message.content, "cities": asked()}


def structured(prefix: str) -> Any:
    answer = complete(prefix, setting.small, user(DESCRIBE), response_format=Pet)
    return Pet.model_validate_json(answer.choices[0].message.content).model_dump()


def embeddings(prefix: str) -> Any:
    texts = ["A cat.", "A tax."]
    answer = litellm.embedding(
        model=f"{prefix}/{setting.embedder}",
        input=texts,
        api_base=OPENAI["base_url"],
        api_key="none",
    )
    return [row["embedding"] for row in answer.data]


tell(
    {
        f"{prefix}_{step.__name__}": partial(step, prefix)
        for prefix in PREFIXES
        for step in (text, stream, tools)
    }
    | {f"{prefix}_json_schema": partial(structured, prefix) for prefix in PREFIXES}
    | {f"{prefix}_embeddings": partial(embeddings, prefix) for prefix in ("lm_studio", "openai")}
)
