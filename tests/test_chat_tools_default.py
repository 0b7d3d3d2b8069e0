"""Templates that know no tools, or only some of them; names, schemas and arguments."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from test_chat_template import CHATML, say
from tool_conversations import (
    CONVERSATION,
    HERMES,
    calling,
    kept_renderer,
    result,
    shown,
)

from lmnb.chat.conversation import (
    Tool,
    ToolCall,
)
from lmnb.chat.formats.default import CALLS, tool_prompt
from lmnb.chat.rendering.renderer import choose_template

kept = pytest.fixture(scope="module", autouse=True)(kept_renderer)

# --- templates that know no tools -------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, None])
def test_the_default_for_a_template_without_tools(template: str | None) -> None:
    found = shown(template, say("system", "Be brief."), *CONVERSATION)  # type: ignore[arg-type]
    assert found.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
    assert '{"name": "weather", "description": "Looks at the sky.", "parameters": {' in found
    assert (
        "<|im_start|>assistant\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nSunny\n</tool_response><|im_end|>\n"
    ) in found
    assert found.endswith("<|im_start|>assistant\n")


def test_the_default_without_a_system_message_and_with_several_calls() -> None:
    calls = calling(ToolCall("a", "ping", "{}"), ToolCall("b", "ping", '{"n": 1}'), words="Wait.")
    found = shown(CHATML, CONVERSATION[0], calls, result("a", "One"), result("b", "Two"))
    assert found.startswith("<|im_start|>system\n# Tools\n")
    assert (
        "assistant\nWait.\n"
        '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "ping", "arguments": {"n": 1}}\n</tool_call><|im_end|>'
    ) in found
    assert (
        "user\n<tool_response>\nOne\n</tool_response>\n<tool_response>\nTwo\n</tool_response>"
        "<|im_end|>"
    ) in found


def test_the_default_prompt_shows_the_default_syntax() -> None:
    assert '<tool_call>\n{"name": "name_of_function", "arguments": {' in tool_prompt([], CALLS)


def test_a_template_that_shows_calls_but_no_tools() -> None:
    """The tools are told in words, with the template's own way to write calls as the example."""
    template = HERMES.replace("{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}", "")
    found = shown(template, *CONVERSATION)
    assert found.startswith("[system]# Tools\n")
    assert '\n\n<call>name_of_function {"name_of_parameter": "value"}</call>\n\n' in found
    assert "<tool_response>" not in found
    assert '[assistant]<call>weather {"city": "Rome"}</call>[tool]Sunny' in found


def test_the_prompt_says_how_several_calls_are_written() -> None:
    listed = msgspec.structs.replace(CALLS, begin="[", separator=", ", end="]")
    example = '{"name": "name_of_another", "arguments": {"name_of_parameter": "value"}}'
    assert example in tool_prompt([], listed)
    assert "one function at a time" in tool_prompt(
        [], msgspec.structs.replace(CALLS, parallel=False)
    )


def test_the_default_with_a_template_without_system_role() -> None:
    template = (
        "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
        "{{ raise_exception('role') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    found = shown(template, *CONVERSATION)
    assert found.startswith("[user]# Tools\n")
    assert "\n\nQuestion[assistant]<tool_call>" in found


def test_tools_shown_but_not_calls() -> None:
    template = (
        "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    found = shown(template, *CONVERSATION)
    assert "# Tools" not in found
    assert "[assistant]<tool_call>" in found
    assert "[tool]Sunny" in found


# --- names, schemas, arguments ----------------------------------------------------


def test_names_are_adapted_everywhere() -> None:
    tools = (Tool("files.read"), Tool("files_read"))
    turns = (calling(ToolCall("a", "files.read", "{}")), result("a", "x"))
    template = HERMES.replace("[{{ m.role }}]", "[{{ m.role }} {{ m.name }}]")
    found = shown(template, CONVERSATION[0], *turns, tools=tools)
    assert '"name": "files_read_2"' in found
    assert "<call>files_read_2 {}</call>[tool files_read_2]x" in found


def test_arguments_that_are_no_object() -> None:
    def written(arguments: str) -> str:
        call = calling(ToolCall("a", "ping", arguments))
        return shown(HERMES, CONVERSATION[0], call).partition("<call>")[2]

    assert written('{"cut": "he') == 'ping {"arguments": "{\\"cut\\": \\"he"}</call>'
    assert written("[1]") == 'ping {"arguments": [1]}</call>'
    assert written('{"n": ' + "9" * 5000 + "}").startswith('ping {"arguments": "{')
    assert written("[" * 5000 + "]" * 5000).startswith('ping {"arguments": "[[')


TYPED_WALK = (
    "{% macro kind(s) %}{% if s.type == 'object' %}{{ '{' }}{% for k, v in s.properties | items %}"
    "{{ k }}: {{ kind(v) }}; {% endfor %}{{ '}' }}{% else %}{{ s.type | upper }}{% endif %}"
    "{% endmacro %}{% for tool in tools or [] %}{{ tool.function.name }}"
    "({{ kind(tool.function.parameters) }}){% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
RICH: dict[str, Any] = {
    "type": "object",
    "properties": {
        "maybe": {"type": ["string", "null"]},
        "shape": {"$ref": "#/$defs/Shape"},
        "tree": {"$ref": "#/$defs/Tree"},
    },
    "$defs": {
        "Shape": {"type": "object", "properties": {"round": {"type": "boolean"}}},
        "Tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}},
    },
}


def test_a_template_that_walks_through_schemas_gets_plain_ones() -> None:
    found = shown(TYPED_WALK, CONVERSATION[0], tools=(Tool("f", "", RICH),))
    assert found.startswith("f({maybe: STRING; shape: {round: BOOLEAN; }; tree: {left: {}; }; })")


def test_a_template_that_prints_schemas_gets_them_as_they_are() -> None:
    found = shown(HERMES, CONVERSATION[0], tools=(Tool("f", "", RICH),))
    assert json.dumps(RICH) in found


# --- which template ---------------------------------------------------------------


def test_named_templates() -> None:
    both = {"default": "D", "tool_use": "T"}
    assert choose_template(both, tools=True) == "T"
    assert choose_template(both, tools=False) == "D"
    assert choose_template({"default": "D"}, tools=True) == "D"
    assert choose_template({"rag": "R"}, tools=True) == "R"
    assert choose_template({}, tools=True) is None
