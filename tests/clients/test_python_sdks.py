"""The helpers of the official SDKs for Python, with strict validation: parsers, runners, threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai
import pytest
from anthropic import beta_tool
from libraries import AFTERTHOUGHT, CITY, REST, THOUGHT, Setting, serving
from openai.lib.responses_tool_runner import RegisteredFunction, ResponsesToolRunner
from pydantic import BaseModel
from server_home import ServerHome


class Pet(BaseModel):
    """A pet, by which the small model is bound."""

    kind: Literal["cat", "dog", "hen"]
    tame: bool


class City(BaseModel):
    """Tells the weather of a city."""

    city: str


@pytest.fixture(scope="module")
def setting(
    server: ServerHome, tmp_path_factory: pytest.TempPathFactory, chat_model_path: Path
) -> Iterator[Setting]:
    with serving(server.attach(), tmp_path_factory.mktemp("sdks"), chat_model_path) as found:
        yield found


@pytest.fixture
def gpt(setting: Setting) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{setting.url}/v1",
        api_key="none",
        max_retries=0,
        _strict_response_validation=True,
    ) as sdk:
        yield sdk


@pytest.fixture
def claude(setting: Setting) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=setting.url, api_key="none", max_retries=0, _strict_response_validation=True
    ) as sdk:
        yield sdk


def user(words: str) -> Any:
    return [{"role": "user", "content": words}]


# --- OpenAI -----------------------------------------------------------------------------


def test_a_streamed_chat_is_parsed(gpt: openai.OpenAI, setting: Setting) -> None:
    with gpt.chat.completions.stream(
        model=setting.small, messages=user("A pet."), max_tokens=60, response_format=Pet
    ) as stream:
        kinds = [event.type for event in stream]
        [choice] = stream.get_final_completion().choices
    assert isinstance(choice.message.parsed, Pet)
    assert kinds.count("content.done") == 1


def test_streamed_calls_of_a_chat_are_parsed(gpt: openai.OpenAI, setting: Setting) -> None:
    tools = [openai.pydantic_function_tool(City, name="weather")]
    with gpt.chat.completions.stream(
        model=setting.scripted, messages=user(setting.ask), tools=tools
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        [choice] = stream.get_final_completion().choices
    [call] = choice.message.tool_calls or []
    assert call.function.parsed_arguments == City(city=CITY)
    assert [event.parsed_arguments for event in done] == [City(city=CITY)]


def test_calls_of_a_response_are_parsed(gpt: openai.OpenAI, setting: Setting) -> None:
    tools: Any = [openai.pydantic_function_tool(City, name="weather")]
    flat: Any = [{"type": "function", **tools[0]["function"]}]
    whole = gpt.responses.parse(model=setting.scripted, input=setting.ask, tools=tools)
    with gpt.responses.stream(model=setting.scripted, input=setting.ask, tools=tools) as stream:
        streamed = stream.get_final_response()
    plain = gpt.responses.create(model=setting.scripted, input=setting.ask, tools=flat)
    for response in (whole, streamed):
        *_, call = response.output
        assert call.type == "function_call"
        assert call.parsed_arguments == City(city=CITY)
    kinds = [[item.type for item in found.output] for found in (whole, streamed, plain)]
    assert kinds[0] == kinds[1] == kinds[2] == ["reasoning", "message", "function_call"]


@pytest.mark.parametrize("streamed", [False, True])
def test_the_runner_of_responses(gpt: openai.OpenAI, setting: Setting, *, streamed: bool) -> None:
    asked: list[str] = []

    def weather(given: dict[str, Any]) -> str:
        asked.append(given["city"])
        return setting.weather

    tool: Any = {
        "type": "function",
        "name": "weather",
        "description": "Tells it.",
        "parameters": {**City.model_json_schema(), "additionalProperties": False},
        "strict": True,
    }
    runner = ResponsesToolRunner(functions=[RegisteredFunction(tool, weather)])
    final = runner.run(
        gpt, {"model": setting.scripted, "input": setting.ask, "store": False}, stream=streamed
    )
    assert asked == [CITY]
    assert final.output_text == REST


# --- Anthropic --------------------------------------------------------------------------


def test_messages_are_parsed(claude: anthropic.Anthropic, setting: Setting) -> None:
    ask: Any = {
        "model": setting.small,
        "max_tokens": 60,
        "messages": user("A pet."),
        "output_format": Pet,
    }
    for found in (claude.messages.parse(**ask), claude.beta.messages.parse(**ask)):
        assert isinstance(found.parsed_output, Pet)
    with claude.messages.stream(**ask) as stream:
        assert isinstance(stream.get_final_message().parsed_output, Pet)


def texts(message: Any) -> list[str]:
    return [block.text for block in message.content if block.type == "text"]


def thoughts(message: Any) -> list[str]:
    return [block.thinking for block in message.content if block.type == "thinking"]


def prompt_tokens(message: Any) -> int:
    usage = message.usage
    return int(usage.input_tokens + usage.cache_read_input_tokens)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_runner_of_messages(
    claude: anthropic.Anthropic, setting: Setting, *, streamed: bool
) -> None:
    asked: list[str] = []

    @beta_tool
    def weather(city: str) -> str:
        """Tells the weather of a city."""
        asked.append(city)
        return setting.weather

    ask: Any = {
        "model": setting.scripted,
        "max_tokens": 500,
        "messages": user(setting.ask),
        "tools": [weather],
    }
    runner: Any = claude.beta.messages.tool_runner(**ask, stream=streamed)
    turns = [turn.get_final_message() if streamed else turn for turn in runner]
    first, final = turns
    assert asked == [CITY]
    assert thoughts(first) == [THOUGHT]
    assert (thoughts(final), texts(final)) == ([AFTERTHOUGHT], [REST])
    assert prompt_tokens(final) > prompt_tokens(first), "the whole conversation is sent again"


def test_threads_are_refused(claude: anthropic.Anthropic, setting: Setting) -> None:
    """In the words by which the SDK knows how to go on: it sends the whole conversation."""
    ask: Any = {"model": setting.scripted, "max_tokens": 99}
    with pytest.raises(anthropic.BadRequestError, match="whole conversation") as raised:
        claude.beta.messages.thread(**ask).send({"role": "user", "content": setting.greet})
    body: Any = raised.value.body
    assert body["error"]["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": [],
    }
    thread = claude.beta.messages.thread(**ask, unsupported_request_behavior="continue_unthreaded")
    first = thread.send({"role": "user", "content": setting.greet})
    second = thread.send({"role": "user", "content": "Again."})
    assert prompt_tokens(second) > prompt_tokens(first)
