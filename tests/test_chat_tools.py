"""Conversations with tools, as templates of every manner take them."""

from __future__ import annotations

import json

import pytest
from test_chat_template import say, text
from tool_conversations import (
    CALLING,
    CITY,
    CONVERSATION,
    HERMES,
    TOOLS,
    calling,
    kept_renderer,
    render,
    result,
    shown,
)

from lmnb.chat.conversation import (
    Image,
    Message,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

kept = pytest.fixture(scope="module", autouse=True)(kept_renderer)

# --- what templates want ----------------------------------------------------------


def test_tools_calls_and_results() -> None:
    assert shown(HERMES, *CONVERSATION) == (
        '<tools>[{"type": "function", "function": {"name": "weather", "description": '
        '"Looks at the sky.", "parameters": {"type": "object", "properties": {"city": {}}}}}, '
        '{"type": "function", "function": {"name": "ping", "description": "", '
        '"parameters": {"type": "object", "properties": {}}}}]</tools>'
        '[user]Question[assistant]<call>weather {"city": "Rome"}</call>[tool]Sunny'
        "[assistant]Answer[user]More"
    )


def test_without_tools_none_are_told() -> None:
    assert "<tools>" not in shown(HERMES, *CONVERSATION, tools=())


def test_arguments_as_text() -> None:
    template = HERMES.replace("{{ call.function.arguments | tojson }}", "{{ '' + arguments }}")
    template = template.replace(
        "{% macro write(call) %}",
        "{% macro write(call) %}{% set arguments = call.function.arguments %}",
    )
    assert '<call>weather {"city": "Rome"}</call>' in shown(template, *CONVERSATION)


@pytest.mark.parametrize("condition", ["m.content is none", "m.content is not defined"])
def test_content_beside_calls(condition: str) -> None:
    template = (
        CALLING
        + "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}]"
        + "{% if "
        + condition
        + " %}{{ write(m.tool_calls[0]) }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    found = shown(template, *CONVERSATION)
    assert '[assistant]<call>weather {"city": "Rome"}</call>[tool]Sunny' in found
    assert "None" not in found


ONE_CALL = HERMES.replace(
    "{% for call in",
    "{% if m.tool_calls and m.tool_calls | length > 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "{% for call in",
)
FIRST_CALL = HERMES.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")


@pytest.mark.parametrize("template", [ONE_CALL, FIRST_CALL])
def test_one_call_a_turn(template: str) -> None:
    """Further calls follow the result of the one before."""
    found = shown(
        template,
        CONVERSATION[0],
        calling(ToolCall("a", "ping", "{}"), ToolCall("b", "weather", CITY)),
        Message("tool", (ToolResult("b", (Text("Sunny"),)), ToolResult("a", (Text("Pong"),)))),
    )
    assert found.endswith(
        "[assistant]<call>ping {}</call>[tool]Pong"
        '[assistant]<call>weather {"city": "Rome"}</call>[tool]Sunny'
    )


def test_calls_without_results_are_kept_one_by_one() -> None:
    found = shown(
        ONE_CALL,
        CONVERSATION[0],
        calling(ToolCall("a", "ping", "{}"), ToolCall("b", "weather", CITY)),
        say("user", "Never mind"),
    )
    assert found.count("<call>") == 2
    assert found.index("Rome") < found.index("Never mind")


def test_ids_of_nine_characters() -> None:
    template = HERMES.replace(
        "</call>",
        " {% if call.id | length != 9 %}{{ raise_exception('nine!') }}{% endif %}{{ call.id }}"
        "</call>",
    ).replace("[{{ m.role }}]", "[{{ m.role }} {{ m.tool_call_id }}]")
    found = shown(template, *CONVERSATION)
    made = found.split("[tool ")[1][:9]
    assert made.isalnum()
    assert f" {made}</call>" in found
    assert made in shown(template, *CONVERSATION)  # the prefix cache wants it the same again
    kept = json.loads(json.dumps("abcDEF123"))
    found = shown(template, CONVERSATION[0], calling(ToolCall(kept, "ping", "{}")))
    assert kept in found


def test_ids_that_are_written_for_names() -> None:
    template = HERMES.replace("{{ call.function.name }}", "{{ call.id }}")
    twice = (*CONVERSATION, calling(ToolCall("call_2", "ping", "{}")), result("call_2", "Pong"))
    found = shown(template, *twice)
    assert '<call>functions.weather:0 {"city": "Rome"}</call>' in found
    assert "<call>functions.ping:1 {}</call>" in found


def test_ids_that_results_repeat() -> None:
    """The template numbers the calls of a turn itself, and shows a result's id as it is."""
    template = HERMES.replace(
        "{{ call.function.name }}", "functions.{{ call.function.name }}:{{ place }}"
    ).replace("macro write(call)", "macro write(call, place)")
    template = template.replace("write(call)", "write(call, loop.index0)")
    template = template.replace("[{{ m.role }}]", "[{{ m.role }} {{ m.tool_call_id }}]")
    template = template.replace("macro write(call, loop.index0)", "macro write(call, place)")
    twice = (*CONVERSATION, calling(ToolCall("call_2", "ping", "{}")), result("call_2", "Pong"))
    found = shown(template, *twice)
    assert "[tool functions.weather:0]Sunny" in found
    assert "[tool functions.ping:0]Pong" in found


def test_ids_that_come_twice_are_told_apart() -> None:
    template = HERMES.replace("</call>", " {{ call.id }}</call>")
    template = template.replace("[{{ m.role }}]", "[{{ m.role }} {{ m.tool_call_id }}]")
    again = (calling(ToolCall("call_1", "ping", "{}")), result("call_1", "Pong"))
    found = shown(template, *CONVERSATION, *again)
    assert " call_1_2</call>[tool call_1_2]Pong" in found
    assert " call_1</call>[tool call_1]Sunny" in found


def test_results_of_parallel_calls_with_one_id_are_in_their_order() -> None:
    said = calling(ToolCall("c", "weather", CITY), ToolCall("c", "ping", "{}"))
    apart = (calling(ToolCall("c", "weather", CITY)), calling(ToolCall("c", "ping", "{}")))
    template = HERMES.replace("[{{ m.role }}]", "[{{ m.role }} {{ m.name }}]")
    results = result("c", "Sunny"), result("c", "Pong")
    found = shown(template, CONVERSATION[0], said, *results)
    assert found.endswith("[tool weather]Sunny[tool ping]Pong")
    found = shown(template, CONVERSATION[0], *apart, *results)
    assert found.index("[tool weather]Sunny") < found.index("[tool ping]Pong")
    assert found.count("[tool ") == 2


def test_a_call_that_nobody_answered_takes_no_later_result() -> None:
    template = HERMES.replace("[{{ m.role }}]", "[{{ m.role }} {{ m.name }}]")
    found = shown(
        template,
        CONVERSATION[0],
        calling(ToolCall("c", "weather", CITY)),
        say("user", "Rather ping"),
        calling(ToolCall("c", "ping", "{}")),
        result("c", "Pong"),
    )
    assert found.endswith("[tool ping]Pong")


def test_results_know_their_tool_and_follow_the_order_of_calls() -> None:
    template = HERMES.replace("[{{ m.role }}]", "[{{ m.role }} {{ m.name }}]")
    found = shown(
        template,
        CONVERSATION[0],
        calling(ToolCall("a", "ping", "{}"), ToolCall("b", "weather", CITY)),
        result("b", "Sunny"),
        result("a", "Pong"),
    )
    assert found.endswith("[tool ping]Pong[tool weather]Sunny")


def test_another_role_for_results() -> None:
    template = HERMES.replace(
        "[{{ m.role }}]",
        "{% if m.role not in ['user', 'assistant', 'ipython'] %}{{ raise_exception('role') }}"
        "{% endif %}[{{ m.role }}]",
    )
    assert "[ipython]Sunny" in shown(template, *CONVERSATION)


def test_a_template_that_knows_calls_but_no_results() -> None:
    template = HERMES.replace(
        "{% for m in messages %}", "{% for m in messages if m.role in ['user', 'assistant'] %}"
    )
    found = shown(template, *CONVERSATION)
    assert "[user]<tool_response>\nSunny\n</tool_response>[assistant]Answer" in found


def test_errors_and_empty_results() -> None:
    def told(words: str, *, error: bool) -> str:
        part = ToolResult("call_1", (Text(words),) if words else (), is_error=error)
        return shown(HERMES, *CONVERSATION[:2], Message("tool", (part,))).partition("[tool]")[2]

    assert told("No such city", error=True) == "Error: No such city"
    assert told("ValueError: no such city", error=True) == "ValueError: no such city"
    assert told("", error=True) == "Error"
    assert told("", error=False) == ""


def test_an_image_in_a_result() -> None:
    parts = (Text("Look: "), Image(b"png", "image/png"))
    prompt = render(HERMES, *CONVERSATION[:2], Message("tool", (ToolResult("call_1", parts),)))
    assert prompt.segments[-1].media == b"png"
    assert prompt.segments[-2].text.endswith("[tool]Look: ")


def test_a_result_whose_call_is_gone() -> None:
    """Clients that shorten conversations leave such behind; templates would refuse or lose it."""
    found = shown(HERMES, result("gone", "Sunny"), say("user", "Go on"))
    assert found.endswith("[user]<tool_response>\nSunny\n</tool_response>[user]Go on")


def test_a_result_with_the_wrong_id_belongs_to_the_open_call() -> None:
    template = HERMES.replace("[{{ m.role }}]", "[{{ m.role }} {{ m.tool_call_id }}]")
    assert "[tool call_1]Sunny" in shown(template, *CONVERSATION[:2], result("other", "Sunny"))


def test_a_result_stands_with_its_call_whatever_was_said_in_between() -> None:
    late = (*CONVERSATION[:2], say("user", "Hurry"), result("call_1", "Sunny"))
    assert shown(HERMES, *late).endswith("</call>[tool]Sunny[user]Hurry")
    again = shown(HERMES, *CONVERSATION[:3], result("call_1", "Rain"))
    assert again.endswith("[tool]Sunny[user]<tool_response>\nRain\n</tool_response>")


def test_a_template_that_refuses_is_given_words() -> None:
    """What the first try fails on is said in plain words at last."""
    strict = HERMES.replace(
        "{% for m in messages %}",
        "{% for m in messages %}{% if m.tool_calls and (loop.last or "
        "messages[loop.index].role != 'tool') %}{{ raise_exception('no result') }}{% endif %}",
    )
    turns = (*CONVERSATION[:2], say("user", "Never mind"))
    assert '[assistant]<tool_call>\n{"name": "weather"' in shown(strict, *turns)


# --- words and thinking -----------------------------------------------------------

SAID = (
    CONVERSATION[0],
    calling(ToolCall("call_1", "weather", CITY), words="Words", thinking="Thought"),
    *CONVERSATION[2:],
)


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning", "thought"])
def test_where_thinking_is_looked_for(key: str) -> None:
    template = HERMES.replace("{{ m.content }}", "<t>{{ m." + key + " }}</t>{{ m.content }}")
    assert "<t>Thought</t>Words<call>" in shown(template, *SAID)


def test_thinking_as_a_part_of_the_content() -> None:
    parts = (
        "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
        "{% if part.type == 'thinking' %}<t>{{ part.thinking }}</t>{% else %}{{ part.text }}"
        "{% endif %}{% endfor %}{% endif %}"
    )
    assert "<t>Thought</t>Words<call>" in shown(HERMES.replace("{{ m.content }}", parts), *SAID)


def test_thinking_between_tags_for_a_template_that_leaves_it_out() -> None:
    kept = (
        "{% if loop.last %}{{ m.content }}{% else %}{{ m.content.split('</think>')[-1].strip() }}"
        "{% endif %}"
    )
    template = HERMES.replace("{{ m.content }}", kept)
    assert "Thought" not in shown(template, *SAID)
    assert "<think>\nThought\n</think>\n\nWords<call>" in shown(template, *SAID[:2])


def test_thinking_that_is_not_looked_for_is_left_out() -> None:
    assert "Thought" not in shown(HERMES, *SAID)


def test_words_that_are_shown_before_a_message_with_calls() -> None:
    template = HERMES.replace(
        "{{ m.content }}", "{% if not m.tool_calls %}{{ m.content }}{% endif %}"
    )
    assert "[assistant]Words[assistant]<call>" in shown(template, *SAID)


def test_words_beside_calls_where_only_thinking_is_shown() -> None:
    template = HERMES.replace(
        "{{ m.content }}",
        "{% if m.tool_calls %}<t>{{ m.reasoning_content }}</t>{% else %}{{ m.content }}{% endif %}",
    )
    assert "[assistant]<t>Thought\n\nWords</t><call>" in shown(template, *SAID)


def test_words_and_thinking_where_one_of_them_is_refused() -> None:
    template = HERMES.replace(
        "{{ m.content }}",
        "{% if m.tool_calls and m.content and m.thinking %}{{ raise_exception('not both') }}"
        "{% endif %}<t>{{ m.thinking }}</t>{{ m.content }}",
    )
    assert "<t>Thought\n\nWords</t><call>" in shown(template, *SAID)
    only = (CONVERSATION[0], calling(ToolCall("call_1", "ping", "{}"), words="Words"))
    assert "<t></t>Words<call>" in shown(template, *only)


# --- roles ------------------------------------------------------------------------

ALTERNATING = HERMES.replace(
    "{% for m in messages %}",
    "{% set n = namespace(i=0) %}{% for m in messages %}"
    "{% if m.role != 'tool' and not m.tool_calls %}"
    "{% if (m.role == 'user') != (n.i % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}"
    "{% set n.i = n.i + 1 %}{% endif %}",
)


def test_a_user_who_speaks_after_a_result() -> None:
    turns = (*CONVERSATION[:3], say("user", "Hurry"))
    assert shown(HERMES, *turns).endswith("[tool]Sunny[user]Hurry")
    assert shown(ALTERNATING, *turns).endswith("[tool]Sunny\n\nHurry")


def test_system_messages_with_tools() -> None:
    system = say("system", "Be brief.")
    found = shown(HERMES, system, *CONVERSATION[:3], say("system", "Now French."))
    assert "</tools>[system]Be brief.[user]" in found
    assert found.endswith("[tool]Sunny[system]Now French.")
    strict = HERMES.replace(
        "{% for m in messages %}",
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
        "{{ raise_exception('first') }}{% endif %}",
    )
    found = shown(strict, system, *CONVERSATION[:3], say("system", "Now French."))
    assert found.endswith("[tool]Sunny\n\nNow French.")


def test_system_words_that_tool_loops_would_lose() -> None:
    """Mistral Nemo's template shows them with the last message, if that is the user's."""
    template = HERMES.replace(
        "[{{ m.role }}]{{ m.content }}",
        "{% if m.role != 'system' %}[{{ m.role }}]{% if loop.last and m.role == 'user' and "
        "messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}{{ m.content }}"
        "{% endif %}",
    )
    found = shown(template, say("system", "Be brief."), *CONVERSATION[:3])
    assert "[user]Be brief.\n\nQuestion[assistant]<call>" in found


def test_continue_after_tools() -> None:
    last = Message("assistant", (Thinking("Thought"), Text("It is ")))
    template = HERMES.replace("{{ m.content }}", "<t>{{ m.thinking }}</t>{{ m.content }}")
    prompt = render(template, *CONVERSATION[:3], last, tools=TOOLS, continue_final=True)
    assert text(prompt).endswith("[tool]<t></t>Sunny[assistant]<t>Thought</t>It is ")


def test_roles_are_whole() -> None:
    """A message may carry results and words: results come first, as they do in time."""
    role: Role = "user"
    both = Message(role, (Text("Hurry"), ToolResult("call_1", (Text("Sunny"),))))
    assert shown(HERMES, *CONVERSATION[:2], both).endswith("[tool]Sunny[user]Hurry")
