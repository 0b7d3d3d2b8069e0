"""Bounds on thinking through the protocols: a model that thinks for long, and the SDKs, strictly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from made_models.scripted import Answer, scripted
from server_home import ServerHome

from lmnb.client import Client
from lmnb.engine.options import Segment

MODEL = "scripted-thinker"
TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content or "" }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if begun %}<think>
{% endif %}{% endif %}"""
"""Without a switch for thinking, and without tools."""
THOUGHT = "I look at it again and again, and once more. " * 8
WORDS = "It rains."
ASK: Any = {"model": MODEL, "messages": [{"role": "user", "content": "How is the weather?"}]}
MARKS = len("<think>\n</think>")
"""Tokens around the thought that count as reasoning, at most: what the engine writes is in bytes."""


@pytest.fixture(scope="module")
def loaded(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path = scripted(
        tmp_path_factory.mktemp("scripted") / "thinker.gguf",
        [Answer([Segment(f"<think>\n{THOUGHT}\n</think>"), Segment(f"\n\n{WORDS}")])],
        template=TEMPLATE,
        controls=("<|im_start|>",),
        end="<|im_end|>",
    )
    client = server.attach()
    list(client.load(str(path), identifier=MODEL))
    yield client
    client.unload(MODEL)


@pytest.fixture
def gpt(loaded: Client) -> openai.OpenAI:
    return loaded.openai(_strict_response_validation=True, max_retries=0)


@pytest.fixture
def claude(loaded: Client) -> anthropic.Anthropic:
    return loaded.anthropic(_strict_response_validation=True, max_retries=0)


def completion(gpt: openai.OpenAI, **body: Any) -> tuple[str, str, int]:
    """Thought, words and reasoning tokens of an answer."""
    found = gpt.chat.completions.create(**ASK, extra_body=body)
    message: Any = found.choices[0].message
    assert found.usage is not None
    assert found.usage.completion_tokens_details is not None
    reasoning = found.usage.completion_tokens_details.reasoning_tokens
    assert reasoning is not None
    return getattr(message, "reasoning_content", None) or "", message.content or "", reasoning


def test_without_a_bound_it_thinks_to_the_end(gpt: openai.OpenAI) -> None:
    thought, words, reasoning = completion(gpt)
    assert (thought, words) == (THOUGHT.strip(), WORDS)
    for unlimited in ({"thinking_budget_tokens": -1}, {"thinking_budget_tokens": 2**70}):
        assert completion(gpt, **unlimited) == (thought, words, reasoning)
    assert reasoning > 40


@pytest.mark.parametrize(
    "body",
    [
        {"reasoning": {"max_tokens": 9}},
        {"thinking": {"type": "enabled", "budget_tokens": 9}},
        {"reasoning_budget_tokens": 9},
        {"thinking_budget_tokens": 9},
        {"thinking_token_budget": 9},
        {"thinking_budget": 9},
    ],
)
def test_every_name_of_a_bound(gpt: openai.OpenAI, body: dict[str, Any]) -> None:
    thought, words, reasoning = completion(gpt, **body)
    assert words == WORDS
    assert THOUGHT.startswith(thought)
    assert 0 < len(thought) < len(THOUGHT) / 2
    assert 9 <= reasoning <= 9 + MARKS


@pytest.mark.parametrize(
    "body",
    [
        {"thinking_budget_tokens": 0},
        {"reasoning_effort": "none"},
        {"thinking": {"type": "disabled"}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_unwanted_thinking_ends_where_it_begins(gpt: openai.OpenAI, body: dict[str, Any]) -> None:
    """The template has no switch."""
    thought, words, reasoning = completion(gpt, **body)
    assert words == WORDS
    assert len(thought) < 20  # the model's first token has a beginning of the thought in it
    assert reasoning <= MARKS


@pytest.mark.parametrize("streamed", [False, True])
def test_messages(claude: anthropic.Anthropic, *, streamed: bool) -> None:
    ask: Any = ASK | {
        "max_tokens": 500,
        "thinking": {"type": "enabled", "budget_tokens": 9},
    }
    if streamed:
        with claude.messages.stream(**ask) as stream:
            found = stream.get_final_message()
    else:
        found = claude.messages.create(**ask)
    thought, words = found.content
    assert thought.type == "thinking"
    assert words.type == "text"
    assert THOUGHT.startswith(thought.thinking)
    assert len(thought.thinking) < len(THOUGHT) / 2
    assert words.text == WORDS
    assert found.stop_reason == "end_turn"


def test_responses(gpt: openai.OpenAI) -> None:
    body = {"reasoning": {"max_tokens": 9}}
    with gpt.responses.stream(model=MODEL, input="How?", extra_body=body) as stream:
        found = stream.get_final_response()
    assert found.output_text == WORDS
    assert found.usage is not None
    assert 9 <= found.usage.output_tokens_details.reasoning_tokens <= 9 + MARKS


BEGUN = {"thinking_budget_tokens": 9, "chat_template_kwargs": {"begun": True}}
"""In a prompt that begins the thinking, which the scripted model begins once more."""


def is_short(thought: str) -> bool:
    return f"<think>\n{THOUGHT}".startswith(thought) and 9 < len(thought) < len(THOUGHT) / 2


def test_a_format_begins_after_the_bound(gpt: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"const": 1}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    thought, words, _ = completion(gpt, **BEGUN, response_format=form)
    assert json.loads(words) == {"a": 1}
    assert is_short(thought)


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_after_the_bound(gpt: openai.OpenAI, choice: Any) -> None:
    tool: Any = {"type": "function", "function": {"name": "look"}}
    found = gpt.chat.completions.create(
        **ASK, tools=[tool], tool_choice=choice, parallel_tool_calls=False, extra_body=BEGUN
    )
    message: Any = found.choices[0].message
    assert is_short(message.reasoning_content)
    if choice == "required":
        assert [call.function.name for call in message.tool_calls] == ["look"]
    else:
        assert message.content == WORDS


@pytest.mark.parametrize("body", [{"thinking_budget_tokens": "x"}, {"thinking_budget": 1.5}])
def test_bounds_are_whole_numbers(gpt: openai.OpenAI, body: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        completion(gpt, **body)
    assert raised.value.param == next(iter(body))


def test_each_of_several_answers_has_its_own_bound(gpt: openai.OpenAI) -> None:
    """Tokens are counted for each, not for all of them together."""
    whole, words, most = completion(gpt)
    for tokens in (9, 20):
        found = gpt.chat.completions.create(
            **ASK, n=3, extra_body={"thinking_budget_tokens": tokens}
        )
        thoughts = {getattr(choice.message, "reasoning_content", "") for choice in found.choices}
        assert [choice.message.content for choice in found.choices] == [words] * 3
        (thought,) = thoughts
        assert whole.startswith(thought)
        assert found.usage is not None
        assert found.usage.completion_tokens_details is not None
        reasoning = found.usage.completion_tokens_details.reasoning_tokens
        assert reasoning is not None
        assert 3 * tokens <= reasoning <= 3 * (tokens + MARKS) < 3 * most


@pytest.fixture(scope="module")
def refusing(loaded: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model that says no instead of calling, and begins to in the token that ends its thinking."""
    name = "scripted-refuser"
    path = scripted(
        tmp_path_factory.mktemp("scripted") / "refuser.gguf",
        [Answer([Segment(f"{THOUGHT}\n</think>\n\nI would rather not.")])],
        template=TEMPLATE.replace("if begun", "if true"),
        controls=("<|im_start|>",),
        end="<|im_end|>",
        seed=1,
    )
    list(loaded.load(str(path), identifier=name))
    yield name
    loaded.unload(name)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_forced_call_follows_at_once(
    claude: anthropic.Anthropic, refusing: str, *, streamed: bool
) -> None:
    tool = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
    ask: Any = ASK | {"model": refusing, "max_tokens": 500, "tools": [tool]}
    ask["tool_choice"] = {"type": "any", "disable_parallel_tool_use": True}
    if streamed:
        with claude.messages.stream(**ask) as stream:
            found = stream.get_final_message()
    else:
        found = claude.messages.create(**ask)
    thought, call = found.content
    assert thought.type == "thinking"
    assert thought.thinking.strip() == THOUGHT.strip()
    assert call.type == "tool_use"
    assert call.name == "look"


def test_forced_calls_of_several_answers(gpt: openai.OpenAI, refusing: str) -> None:
    tool: Any = {"type": "function", "function": {"name": "look"}}
    ask: Any = ASK | {"model": refusing, "n": 3, "tools": [tool], "tool_choice": "required"}
    found = gpt.chat.completions.create(**ask, parallel_tool_calls=False)
    for choice in found.choices:
        message: Any = choice.message
        assert message.reasoning_content.strip() == THOUGHT.strip()
        assert [call.function.name for call in message.tool_calls] == ["look"]
