"""Every field, input item and tool of Responses that the official SDK knows is decided about."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from mcp.types import Tool, ToolAnnotations
from openai.types.responses import (
    ResponseInputItemParam,
    ResponsesClientEventParam,
    ToolParam,
)
from openai.types.responses.response_create_params import (
    ResponseCreateParamsBase,
    ResponseCreateParamsStreaming,
)
from openai.types.responses.tool_param import Mcp as McpParam
from starlette.datastructures import Headers

from lmnb.errors import LmnbError
from lmnb.server.openai.body import check
from lmnb.server.openai.errors import UnsupportedParameter
from lmnb.server.openai.responses_input import listed
from lmnb.server.openai.responses_items import translate as translate_items
from lmnb.server.openai.responses_mcp_tools import McpTool
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
    "mcp_call": {"id": "m", "server_label": "s", "name": "look", "arguments": "{}", "output": "o"},
}
DECIDING: dict[str, dict[str, Any]] = {
    "mcp_list_tools": {"server_label": "s", "tools": []},
    "mcp_approval_request": {"server_label": "s", "name": "look", "arguments": "{}"},
    "mcp_approval_response": {"approval_request_id": "r", "approve": True},
}
"""Not said to the model, but they decide on what is done here (`test_mcp_responses`)."""


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
    item = {"type": kind, "id": "x_1", **DECIDING.get(kind, {}), **UNDERSTOOD.get(kind, {})}
    messages = translate_items([item])
    assert bool(messages) == (kind in UNDERSTOOD)
    assert bool(noted) == (kind not in UNDERSTOOD | DECIDING)
    [kept] = listed([item])
    assert (kept["type"], bool(kept["id"])) == (kind, True)


def test_all_that_is_understood_is_known_to_the_sdk() -> None:
    assert set(UNDERSTOOD) < types(ResponseInputItemParam)


# --- tools ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(types(ToolParam)))
def test_every_tool_is_offered_or_left_out(noted: dict[str, None], kind: str) -> None:
    tool: dict[str, Any] = {"type": kind, "name": "look"}
    if kind == "namespace":
        tool |= {"tools": [FUNCTION]}
    if kind == "mcp":
        tool |= {"server_label": "s", "server_url": "https://x"}
    body = check(BASE | {"tools": [tool]}, ResponsesBody)
    offered = kind in {"function", "custom", "namespace", "mcp"}
    assert bool(body.toolbox.tools or body.given_tools.servers) == offered
    assert bool(noted) == (not offered)
    assert in_progress(body).tools == [tool], "the list is repeated as it was"


MCP: dict[str, Any] = {"type": "mcp", "server_label": "s", "server_url": "https://x/mcp"}
MCP_HONOURED: dict[str, Any] = {
    "server_label": "t",
    "server_url": "https://y/mcp",
    "headers": {"x-a": "b"},
    "authorization": "secret",
    "allowed_tools": {"tool_names": ["look"], "read_only": True},
    "require_approval": "never",
}
MCP_IGNORED: dict[str, Any] = {
    "allowed_callers": ["programmatic"],
    "defer_loading": True,
    "server_description": "Knows all.",
}
MCP_REFUSED: dict[str, Any] = {"connector_id": "connector_gmail", "tunnel_id": "t"}


def server(**fields: Any) -> McpTool:
    body = check(BASE | {"tools": [MCP | fields]}, ResponsesBody)
    return body.given_tools.servers[0]


def test_every_field_of_an_mcp_tool_is_decided_about() -> None:
    known = set(get_type_hints(McpParam)) - {"type"}
    assert known == set(MCP_HONOURED) | set(MCP_IGNORED) | set(MCP_REFUSED)
    for field, value in MCP_HONOURED.items():
        assert server(**{field: value}) != server(), field
    for field, value in MCP_IGNORED.items():
        assert server(**{field: value}) == server(), field
    for field, value in MCP_REFUSED.items():
        with pytest.raises(UnsupportedParameter) as raised:
            server(**{field: value})
        assert raised.value.param == f"tools[0].{field}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"server_label": None}, "server_label"),
        ({"server_label": " "}, "server_label"),
        ({"server_url": "ftp://x"}, "server_url"),
        ({"server_url": None, "headers": {"a": "b"}}, "server_url"),
        ({"headers": {"a": 1}}, "headers.a"),
        ({"headers": []}, "headers"),
        ({"authorization": 5}, "authorization"),
        ({"authorization": "a", "headers": {"AUTHORIZATION": "b"}}, "authorization"),
        ({"allowed_tools": "look"}, "allowed_tools"),
        ({"allowed_tools": [1]}, "allowed_tools[0]"),
        ({"allowed_tools": {"read_only": "yes"}}, "allowed_tools.read_only"),
        ({"require_approval": "sometimes"}, "require_approval"),
        ({"require_approval": {"never": 5}}, "require_approval.never"),
    ],
)
def test_mistakes_in_an_mcp_tool_name_their_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(LmnbError) as raised:
        server(**fields)
    assert (raised.value.status, raised.value.param) == (400, f"tools[0].{param}")


def test_two_mcp_servers_of_one_label() -> None:
    with pytest.raises(LmnbError) as raised:
        check(BASE | {"tools": [MCP, MCP]}, ResponsesBody).given_tools  # noqa: B018
    assert raised.value.param == "tools[1].server_label"


@pytest.mark.parametrize(
    ("given", "asks"),
    [
        (None, {"read", "write"}),
        ("always", {"read", "write"}),
        ("never", set()),
        ({"never": {"tool_names": ["read"]}}, {"write"}),
        ({"never": {"read_only": True}}, {"write"}),
        ({"never": {}}, {"read", "write"}),
        ({"always": {"tool_names": ["read"]}}, {"read", "write"}),
        ({"never": {"tool_names": ["read", "write"]}, "always": {"read_only": False}}, {"write"}),
    ],
)
def test_who_has_to_agree(given: Any, asks: set[str]) -> None:
    """What nothing is said of needs approval."""
    tools = [
        Tool(name="read", input_schema={}, annotations=ToolAnnotations(read_only_hint=True)),
        Tool(name="write", input_schema={}),
    ]
    approval = server(require_approval=given).approval
    assert {tool.name for tool in tools if approval.is_needed(tool)} == asks


def test_secrets_are_not_repeated() -> None:
    """Responses are stored, and retrieved by others."""
    tool = MCP | {"headers": {"x-key": "secret"}, "authorization": "secret"}
    body = check(BASE | {"tools": [tool, FUNCTION]}, ResponsesBody)
    assert in_progress(body).tools == [MCP, FUNCTION]


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"type": "mcp"}, "tool_choice.server_label"),
        ({"type": "mcp", "server_label": "t"}, "tool_choice.server_label"),
        ({"type": "mcp", "server_label": "s", "name": 5}, "tool_choice.name"),
        (
            {"type": "allowed_tools", "tools": [{"type": "mcp", "server_label": "t"}]},
            "tool_choice.tools[0].server_label",
        ),
        ({"type": "allowed_tools", "mode": "required", "tools": []}, "tool_choice"),
    ],
)
def test_choices_of_servers_that_there_are_not(choice: Any, param: str) -> None:
    with pytest.raises(LmnbError) as raised:
        seen({"tools": [MCP], "tool_choice": choice})
    assert raised.value.param == param


def test_allowed_tools_keep_the_servers_that_they_list() -> None:
    tools = [FUNCTION, MCP, MCP | {"server_label": "t"}]
    wanted = {"type": "allowed_tools", "tools": [{"type": "mcp", "server_label": "t"}]}
    given = check(BASE | {"tools": tools, "tool_choice": wanted}, ResponsesBody).given_tools
    assert [one.label for one in given.servers] == ["t"]
    assert not given.toolbox.tools
