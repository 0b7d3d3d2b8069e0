"""Every field, input item and tool of Responses that the official SDK knows is decided about."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from openai.types.responses import (
    ResponseInputItemParam,
    ResponsesClientEventParam,
    ToolParam,
)
from openai.types.responses.response_create_params import (
    ResponseCreateParamsBase,
    ResponseCreateParamsStreaming,
)
from starlette.datastructures import Headers

from lmnb.errors import LmnbError
from lmnb.server.openai.body import check
from lmnb.server.openai.responses_input import listed
from lmnb.server.openai.responses_items import translate as translate_items
from lmnb.server.openai.responses_objects import in_progress
from lmnb.server.openai.responses_request import ResponsesBody, translate

FUNCTION: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}}
SCHEMA: Any = {"type": "json_schema", "name": "s", "schema": {"type": "object"}}
BASE: dict[str, Any] = {"model": "m", "input": "hello"}

HONOURED: dict[str, Any] = {
    "background": True,
    "conversation": {"id": "conv_1"},
    "generate": False,
    "include": ["message.output_text.logprobs"],
    "input": [{"role": "user", "content": "else"}],
    "instructions": "Be brief.",
    "max_output_tokens": 5,
    "max_tool_calls": 3,
    "metadata": {"a": "b"},
    "model": "other",
    "parallel_tool_calls": False,
    "previous_response_id": "resp_1",
    "prompt_cache_key": "key",
    "prompt_cache_options": {"prewarm": True},
    "reasoning": {"effort": "low"},
    "safety_identifier": "who",
    "store": False,
    "stream": True,
    "temperature": 0.5,
    "text": {"format": SCHEMA},
    "tool_choice": "none",
    "tools": [FUNCTION],
    "top_logprobs": 2,
    "top_p": 0.5,
    "user": "who",
}
"""Values that change the request or what the response says of it."""

IGNORED: dict[str, Any] = {
    "access_programs": {"cyber": "standard"},
    "background_options": {"completion_window": "soonest"},
    "context_management": [{"type": "compaction", "compact_threshold": 10_000}],
    "image": {"context_compression": "auto"},
    "moderation": {"model": "omni-moderation-latest"},
    "prompt_cache_retention": "24h",
    "service_tier": "flex",
    "stream_options": {"include_obfuscation": False},
    "truncation": "auto",
    # Of the WebSocket's frames, where they are read.
    "stream_id": "lane",
    "type": "response.create",
}

REFUSED: dict[str, Any] = {"prompt": {"id": "pmpt_1"}}


def seen(fields: dict[str, Any]) -> list[Any]:
    """All that a body comes to."""
    body = check(BASE | fields, ResponsesBody)
    echoed = in_progress(body)
    return [
        translate(body, Headers(), ()),
        body.stream,
        *(getattr(echoed, name) for name in echoed.__struct_fields__ if name not in _OWN),
    ]


_OWN = {"id", "created_at"}


def test_every_field_is_listed() -> None:
    known = set(get_type_hints(ResponseCreateParamsBase)) | set(
        get_type_hints(ResponseCreateParamsStreaming)
    )
    known |= set(get_type_hints(get_args(ResponsesClientEventParam)[0]))
    assert known == set(HONOURED) | set(IGNORED) | set(REFUSED)


@pytest.mark.parametrize("field", HONOURED)
def test_honoured_fields_change_something(field: str) -> None:
    assert seen({field: HONOURED[field]}) != seen({})
    assert seen({field: None} if field not in BASE else {}) == seen({})


@pytest.mark.parametrize("field", IGNORED)
def test_ignored_fields_change_nothing(field: str) -> None:
    assert seen({field: IGNORED[field]}) == seen({})


@pytest.mark.parametrize("field", REFUSED)
def test_refused_fields_are_named(field: str) -> None:
    with pytest.raises(LmnbError) as raised:
        seen({field: REFUSED[field]})
    assert (raised.value.param, raised.value.status) == (field, 400)


# --- items ------------------------------------------------------------------------------

UNDERSTOOD: dict[str, dict[str, Any]] = {
    "message": {"role": "user", "content": "hi", "phase": "commentary"},
    "reasoning": {"summary": [{"type": "summary_text", "text": "hm"}]},
    "function_call": {"call_id": "c", "name": "look", "arguments": "{}"},
    "function_call_output": {"call_id": "c", "output": "out"},
    "custom_tool_call": {"call_id": "c", "name": "look", "input": "in"},
    "custom_tool_call_output": {"call_id": "c", "output": "out"},
}


def types(union: Any) -> set[str]:
    """The values of `type` in a union of the SDK's parameters."""
    found: set[str] = set()
    for one in get_args(union):
        hint = get_type_hints(one)["type"]
        literals = [hint] if get_origin(hint) is Literal else get_args(hint)
        found |= {value for literal in literals for value in get_args(literal)}
    return found


# `item_reference` is replaced by the item before anything else is done with it.
@pytest.mark.parametrize("kind", sorted(types(ResponseInputItemParam) - {"item_reference"}))
def test_every_item_is_understood_or_left_out(noted: dict[str, None], kind: str) -> None:
    item = {"type": kind, **UNDERSTOOD.get(kind, {"id": "x_1"})}
    messages = translate_items([item])
    assert bool(messages) == (kind in UNDERSTOOD)
    assert bool(noted) == (kind not in UNDERSTOOD)
    [kept] = listed([item])
    assert (kept["type"], bool(kept["id"])) == (kind, True)


def test_all_that_is_understood_is_known_to_the_sdk() -> None:
    assert set(UNDERSTOOD) < types(ResponseInputItemParam)


# --- tools ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(types(ToolParam)))
def test_every_tool_is_offered_left_out_or_refused(noted: dict[str, None], kind: str) -> None:
    tool: dict[str, Any] = {"type": kind, "name": "look"}
    if kind == "namespace":
        tool |= {"tools": [FUNCTION]}
    if kind == "mcp":
        with pytest.raises(LmnbError) as raised:
            seen({"tools": [tool]})
        assert raised.value.param == "tools[0]"
        return
    body = check(BASE | {"tools": [tool]}, ResponsesBody)
    offered = kind in {"function", "custom", "namespace"}
    assert bool(body.toolbox.tools) == offered
    assert bool(noted) == (not offered)
    assert in_progress(body).tools == [tool], "the list is repeated as it was"
