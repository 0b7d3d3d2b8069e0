"""The same conversation gives the same prompt and the same answer through every protocol."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
import pytest
from server_home import CHAT

from lmnb.client import Client

SYSTEM = "You are brief."
TOLD = "The harbour of Ulm closes at nine."
SCHEMA: Any = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
CALL = {"place": "Ulm"}
MOST = 12


class Answer(NamedTuple):
    prompt_tokens: int
    text: str


def claude(client: Client, system: str, messages: Any, **more: Any) -> Answer:
    sdk: anthropic.Anthropic = client.anthropic(_strict_response_validation=True, max_retries=0)
    message = sdk.messages.create(
        model=CHAT,
        max_tokens=MOST,
        system=system,
        messages=messages,
        extra_body={"temperature": 0},
        **more,
    )
    [block] = message.content
    assert block.type == "text"
    usage = message.usage
    read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    counted = sdk.messages.count_tokens(model=CHAT, system=system, messages=messages, **more)
    assert counted.input_tokens == usage.input_tokens + (read or 0) + (written or 0)
    return Answer(counted.input_tokens, block.text)


def chat(client: Client, messages: Any, **more: Any) -> Answer:
    sdk: openai.OpenAI = client.openai(_strict_response_validation=True, max_retries=0)
    done = sdk.chat.completions.create(
        model=CHAT, max_tokens=MOST, messages=messages, temperature=0, **more
    )
    assert done.usage is not None
    return Answer(done.usage.prompt_tokens, done.choices[0].message.content or "")


def responses(client: Client, items: Any, **more: Any) -> Answer:
    sdk: openai.OpenAI = client.openai(_strict_response_validation=True, max_retries=0)
    done = sdk.responses.create(
        model=CHAT, max_output_tokens=MOST, instructions=SYSTEM, input=items, temperature=0, **more
    )
    assert done.usage is not None
    return Answer(done.usage.input_tokens, done.output_text)


def native(client: Client, **body: Any) -> Any:
    transport = httpx2.HTTPTransport(uds=client.socket)
    whole = {"model": CHAT, "temperature": 0, "max_output_tokens": MOST, **body}
    with httpx2.Client(transport=transport, base_url="http://local", timeout=60) as http:
        return http.post("/api/v1/chat", json=whole).json()


def test_several_turns(client: Client) -> None:
    """The native chat knows no messages of the assistant but those that it has stored."""
    first = native(client, system_prompt=SYSTEM, input="Name three colours.")
    said = first["output"][0]["content"]
    second = native(client, input="And one more?", previous_response_id=first["response_id"])
    wanted = Answer(second["stats"]["input_tokens"], second["output"][0]["content"])
    turns: Any = [
        {"role": "user", "content": "Name three colours."},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "And one more?"},
    ]
    assert wanted.text
    assert claude(client, SYSTEM, turns) == wanted
    assert chat(client, [{"role": "system", "content": SYSTEM}, *turns]) == wanted
    assert responses(client, turns) == wanted


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_and_a_result(client: Client, choice: str) -> None:
    description = "Tells when a harbour closes."
    arguments = json.dumps(CALL)
    one = claude(
        client,
        SYSTEM,
        [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "When does it close?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "call_1", "name": "hours", "input": CALL},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": TOLD},
                    {"type": "text", "text": "Well?"},
                ],
            },
        ],
        tools=[{"name": "hours", "description": description, "input_schema": SCHEMA}],
        tool_choice={"type": choice},
    )
    function = {"name": "hours", "description": description, "parameters": SCHEMA}
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "hours", "arguments": arguments},
    }
    two = chat(
        client,
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "When does it close?"},
            {"role": "assistant", "content": "I look.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": TOLD},
            {"role": "user", "content": "Well?"},
        ],
        tools=[{"type": "function", "function": function}],
        tool_choice=choice,
    )
    called = {"call_id": "call_1", "name": "hours", "arguments": arguments}
    three = responses(
        client,
        [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "When does it close?"},
            {"role": "assistant", "content": "I look."},
            {"type": "function_call", **called},
            {"type": "function_call_output", "call_id": "call_1", "output": TOLD},
            {"role": "user", "content": "Well?"},
        ],
        tools=[{"type": "function", "strict": False, **function}],
        tool_choice=choice,
    )
    assert one.text
    assert one == two == three
