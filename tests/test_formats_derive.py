"""Formats derived from templates: our own, one for each class of syntax, and the families'."""

from __future__ import annotations

import asyncio

from lmnb.chat.formats.format import (
    ARGUMENTS,
    NAME,
    Calls,
    Format,
    JsonCall,
    Span,
    TaggedArguments,
    WrittenCall,
)
from lmnb.chat.template import Renderer

_TURNS = """\
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for m in messages %}
{{- '<|turn|>' + m.role + '\n' }}
{%- if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}
{{- m.content or '' }}
{%- CALLS %}
{{- '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"""

_JSON = """ for c in m.tool_calls %}{{ '<call>' + {'name': c.function.name, 'arguments': c.function.arguments} | tojson + '</call>' }}{% endfor"""

_TAGGED = """ for c in m.tool_calls %}{{ '<f=' + c.function.name + '>' }}{% for k, v in c.function.arguments | items %}{{ '<p=' + k + '>' + (v if v is string else v | tojson) + '</p>' }}{% endfor %}{{ '</f>' }}{% endfor"""


def derived(template: str | None) -> Format:
    async def work() -> Format:
        renderer = Renderer()
        try:
            return await renderer.format(template)
        finally:
            await renderer.close()

    return asyncio.run(work())


def test_json_calls() -> None:
    call = JsonCall(
        begin="<call>",
        end="</call>",
        example=f'{{"name": "{NAME}", "arguments": {ARGUMENTS}}}',
    )
    assert derived(_TURNS.replace(" CALLS ", _JSON)) == Format(
        thinking=Span("<think>\n", "\n</think>\n\n"), calls=Calls(call=call), ends=("<|end|>",)
    )


def test_tagged_arguments() -> None:
    found = derived(_TURNS.replace(" CALLS ", _TAGGED))
    assert found.calls == Calls(
        call=WrittenCall(
            pieces=("<f=", NAME, ">", ARGUMENTS, "</f>"),
            arguments=TaggedArguments(key_begin="<p=", key_end=">", value_end="</p>"),
        )
    )


def test_a_template_that_fails_on_everything_has_no_format() -> None:
    assert derived("{{ raise_exception('no') }}") == Format()


def test_no_template_is_one_without_calls() -> None:
    assert derived(None) == Format(ends=("<|im_end|>",))


def test_thinking_that_only_the_last_answer_keeps() -> None:
    template = """\
{%- set last = namespace(at=-1) %}
{%- for m in messages %}{% if m.role == 'assistant' %}{% set last.at = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{{- '<|turn|>' + m.role + '\n' }}
{{- m.content.split('</think>')[-1] if m.role == 'assistant' and loop.index0 != last.at else m.content }}
{{- '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"""
    assert derived(template).thinking == Span("<think>", "</think>")
