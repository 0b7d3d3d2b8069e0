"""Tool loops through the server: a scripted model calls, gets the results, and answers from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from made_models.scripted import MARKERS, Answer, scripted
from openai.types.chat import ChatCompletion
from server_home import ServerHome

from lmnb.client import Client
from lmnb.engine.options import Segment

MODEL = "made-that-calls"
TEMPLATE = """\
{%- if tools %}{{- '<|turn|>system\n' + (tools | tojson) + '<|end|>\n' }}{% endif %}
{%- for m in messages %}
{{- '<|turn|>' + m.role + '\n' }}
{%- if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}
{{- m.content or '' }}
{%- for c in m.tool_calls %}
{{- '\n<call>\n' + {'name': c.function.name, 'arguments': c.function.arguments} | tojson + '\n</call>' }}
{%- endfor %}
{{- '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|turn|>assistant\n' }}{% endif %}"""
CONTROLS = ("<|turn|>", "<call>", "</call>")

QUESTION = "How is the weather in Zürich and Bern?"
THOUGHT, WORDS = "Two places, two calls.", "I look it up."
ARGUMENTS = [{"place": "Zürich <call>", "days": 3}, {"place": "Bern", "days": 12}]
ANSWER = "It is sunny in both."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["place", "days"],
}


def says(*texts: str) -> list[Segment]:
    return [Segment(text, special=True) for text in texts]


def calls() -> list[Segment]:
    """The two calls; a segment begins wherever the grammar has written a key, and leaves a choice."""
    begin = '\n<call>\n{"name": "weather", "arguments": {"place": "'
    first, second = ARGUMENTS
    return [
        *says(begin),
        Segment(str(first["place"])),
        *says('", "days": ', f"{first['days']}}}}}\n</call>{begin}"),
        Segment(str(second["place"])),
        *says('", "days": ', f"{second['days']}}}}}\n</call>"),
    ]


@pytest.fixture(scope="module")
def loaded(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path = scripted(
        tmp_path_factory.mktemp("calling") / "m.gguf",
        [
            Answer([*says("<think>\n", THOUGHT, "\n</think>\n\n", WORDS), *calls()]),
            Answer(says("<think>\n", "Now I know.", "\n</think>\n\n", ANSWER), MARKERS[0]),
        ],
        template=TEMPLATE,
        controls=CONTROLS,
        end="<|end|>",
        seed=None,
    )
    client = server.attach()
    list(client.load(str(path), identifier=MODEL, context_length=4096))
    yield client
    client.unload(MODEL)


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_chat_completions(loaded: Client, temperature: float) -> None:
    sdk = loaded.openai(max_retries=0)
    function: Any = {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}
    tools: Any = [{"type": "function", "function": function}]
    messages: list[Any] = [{"role": "user", "content": QUESTION}]

    def ask() -> ChatCompletion:
        return sdk.chat.completions.create(
            model=MODEL, messages=messages, tools=tools, temperature=temperature, max_tokens=500
        )

    asked = ask().choices[0]
    assert asked.finish_reason == "tool_calls"
    assert asked.message.content == WORDS
    made: list[Any] = list(asked.message.tool_calls or [])
    assert [json.loads(call.function.arguments) for call in made] == ARGUMENTS
    assert len({call.id for call in made}) == 2
    messages.append(asked.message)
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": f"sun {MARKERS[0]}"} for call in made
    ]
    answered = ask().choices[0]
    assert answered.finish_reason == "stop"
    assert answered.message.content == ANSWER


@pytest.mark.parametrize(("stop", "calls"), [("Zürich", 1), ("Bern", 2)])
def test_a_call_that_a_stop_string_cuts(loaded: Client, stop: str, calls: int) -> None:
    function: Any = {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}
    asked = (
        loaded.openai(max_retries=0)
        .chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            tools=[{"type": "function", "function": function}],
            stop=[stop],
            max_tokens=500,
        )
        .choices[0]
    )
    assert asked.finish_reason == "length"
    assert len(asked.message.tool_calls or []) == calls


def test_chat_completions_streamed(loaded: Client) -> None:
    sdk = loaded.openai(max_retries=0)
    function: Any = {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}
    tools: Any = [{"type": "function", "function": function}]
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    with sdk.chat.completions.stream(
        model=MODEL, messages=messages, tools=tools, max_tokens=500
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds
    made = final.message.tool_calls or []
    assert [json.loads(call.function.arguments) for call in made] == ARGUMENTS
    assert (final.message.content, final.finish_reason) == (WORDS, "tool_calls")


def test_messages(loaded: Client) -> None:
    sdk = loaded.anthropic(max_retries=0)
    tools: Any = [{"name": "weather", "description": "Tells it.", "input_schema": SCHEMA}]
    messages: list[Any] = [{"role": "user", "content": QUESTION}]

    def ask() -> anthropic.types.Message:
        with sdk.messages.stream(
            model=MODEL, max_tokens=500, messages=messages, tools=tools
        ) as stream:
            return stream.get_final_message()

    asked = ask()
    assert asked.stop_reason == "tool_use"
    made = [block for block in asked.content if block.type == "tool_use"]
    assert [block.input for block in made] == ARGUMENTS
    assert [block.text for block in asked.content if block.type == "text"] == [WORDS]
    messages.append({"role": "assistant", "content": asked.content})
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": f"sun {MARKERS[0]}"}
        for block in made
    ]
    messages.append({"role": "user", "content": results})
    answered = ask()
    assert answered.stop_reason == "end_turn"
    assert [block.text for block in answered.content if block.type == "text"] == [ANSWER]
