"""LlamaIndex: its classes for servers that are like OpenAI's."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from steps import DESCRIBE, Pet, asked, setting, tell, weather

SERVER = {"api_base": f"{setting.url}/v1", "api_key": "none", "max_retries": 0}


def model(name: str, **options: Any) -> Any:
    return OpenAILike(
        model=name, is_chat_model=True, is_function_calling_model=True, context_window=8192,
        **SERVER, **options,
    )  # fmt: skip


def greeting() -> list[Any]:
    return [ChatMessage(role="user", content=setting.greet)]


def text() -> Any:
    return model(setting.scripted).chat(greeting()).message.content


def stream() -> Any:
    chunks = model(setting.scripted).stream_chat(greeting())
    return [chunk.delta for chunk in chunks if chunk.delta]


def tools() -> Any:
    async def run() -> Any:
        agent = FunctionAgent(tools=[weather], llm=model(setting.scripted))
        return await agent.run(setting.ask)

    answer = asyncio.run(run())
    return {"text": answer.response.content, "cities": asked()}


def structured(**options: Any) -> Any:
    bound = model(setting.small, **options).as_structured_llm(Pet)
    return bound.complete(DESCRIBE).raw.model_dump()


def embeddings() -> Any:
    embedder = OpenAILikeEmbedding(model_name=setting.embedder, **SERVER)
    return embedder.get_text_embedding_batch(["A cat.", "A tax."])


tell(
    {
        "chat_text": text,
        "chat_stream": stream,
        "chat_tools": tools,
        "chat_function_calling": structured,
        "chat_json_schema": lambda: structured(should_use_structured_outputs=True),
        "embeddings": embeddings,
    }
)
