"""Every field, content block and tool that the SDK knows is seen in effect, ignored or refused.

A new release of the SDK that knows more fails here until somebody has decided about it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import (
    beta_content_block_param,
    beta_thinking_config_param,
    beta_tool_choice_param,
    beta_tool_union_param,
)
from anthropic.types.beta import message_count_tokens_params as beta_count
from anthropic.types.beta import message_create_params as beta_create
from pydantic import BaseModel
from starlette.datastructures import Headers

from lmnb.chat.conversation import Message, OutputFormat, Request, Text
from lmnb.errors import InvalidRequest
from lmnb.server.anthropic.answer import Form
from lmnb.server.anthropic.schema import CountBody, MessagesBody
from lmnb.server.anthropic.translate import translate
from lmnb.server.notes import collect

HI: Any = {"role": "user", "content": "Hi"}
LOOK: Any = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
PNG: Any = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
CACHED: Any = {"type": "ephemeral", "ttl": "1h"}


def body_of(**fields: Any) -> MessagesBody:
    data = {"model": "m", "max_tokens": 9, "messages": [HI], **fields}
    return msgspec.json.decode(json.dumps(data), type=MessagesBody)


def asked(**fields: Any) -> Request:
    return translate(body_of(**fields), "m", Headers({}))


def noted(**fields: Any) -> tuple[Request, list[str]]:
    def run() -> tuple[Request, list[str]]:
        notes = collect()
        return asked(**fields), list(notes)

    return copy_context().run(run)


# --- fields ---------------------------------------------------------------------------------

HONOURED: dict[str, tuple[Any, Callable[[Request], Any], Any]] = {
    "max_tokens": (5, lambda found: found.max_tokens, 5),
    "messages": (
        [HI, {"role": "assistant", "content": "Yo"}],
        lambda found: [message.text for message in found.messages] + [found.continue_final],
        ["Hi", "Yo", True],
    ),
    "metadata": ({"user_id": '{"session_id": "s"}'}, lambda found: found.cache_key, "s"),
    "output_config": (
        {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        lambda found: (found.reasoning.effort, found.output_format),
        (
            "high",
            OutputFormat("json_schema", {"type": "object"}, param="output_config.format.schema"),
        ),
    ),
    "stop_sequences": (["END"], lambda found: found.stop, ("END",)),
    "system": ("Be kind.", lambda found: found.messages[0], Message("system", (Text("Be kind."),))),
    "thinking": (
        {"type": "enabled", "budget_tokens": 2048},
        lambda found: (found.reasoning.enabled, found.reasoning.budget),
        (True, 2048),
    ),
    "tools": ([LOOK], lambda found: [tool.name for tool in found.tools], ["look"]),
}
"""Fields that make another request: a value, what it changes, and into what."""

IGNORED: dict[str, Any] = {
    "betas": ["claude-code-20250219"],
    "billing_policy": {"type": "x"},
    "cache_control": CACHED,
    "compaction": {"type": "x"},
    "container": "c",
    "diagnostics": {"previous_message_id": "msg_1"},
    "fallback_credit_token": "t",
    "fallbacks": [{"model": "x"}],
    "inference_geo": "eu",
    "mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}],
    "service_tier": "auto",
    "speed": "fast",
    "user_profile_id": "u",
    "workspace_id": "w",
}
"""What is about Anthropic's own service: it makes no difference."""

REFUSED: dict[str, Any] = {"thread": {"type": "new"}}

ELSEWHERE = {
    "model": "test_protocol_anthropic.py: names of Claude",
    "stream": "test_protocol_anthropic.py: streamed and whole answers agree",
    "tool_choice": "below, in all its forms",
    "context_management": "below, as it is seen in the answer only",
}

PARAMETERS: tuple[Any, ...] = (
    message_create_params.MessageCreateParamsNonStreaming,
    message_create_params.MessageCreateParamsStreaming,
    beta_create.MessageCreateParamsNonStreaming,
    beta_create.MessageCreateParamsStreaming,
    message_count_tokens_params.MessageCountTokensParams,
    beta_count.MessageCountTokensParams,
)


def test_every_field_of_the_sdk_is_decided_about() -> None:
    known = {name for parameters in PARAMETERS for name in get_type_hints(parameters)}
    assert known == HONOURED.keys() | IGNORED.keys() | REFUSED.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("name", HONOURED)
def test_honoured(name: str) -> None:
    value, seen, wanted = HONOURED[name]
    assert seen(asked(**{name: value})) == wanted
    assert seen(asked()) != wanted


@pytest.mark.parametrize("name", IGNORED)
def test_ignored(name: str) -> None:
    assert asked(**{name: IGNORED[name]}) == asked()
    assert asked(**{name: None}) == asked()


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(**{name: REFUSED[name]})
    assert caught.value.param == name


def test_context_management_is_answered() -> None:
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    assert asked(context_management=edits) == asked()
    assert Form.of(body_of(context_management=edits)).manages_context
    assert not Form.of(body_of()).manages_context


def test_counting_takes_what_messages_take() -> None:
    body = {"model": "m", "max_tokens": 9, "stream": True, "messages": [HI], "tools": [LOOK]}
    counted = msgspec.json.decode(json.dumps(body), type=CountBody)
    whole = translate(msgspec.convert(body, MessagesBody), "m", Headers({}))
    found = translate(counted, "m", Headers({}))
    assert (found.messages, found.tools) == (whole.messages, whole.tools)


# --- unions -----------------------------------------------------------------------------------


def types(union: Any) -> Iterator[str]:
    """The values of `type` of the members of a union that are parameters."""
    for member in get_args(union):
        if not isinstance(member, type):
            yield from types(member)
        elif not issubclass(member, BaseModel):
            yield from re.findall(r"'([^']+)'", str(get_type_hints(member)["type"]))


SHOWN: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"text": "Words", "cache_control": CACHED, "citations": []}, "Words"),
    "search_result": (
        {"source": "u", "title": "T", "content": [{"type": "text", "text": "Found"}]},
        "T\nu\nFound",
    ),
    "document": (
        {"source": {"type": "text", "media_type": "text/plain", "data": "Words"}, "title": "T"},
        "<document>\nTitle: T\n\nWords\n</document>",
    ),
    "compaction": ({"content": "So far."}, "So far."),
}
"""Blocks that become text, and which."""

AS_PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "image": ({"source": PNG, "transformations": {}}, "image"),
    "thinking": ({"thinking": "Hm", "signature": "x"}, "thinking"),
    "tool_use": ({"id": "1", "name": "look", "input": {}, "caller": {}}, "tool_call"),
    "tool_result": ({"tool_use_id": "1", "content": "x", "toolset_name": "t"}, "tool_result"),
}

AS_JSON = {
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "advisor_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "mcp_tool_use",
    "mcp_tool_result",
}
SILENTLY_DROPPED = {"redacted_thinking", "container_upload", "fallback", "mcp_tool_listing"}
DROPPED_WITH_A_NOTE = {"tool_addition", "tool_removal"}


def test_every_content_block_of_the_sdk_is_decided_about() -> None:
    known = set(types(beta_content_block_param.BetaContentBlockParam))
    decided = (SHOWN.keys(), AS_PARTS.keys(), AS_JSON, SILENTLY_DROPPED, DROPPED_WITH_A_NOTE)
    assert known == set().union(*decided)


def block(kind: str, fields: dict[str, Any]) -> tuple[Request, list[str]]:
    return noted(messages=[{"role": "user", "content": [{"type": kind, **fields}]}])


@pytest.mark.parametrize("kind", SHOWN)
def test_blocks_that_become_text(kind: str) -> None:
    fields, words = SHOWN[kind]
    found, notes = block(kind, fields)
    assert found.messages[0].parts == (Text(words),)
    assert not notes


@pytest.mark.parametrize("kind", AS_PARTS)
def test_blocks_that_become_parts(kind: str) -> None:
    fields, tag = AS_PARTS[kind]
    found, notes = block(kind, fields)
    [part] = found.messages[0].parts
    assert part.__struct_config__.tag == tag
    assert getattr(part, "id", "1") == "1"
    assert not notes


@pytest.mark.parametrize("kind", sorted(AS_JSON))
def test_blocks_of_tools_that_ran_elsewhere(kind: str) -> None:
    found, notes = block(kind, {"id": "1", "content": [{"url": "u", "encrypted_content": "x"}]})
    shown = {"type": kind, "id": "1", "content": [{"url": "u"}]}
    assert json.loads(found.messages[0].text) == shown
    assert not notes


@pytest.mark.parametrize("kind", sorted(SILENTLY_DROPPED | DROPPED_WITH_A_NOTE))
def test_blocks_that_say_nothing(kind: str) -> None:
    found, notes = block(kind, {"data": "x"})
    assert found.messages[0].parts == ()
    assert len(notes) == (kind in DROPPED_WITH_A_NOTE)


def test_every_tool_of_the_sdk_but_the_callers_own_is_left_out() -> None:
    known = set(types(beta_tool_union_param.BetaToolUnionParam))
    for kind in known - {"custom"}:
        found, notes = noted(tools=[LOOK, {"type": kind, "name": "its"}])
        assert [tool.name for tool in found.tools] == ["look"]
        assert notes == ["Tools that do not run on this server were left out: its."]
        with pytest.raises(InvalidRequest, match="its is not supported"):
            asked(tools=[{"type": kind, "name": "its"}])
    assert asked(tools=[{**LOOK, "type": "custom"}]) == asked(tools=[LOOK])


TOOL_FIELDS: dict[str, Any] = {
    "allowed_callers": ["direct"],
    "cache_control": CACHED,
    "eager_input_streaming": True,
    "input_examples": [{}],
    "type": "custom",
}
SEEN_TOOL_FIELDS: dict[str, Any] = {
    "description": "Looks.",
    "strict": True,
    "name": "see",
    "defer_loading": True,
    "input_schema": {"type": "object", "properties": {"x": {"type": "string"}}},
}


def test_every_field_of_a_tool_is_decided_about() -> None:
    from anthropic.types.beta import BetaToolParam

    assert get_type_hints(BetaToolParam).keys() == TOOL_FIELDS.keys() | SEEN_TOOL_FIELDS.keys()
    for name, value in TOOL_FIELDS.items():
        assert asked(tools=[{**LOOK, name: value}]) == asked(tools=[LOOK])
    for name, value in SEEN_TOOL_FIELDS.items():
        assert asked(tools=[{**LOOK, name: value}]).tools != asked(tools=[LOOK]).tools


THINKING: dict[str, bool | None] = {
    "enabled": True,
    "disabled": False,
    "adaptive": None,
    "between_tools": None,
}


def test_every_kind_of_thinking_is_decided_about() -> None:
    assert set(types(beta_thinking_config_param.BetaThinkingConfigParam)) == THINKING.keys()
    for kind, enabled in THINKING.items():
        assert asked(thinking={"type": kind, "display": "summarized"}).reasoning.enabled is enabled


CHOICES = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}


def test_every_tool_choice_is_taken_as_object_and_as_bare_string() -> None:
    assert set(types(beta_tool_choice_param.BetaToolChoiceParam)) == CHOICES.keys()
    for kind, mode in CHOICES.items():
        found = asked(tools=[LOOK], tool_choice={"type": kind, "name": "look"}).tool_choice
        assert found.mode == mode
        if kind != "tool":
            assert asked(tools=[LOOK], tool_choice=kind).tool_choice == found.__class__(found.mode)
        single = {"type": kind, "name": "look", "disable_parallel_tool_use": True}
        assert not asked(tools=[LOOK], tool_choice=single).tool_choice.parallel
