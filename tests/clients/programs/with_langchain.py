"""LangChain: OpenAI's chats and responses, Anthropic's messages, embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from steps import ANTHROPIC, DESCRIBE, OPENAI, Pet, asked, setting, tell, weather

Model = Callable[[str], Any]
MODELS: dict[str, Model] = {
    "chat": lambda name: ChatOpenAI(model=name, max_retries=0, **OPENAI),
    "responses": lambda name: ChatOpenAI(
        model=name, max_retries=0, use_responses_api=True, **OPENAI
    ),
    "anthropic": lambda name: ChatAnthropic(model=name, max_retries=0, max_tokens=500, **ANTHROPIC),
}
TEXTS = ["A cat.", "A tax."]


def text(model: Model) -> Any:
    return model(setting.scripted).invoke(setting.greet).text


def stream(model: Model) -> Any:
    return [chunk.text for chunk in model(setting.scripted).stream(setting.greet) if chunk.text]


def tools(model: Model) -> Any:
    run = tool(weather)
    bound = model(setting.scripted).bind_tools([run])
    messages: list[Any] = [HumanMessage(setting.ask)]
    messages.append(bound.invoke(messages))
    messages += [run.invoke(call) for call in messages[-1].tool_calls]
    return {"text": bound.invoke(messages).text, "cities": asked()}


def structured(model: Model, method: str) -> Any:
    bound = model(setting.small).with_structured_output(Pet, method=method)
    return bound.invoke(DESCRIBE).model_dump()


def embeddings(**options: Any) -> Any:
    embedder = OpenAIEmbeddings(model=setting.embedder, max_retries=0, **OPENAI, **options)
    return embedder.embed_documents(TEXTS)


tell(
    {
        f"{name}_{step.__name__}": partial(step, model)
        for name, model in MODELS.items()
        for step in (text, stream, tools)
    }
    | {
        f"{name}_{method}": partial(structured, model, method)
        for name, model in MODELS.items()
        for method in ("json_schema", "function_calling")
    }
    | {
        "embeddings": partial(embeddings, check_embedding_ctx_length=False),
        "embeddings_of_tokens": embeddings,
    }
)
