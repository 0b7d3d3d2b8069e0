"""Formats derived from templates: our own, one for each class of syntax, and the families'.

The strongest test of a format is that answers written with it are what the template prints for the
same turn.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from family_formats import FAMILIES
from own_formats import OWN

from lmnb.chat.conversation import Tool, ToolCall
from lmnb.chat.formats.deriving.derive import derive
from lmnb.chat.formats.format import Format, HarmonyCall
from lmnb.chat.formats.write import write_answer
from lmnb.chat.rendering import renderer as rendering
from lmnb.chat.rendering.environment import make_environment
from lmnb.chat.rendering.job import Turn
from lmnb.chat.rendering.marks import unmark
from lmnb.chat.rendering.renderer import Renderer
from lmnb.chat.rendering.template import Template
from lmnb.errors import InvalidRequest

TEMPLATES = Path(__file__).parent / "templates"
SHARED = Path(os.environ.get("LMNB_SHARED", Path(__file__).parents[2] / "shared"))
FAMILY_TEMPLATES = SHARED / "chat-templates"

needs_families = pytest.mark.skipif(
    not FAMILY_TEMPLATES.is_dir(), reason="the shared chat templates are not here"
)

THOUGHT = "Some thought."
WORDS = "Some words."
PLAIN: dict[str, Any] = {
    "deep": {"k": {"v": "w"}},
    "f": 1.5,
    "list": [1, "x"],
    "n": 7,
    "text": "ab",
}
"""In the order of the alphabet, which Gemma's template brings arguments into."""
CALLS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "no call": (),
    "a call": (("get_one", PLAIN),),
    "two calls": (("get_one", PLAIN), ("get_two", {"q": "z"})),
    "no arguments": (("get_two", {}),),
    "true and null": (("get_one", {"n": None, "y": True}),),
    "odd characters": (("get_one", {"text": 'a "b" {c}\n<d> [E] \\ é 語'}),),
}


def own(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def family(name: str) -> str:
    return (FAMILY_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def compiled(source: str) -> Template:
    return Template(source, make_environment())


def in_process(template: str | None) -> Format:
    async def work() -> Format:
        renderer = Renderer()
        try:
            found = await renderer.format(template)
            assert await renderer.format(template) is found
            return found
        finally:
            await renderer.close()

    return asyncio.run(work())


# --- values ---------------------------------------------------------------------------


def test_every_template_of_ours_has_an_expected_format() -> None:
    assert sorted(path.stem for path in TEMPLATES.glob("*.jinja")) == sorted(OWN)


@pytest.mark.parametrize("name", sorted(OWN))
def test_formats_of_our_templates(name: str) -> None:
    assert derive(compiled(own(name))) == OWN[name]


@needs_families
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_formats_of_families(name: str) -> None:
    assert derive(compiled(family(name)), bos_text="<s>", eos_text="</s>") == FAMILIES[name]


@needs_families
def test_all_families_are_expected() -> None:
    assert {path.stem for path in FAMILY_TEMPLATES.glob("*.jinja")} == set(FAMILIES)


@pytest.mark.parametrize("name", sorted(OWN))
def test_markers_that_nobody_has_seen(name: str) -> None:
    """Nothing depends on what the words in markers are."""
    expected = msgspec.json.decode(_renamed(msgspec.json.encode(OWN[name]).decode()), type=Format)
    assert expected != OWN[name]
    assert derive(compiled(_renamed(own(name)))) == expected


def _renamed(text: str) -> str:
    return re.sub(r"(</?\|?|\[/?)([A-Za-z]+)", lambda found: found[1] + found[2][::-1] + "x", text)


def test_formats_come_from_the_rendering_process_and_are_kept() -> None:
    assert in_process(own("json_in_tags")) == OWN["json_in_tags"]


def test_no_template_is_one_without_calls() -> None:
    assert in_process(None) == Format(ends=("<|im_end|>",))


def test_the_end_of_the_turn_that_the_model_has_itself_is_not_named_again() -> None:
    assert derive(compiled(own("tagged")), eos_text="<|end|>").ends == ()


# --- what is written is what the template prints --------------------------------------


def turns(form: Format) -> Iterator[tuple[str, str, str, tuple[ToolCall, ...]]]:
    """A name, thinking, words and calls."""
    for what, calls in CALLS.items():
        said = tuple(
            ToolCall(_id(form, at), name, json.dumps(arguments, ensure_ascii=False))
            for at, (name, arguments) in enumerate(calls)
        )
        for thinking in ("", THOUGHT):
            for words in ("", WORDS):
                if (words or said) and (form.calls or not said):
                    name = ", ".join(
                        filter(None, [thinking and "thought", words and "words", what])
                    )
                    yield name, thinking, words, said


def _id(form: Format, at: int) -> str:
    """Cohere's template counts instead of using ids."""
    counts = "tool_call_id" in repr(form) or '"id": "{id}", "tool"' in repr(form)
    return str(at) if counts else f"call0000{at}"


def compare(source: str, form: Format) -> tuple[set[str], set[str]]:
    """The names of the turns that are written as the template prints them, and of the others.

    Turns of which the template leaves something out are in neither.
    """
    template = compiled(source)
    takes = template.takes_with_tools
    if takes.thinking == "tags":
        takes = replace(takes, thinking="")
    keys = {key for calls in CALLS.values() for _, arguments in calls for key in arguments}
    schema = {
        "type": "object",
        "properties": {k: {"type": "string", "description": "d"} for k in keys},
    }
    tools = [Tool(name, "d", schema) for name in ("get_one", "get_two")]
    same: set[str] = set()
    other: set[str] = set()
    for name, thinking, words, said in turns(form):
        asked = (Turn("user", "QQuery"), Turn("assistant", words, thinking, calls=said))
        on = {"enable_thinking": True, "thinking": True} if thinking else {}
        try:
            output = template.print(asked, tools, takes, variables=on, generate=False)
        except Exception:  # noqa: BLE001 - the template refuses such a turn
            continue
        printed = unmark(output).rpartition("QQuery")[2]
        if any(part not in printed for part in (thinking, words, *(call.name for call in said))):
            continue
        written = write_answer(form, thinking=thinking, words=words, said=said)
        (same if written.strip() in printed else other).add(name)
    return same, other


@pytest.mark.parametrize("name", sorted(OWN))
def test_answers_in_our_formats_are_what_the_template_prints(name: str) -> None:
    form = OWN[name]
    same, other = compare(own(name), form)
    assert not other
    assert "words, no call" in same
    if form.calls is not None:
        assert {"a call", "no arguments", "odd characters"} <= same
        assert ("two calls" in same) == form.calls.parallel
    if form.thinking is not None and "thinking" not in name:
        assert any("thought" in turn for turn in same)


PYTHON_VALUES = "prints true and null as Python does"
OTHERWISE: dict[str, tuple[str, tuple[str, ...]]] = {
    "Apriel-1.6-15b-Thinker-fixed": ("has what opens thinking in the prompt only", ("thought",)),
    "ByteDance-Seed-OSS": ("prints all values as Python does", ("call", "true and null")),
    "CohereForAI-c4ai-command-r-plus-tool_use": ("indents arguments", ("call", "true", "odd")),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": (PYTHON_VALUES, ("true and null",)),
    "NVIDIA-Nemotron-Nano-v2": ("prints words and calls as two turns", ("words",)),
    "Qwen3-Coder": (PYTHON_VALUES, ("true and null",)),
    "Qwen3.5-4B": (PYTHON_VALUES, ("true and null",)),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": (
        "does not close a single call",
        ("a call", "no arguments", "true", "odd"),
    ),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("prints calls before words", ("words",)),
    "google-gemma-4-31B-it": ("prints calls before words, and None", ("words", "true")),
    "google-gemma-4-31B-it-interleaved": ("prints calls before words, and None", ("words", "true")),
    "ibm-granite-granite-3.3-2B-Instruct": ("leaves its marks out of history", ("words",)),
    "openai-gpt-oss-120b": (
        "names the recipient before the channel",
        ("a call", "no arg", "true", "odd"),
    ),
    "unsloth-Apriel-1.5": ("leaves its marks out of history", ("words",)),
}
"""What templates print otherwise than models write: why, and parts of the names of such turns."""


@needs_families
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_answers_in_families_formats_are_what_the_template_prints(name: str) -> None:
    form = FAMILIES[name]
    same, other = compare(family(name), form)
    _, parts = OTHERWISE.get(name, ("", ()))
    assert not {turn for turn in other if not any(part in turn for part in parts)}
    told = form.family in {"lfm2", "granite"}  # the template prints no calls
    if form.calls is not None and not told and not isinstance(form.calls.call, HarmonyCall):
        assert same & {"a call", "two calls", "no arguments"}
    else:
        assert same or other


def test_calls_cannot_be_written_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="no calls"):
        write_answer(Format(), said=[ToolCall("1", "f", "{}")])


# --- templates that fail ----------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ missing.attribute.of.nothing }}",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "the same for everybody",
        "",
        "{{ messages }}",
        "{{ messages | tojson }}",
    ],
)
def test_a_template_that_shows_nothing_has_no_format(template: str) -> None:
    assert in_process(template) == Format()


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(40) %}{% set x = (x or 'x') ~ x %}{{ x * 100000000 }}{% endfor %}",
        "{% if %}",
    ],
    ids=["loop", "recursion", "memory", "syntax"],
)
def test_hostile_templates_have_no_format_or_a_clear_error(template: str) -> None:
    try:
        found = in_process(template)
    except InvalidRequest as caught:
        error = caught
    else:
        assert found == Format()
        return
    assert error.message.startswith("The model's chat template cannot be used: ")


def test_what_cannot_be_derived_is_not_tried_again() -> None:
    """The process that renders has to be ended for it; it would be, with each request."""

    async def work() -> None:
        renderer = Renderer()
        loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
        try:
            with pytest.raises(InvalidRequest) as first:
                await renderer.format(loop)
            await renderer.close()
            with pytest.raises(InvalidRequest) as second:
                await renderer.format(loop)
            assert renderer.pid is None
            assert second.value.to_dict() == first.value.to_dict()
            assert second.value is not first.value
        finally:
            await renderer.close()

    asyncio.run(work())


def test_formats_that_were_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_MOST_FORMATS", 2)

    async def work() -> None:
        renderer = Renderer()
        try:
            first, second = [await renderer.format(text) for text in ("one", "two")]
            assert await renderer.format("one") is first
            await renderer.format("three")
            assert await renderer.format("one") is first
            assert await renderer.format("two") is not second
        finally:
            await renderer.close()

    asyncio.run(work())
