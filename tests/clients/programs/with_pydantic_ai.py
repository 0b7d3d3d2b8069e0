"""pydantic-ai: OpenAI's chats and responses, Anthropic's messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from steps import ANTHROPIC, DESCRIBE, OPENAI, Pet, asked, setting, tell, weather

Model = Callable[[str], Any]
MODELS: dict[str, Model] = {
    "chat": lambda name: OpenAIChatModel(name, provider=OpenAIProvider(**OPENAI)),
    "responses": lambda name: OpenAIResponsesModel(name, provider=OpenAIProvider(**OPENAI)),
    "anthropic": lambda name: AnthropicModel(name, provider=AnthropicProvider(**ANTHROPIC)),
}


def agent(model: Model, name: str, **options: Any) -> Any:
    return Agent(model(name), retries=0, **options)


def text(model: Model) -> Any:
    return agent(model, setting.scripted).run_sync(setting.greet).output


def stream(model: Model) -> Any:
    async def run() -> Any:
        async with agent(model, setting.scripted).run_stream(setting.greet) as streamed:
            return [part async for part in streamed.stream_text(delta=True, debounce_by=None)]

    return asyncio.run(run())


def tools(model: Model) -> Any:
    ran = agent(model, setting.scripted, tools=[weather]).run_sync(setting.ask)
    return {"text": ran.output, "cities": asked()}


def structured(model: Model, output: Any) -> Any:
    once = {
        "parallel_tool_calls": False
    }  # where the small model is made to call, it goes on calling
    bound = agent(model, setting.small, output_type=output(Pet), model_settings=once)
    return bound.run_sync(DESCRIBE).output.model_dump()


tell(
    {
        f"{name}_{step.__name__}": partial(step, model)
        for name, model in MODELS.items()
        for step in (text, stream, tools)
    }
    | {
        f"{name}_{kind}": partial(structured, model, output)
        for name, model in MODELS.items()
        for kind, output in {"json_schema": NativeOutput, "function_calling": ToolOutput}.items()
        # It believes that models it does not know have no such output of Anthropic's.
        if (name, kind) != ("anthropic", "json_schema")
    }
)
