"""Tools and thinking through every protocol: real server and engine, the SDKs, strictly.

One model plays back a thought, a call and, once it sees the result, an answer; the other, which is
small and real, is made to call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import lark
import openai
import pytest
from made_models.scripted import MARKERS, Answer, scripted
from pydantic import BaseModel
from server_home import ServerHome

from lmnb.client import Client

SCRIPTED = "scripted-caller"
REAL = "smollm2-135m-instruct"

TEMPLATE = """\
{%- if tools %}<|im_start|>system
Tools: <tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role == "assistant" %}<|im_start|>assistant
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content or "" }}{% for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Qwen's way of writing, in short."""

THOUGHT = "Somebody wants to know. I look."
WORDS = "One moment."
ARGUMENTS = {"city": 'Ulm "☂"', "days": [1, 2]}
CALL = json.dumps({"name": "weather", "arguments": ARGUMENTS}, ensure_ascii=False)
"""Once a call has begun, the grammar writes what leaves no choice, in tokens that are not those of
the script. So all of it is left to the grammar: the schema allows these arguments only."""
RESULT = f"{MARKERS[0]} rain"
ANSWERS = (
    Answer(f"<think>\n{THOUGHT}\n</think>\n\n{WORDS}\n<tool_call>\n{CALL}\n</tool_call>"),
    Answer("<think>\nNow I know.\n</think>\n\nIt rains.", MARKERS[0]),
)
QUESTION = "How is the weather?"
USER: Any = [{"role": "user", "content": QUESTION}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"const": ARGUMENTS["city"]}, "days": {"const": ARGUMENTS["days"]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FUNCTION: Any = {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}
CHAT_TOOLS: Any = [{"type": "function", "function": FUNCTION}]
FLAT_TOOLS: Any = [{"type": "function", **FUNCTION}]
CLAUDE_TOOLS: Any = [{"name": "weather", "description": "Tells it.", "input_schema": SCHEMA}]


@pytest.fixture(scope="module")
def loaded(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path = scripted(
        tmp_path_factory.mktemp("scripted") / "caller.gguf",
        ANSWERS,
        template=TEMPLATE,
        controls=("<|im_start|>",),
        end="<|im_end|>",
    )
    client = server.attach()
    list(client.load(str(path), identifier=SCRIPTED))
    yield client
    client.unload(SCRIPTED)


@pytest.fixture
def gpt(loaded: Client) -> openai.OpenAI:
    return loaded.openai(_strict_response_validation=True, max_retries=0)


@pytest.fixture
def claude(loaded: Client) -> anthropic.Anthropic:
    return loaded.anthropic(_strict_response_validation=True, max_retries=0)


# --- a whole turn: thought, call, result, answer ----------------------------------------


def chat(gpt: openai.OpenAI, messages: Any, *, streamed: bool) -> Any:
    ask: Any = {
        "model": SCRIPTED,
        "messages": messages,
        "tools": CHAT_TOOLS,
        "parallel_tool_calls": False,
    }
    if not streamed:
        return gpt.chat.completions.create(**ask)
    with gpt.chat.completions.stream(**ask, stream_options={"include_usage": True}) as stream:
        return stream.get_final_completion()


@pytest.mark.parametrize("streamed", [False, True])
def test_chat_completions(gpt: openai.OpenAI, *, streamed: bool) -> None:
    first = chat(gpt, USER, streamed=streamed)
    [choice] = first.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == WORDS
    assert choice.message.reasoning_content == THOUGHT
    [call] = choice.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == ARGUMENTS
    assert first.usage.completion_tokens_details.reasoning_tokens > 0
    said = choice.message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": call.id, "content": RESULT}
    [choice] = chat(gpt, [*USER, said, result], streamed=streamed).choices
    assert (choice.finish_reason, choice.message.content) == ("stop", "It rains.")
    assert choice.message.reasoning_content == "Now I know."
    assert choice.message.tool_calls is None


def response(gpt: openai.OpenAI, *, streamed: bool, **ask: Any) -> Any:
    ask = {"model": SCRIPTED, "tools": FLAT_TOOLS, "parallel_tool_calls": False} | ask
    if not streamed:
        return gpt.responses.create(**ask)
    with gpt.responses.stream(**ask) as stream:
        return stream.get_final_response()


@pytest.mark.parametrize("streamed", [False, True])
def test_responses(gpt: openai.OpenAI, *, streamed: bool) -> None:
    """The stored answer has the call, so that its result is all that is to be sent."""
    first = response(gpt, streamed=streamed, input=QUESTION)
    thought, words, call = first.output
    assert [part.text for part in thought.content] == [THOUGHT]
    assert words.content[0].text == WORDS
    assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
    assert json.loads(call.arguments) == ARGUMENTS
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}
    second = response(gpt, streamed=streamed, input=[result], previous_response_id=first.id)
    assert second.output_text == "It rains."
    sent = [{"role": "user", "content": QUESTION}, *first.output, result]
    items = [item if isinstance(item, dict) else item.model_dump() for item in sent]
    again = response(gpt, streamed=streamed, input=items, store=False)
    assert again.output_text == "It rains."
    assert again.usage.input_tokens == second.usage.input_tokens


def test_custom_tools_of_responses(gpt: openai.OpenAI) -> None:
    form: Any = {"type": "grammar", "syntax": "regex", "definition": "a\\+b"}
    tools: Any = [{"type": "custom", "name": "weather", "description": "Tells it.", "format": form}]
    items = response(gpt, streamed=True, input=QUESTION, tools=tools, store=False).output
    call = items[-1]
    assert (call.type, call.name, call.input) == ("custom_tool_call", "weather", "a+b")
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": RESULT}
    sent = [*USER, *(item.model_dump() for item in items), result]
    assert response(gpt, streamed=False, input=sent, tools=tools).output_text == "It rains."


STEPS = """\
start: step step?
step: VERB " \\"" NAME "\\"" LF
VERB: "open" | "close"
NAME: /[a-z\\\\\\t]{1,12}/
%import common.LF
"""
STEPS_FORM: Any = {"type": "grammar", "syntax": "lark", "definition": STEPS}
"""Whatever of this is written in JSON has escapes in it."""


def custom_tool(form: Any) -> Any:
    return [{"type": "custom", "name": "weather", "description": "Tells it.", "format": form}]


@pytest.mark.parametrize("streamed", [False, True])
def test_lark_grammars_bind_the_input_of_custom_tools(gpt: openai.OpenAI, streamed: bool) -> None:
    """The real model, made to call; the scripted one, when it wants to."""
    forced: Any = {"type": "custom", "name": "weather"}
    [call] = response(
        gpt,
        streamed=streamed,
        model=REAL,
        input="Open the door and close the window.",
        tools=custom_tool(STEPS_FORM),
        tool_choice=forced,
        max_output_tokens=100,
        extra_body={"seed": 1},
    ).output
    assert (call.type, call.status) == ("custom_tool_call", "completed")
    lark.Lark(STEPS).parse(call.input)
    items = response(gpt, streamed=streamed, input=QUESTION, tools=custom_tool(STEPS_FORM)).output
    lark.Lark(STEPS).parse(items[-1].input)


def test_lark_grammars_in_chat(gpt: openai.OpenAI) -> None:
    flat = {key: STEPS_FORM[key] for key in ("syntax", "definition")}
    form: Any = {"type": "grammar", "grammar": flat}
    tool: Any = {"type": "custom", "custom": {"name": "weather", "format": form}}
    completion = gpt.chat.completions.create(
        model=REAL,
        messages=USER,
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
        seed=1,
    )
    [call] = completion.choices[0].message.tool_calls or []
    assert call.type == "custom"
    lark.Lark(STEPS).parse(call.custom.input)


@pytest.mark.parametrize(
    ("syntax", "definition", "words"),
    [
        ("lark", "start: missing", "missing"),
        ("lark", "start: A\nA.1: /a/", "priority"),
        ("lark", "start: /\\p{L}/", "uses '.p'"),
        ("regex", "a(", "unclosed group"),
    ],
)
def test_wrong_grammars_are_refused(
    gpt: openai.OpenAI, syntax: str, definition: str, words: str
) -> None:
    tools = custom_tool({"type": "grammar", "syntax": syntax, "definition": definition})
    with pytest.raises(openai.BadRequestError, match=words) as raised:
        gpt.responses.create(model="nobody-has-it", input=QUESTION, tools=tools)
    assert raised.value.param == "tools"


def message(claude: anthropic.Anthropic, messages: Any, *, streamed: bool) -> Any:
    ask: Any = {
        "model": SCRIPTED,
        "max_tokens": 999,
        "messages": messages,
        "tools": CLAUDE_TOOLS,
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    }
    if not streamed:
        return claude.messages.create(**ask)
    with claude.messages.stream(**ask) as stream:
        return stream.get_final_message()


@pytest.mark.parametrize("streamed", [False, True])
def test_messages(claude: anthropic.Anthropic, *, streamed: bool) -> None:
    first = message(claude, USER, streamed=streamed)
    thought, words, call = first.content
    assert first.stop_reason == "tool_use"
    assert (thought.type, thought.thinking) == ("thinking", THOUGHT)
    assert thought.signature
    assert (words.type, words.text) == ("text", WORDS)
    assert (call.type, call.name, call.input) == ("tool_use", "weather", ARGUMENTS)
    said = {"role": "assistant", "content": [block.model_dump() for block in first.content]}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": RESULT}
    again = [*USER, said, {"role": "user", "content": [result]}]
    second = message(claude, again, streamed=streamed)
    assert second.stop_reason == "end_turn"
    assert [block.type for block in second.content] == ["thinking", "text"]
    assert second.content[1].text == "It rains."
    counted = claude.messages.count_tokens(model=SCRIPTED, messages=again, tools=CLAUDE_TOOLS)
    assert counted.input_tokens == second.usage.input_tokens + second.usage.cache_read_input_tokens


def test_the_same_conversation_costs_the_same_in_all_protocols(
    gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    one = chat(gpt, USER, streamed=False).usage.prompt_tokens
    two = response(gpt, streamed=False, input=QUESTION).usage.input_tokens
    usage = message(claude, USER, streamed=False).usage
    assert one == two == usage.input_tokens + usage.cache_read_input_tokens


def test_lm_studios_chat_tells_thoughts_apart(loaded: Client) -> None:
    """It has no tools of its own, so that a call is words to it."""
    transport = httpx2.HTTPTransport(uds=loaded.socket)
    with httpx2.Client(transport=transport, base_url="http://local", timeout=60) as http:
        answer = http.post("/api/v1/chat", json={"model": SCRIPTED, "input": RESULT}).json()
        body = {"model": SCRIPTED, "input": RESULT, "stream": True}
        lines = http.post("/api/v1/chat", json=body).text.splitlines()
    assert answer["output"] == [
        {"type": "reasoning", "content": "Now I know."},
        {"type": "message", "content": "It rains."},
    ]
    assert answer["stats"]["reasoning_output_tokens"] > 0
    kinds = [line[7:] for line in lines if line.startswith("event: ")]
    order = ["reasoning.start", "reasoning.delta", "reasoning.end", "message.start"]
    assert [kind for kind in dict.fromkeys(kinds) if kind in order] == order


# --- calls that must be made, by a model that would not make them ------------------------


class City(BaseModel):
    """The weather of a city."""

    city: str
    days: int


def test_a_call_of_a_real_model_is_parsed_by_the_sdk(gpt: openai.OpenAI) -> None:
    tool: Any = openai.pydantic_function_tool(City, name="weather")
    completion = gpt.chat.completions.parse(
        model=REAL,
        messages=USER,
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=200,
        temperature=0,
    )
    [choice] = completion.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, City)


@pytest.mark.parametrize("streamed", [False, True])
def test_required_calls_in_responses(gpt: openai.OpenAI, *, streamed: bool) -> None:
    *_, call = response(
        gpt,
        streamed=streamed,
        model=REAL,
        input=QUESTION,
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=300,
        temperature=0,
    ).output
    assert call.type == "function_call"
    assert call.status == "completed"
    assert set(json.loads(call.arguments)) == {"city", "days"}


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_forced_calls_in_messages(claude: anthropic.Anthropic, choice: Any) -> None:
    choice = choice | {"disable_parallel_tool_use": True}
    found = claude.messages.create(
        model=REAL,
        max_tokens=300,
        messages=USER,
        tools=CLAUDE_TOOLS,
        tool_choice=choice,
        extra_body={"temperature": 0},
    )
    assert found.stop_reason == "tool_use"
    [call] = [block for block in found.content if block.type == "tool_use"]
    assert set(call.input) == {"city", "days"}


def test_a_call_cut_by_the_limit(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    completion = gpt.chat.completions.create(
        model=REAL,
        messages=USER,
        tools=CHAT_TOOLS,
        tool_choice="required",
        max_tokens=12,
        temperature=0,
    )
    assert completion.choices[0].finish_reason == "length"
    events = gpt.responses.create(
        model=REAL,
        input=QUESTION,
        tools=FLAT_TOOLS,
        tool_choice="required",
        max_output_tokens=12,
        temperature=0,
        stream=True,
    )
    assert list(events)[-1].type == "response.incomplete"
    found = claude.messages.create(
        model=REAL, max_tokens=12, messages=USER, tools=CLAUDE_TOOLS, tool_choice={"type": "any"}
    )
    assert found.stop_reason == "max_tokens"


def test_no_call_where_none_may_be_made(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    ask: Any = {"messages": USER, "model": REAL, "max_tokens": 8}
    completion = gpt.chat.completions.create(**ask, tools=CHAT_TOOLS, tool_choice="none")
    assert completion.choices[0].message.tool_calls is None
    found = claude.messages.create(**ask, tools=CLAUDE_TOOLS, tool_choice={"type": "none"})
    assert [block.type for block in found.content] == ["text"]


def test_mistakes_have_their_protocols_envelope(
    gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    named: Any = {"type": "function", "function": {"name": "nothing"}}
    with pytest.raises(openai.BadRequestError) as raised:
        gpt.chat.completions.create(model=REAL, messages=USER, tools=CHAT_TOOLS, tool_choice=named)
    assert raised.value.param == "tool_choice.function.name"
    assert raised.value.code == "invalid_value"
    with pytest.raises(anthropic.BadRequestError, match="there is no tool named 'nothing'"):
        claude.messages.create(
            model=REAL,
            max_tokens=9,
            messages=USER,
            tools=CLAUDE_TOOLS,
            tool_choice={"type": "tool", "name": "nothing"},
        )
