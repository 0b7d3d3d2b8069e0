"""Tools of MCP servers in Responses: the official SDKs on both sides, and a scripted model between."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, cast

import httpx2
import openai
import pytest
from mcp_caller import ANSWER, FORCED, SEEN, STDIO, TWICE, WORDS, loaded_caller, over_http
from openai.types.responses import Response, ResponsesServerEvent
from pydantic import TypeAdapter
from server_home import ServerHome, wait_for
from websockets.sync.client import unix_connect

from lmnb.chat.conversation import Message, Request, Text, Tool, ToolCall, ToolResult
from lmnb.chat.events import TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from lmnb.client import Client
from lmnb.server.mcp.loop import ToolLoop
from lmnb.server.mcp.steps import Approved, Asked, Called, Step
from lmnb.server.mcp.toolset import Toolset
from lmnb.server.mcp.transcript import Transcript
from lmnb.server.openai.responses_objects import FunctionCallItem, McpCallItem, in_progress
from lmnb.server.openai.responses_request import ResponsesBody
from lmnb.server.openai.responses_stream import ResponseStream
from lmnb.server.state import State

MODEL = "mcp-responder"
ODD = f"odd{SEEN}"
"""A server whose errors, which have its label, are what the model waits for."""
SHORT: dict[str, Any] = {"temperature": 0, "max_output_tokens": 2000}
"""A scripted model that is asked what was not foreseen goes on for ever."""
CLOCK: dict[str, Any] = {
    "type": "function",
    "name": "clock",
    "parameters": {
        "type": "object",
        "properties": {"zone": {"type": "string"}},
        "required": ["zone"],
    },
}


@pytest.fixture(scope="module")
def loaded(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path = server.path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"files": STDIO, ODD: STDIO}}))
    client = server.attach()
    with loaded_caller(client, tmp_path_factory.mktemp("mcp"), MODEL):
        yield client
    path.unlink()


@pytest.fixture(scope="module")
def remote() -> Iterator[str]:
    with over_http() as url:
        yield url


@pytest.fixture
def sdk(loaded: Client) -> openai.OpenAI:
    return loaded.openai(_strict_response_validation=True, max_retries=0)


def far(url: str, *tools: str, approval: Any = "never", **more: Any) -> Any:
    return {
        "type": "mcp",
        "server_label": "far",
        "server_url": url,
        "allowed_tools": list(tools),
        "require_approval": approval,
        **more,
    }


def files(*tools: str, label: str = "files", **more: Any) -> Any:
    """The server of `mcp.json`, which keeps its state."""
    tool = {"type": "mcp", "server_label": label, "require_approval": "never", **more}
    return {**tool, "allowed_tools": list(tools)} if tools else tool


def ask(sdk: openai.OpenAI, *tools: Any, input_: Any = "Well?", **more: Any) -> Response:
    found: Response = sdk.responses.create(
        model=MODEL, input=input_, tools=list(tools), **{**SHORT, **more}
    )
    return found


def kinds(answer: Response) -> list[str]:
    return [item.type for item in answer.output]


def dumped(answer: Response) -> list[dict[str, Any]]:
    """The output as a client sends it back."""
    return [item.model_dump(exclude_none=True) for item in answer.output]


def the(answer: Response, kind: str) -> Any:
    [item] = (item for item in answer.output if item.type == kind)
    return item


def approval(request: str, *, approve: bool = True, **more: Any) -> dict[str, Any]:
    kind = "mcp_approval_response"
    return {"type": kind, "approval_request_id": request, "approve": approve, **more}


def visits(sdk: openai.OpenAI) -> int:
    """How often the tool of that name has been called, this call included."""
    return int(the(ask(sdk, files("visits")), "mcp_call").output.split()[0])


# --- calls ------------------------------------------------------------------------------


def test_a_call(sdk: openai.OpenAI, remote: str) -> None:
    tool = far(remote, "weather", headers={"x-key": "secret"}, authorization="secret")
    answer = ask(sdk, tool)
    assert kinds(answer) == ["mcp_list_tools", "message", "mcp_call", "message"]
    dicts: list[Any] = [item.to_dict() for item in answer.output]
    tools, words, call, message = dicts
    [listed] = tools.pop("tools")
    assert tools == {
        "id": tools["id"], "type": "mcp_list_tools", "server_label": "far", "error": None,
    }  # fmt: skip
    assert listed["name"] == "weather"
    assert listed["description"] == "The weather in a city."
    assert listed["input_schema"]["properties"]["city"]["type"] == "string"
    assert listed["annotations"] == {"readOnlyHint": True}
    assert call == {
        "id": call["id"],
        "type": "mcp_call",
        "status": "completed",
        "server_label": "far",
        "name": "weather",
        "arguments": '{"city": "Ulm"}',
        "output": f"It rains in Ulm. {SEEN}",
        "error": None,
        "approval_request_id": None,
    }
    assert [str(item["id"]).split("_")[0] for item in (tools, call)] == ["mcpl", "mcp"]
    assert [part["content"][0]["text"] for part in (words, message)] == [WORDS, ANSWER]
    assert answer.status == "completed"
    assert "secret" not in answer.to_json()
    assert sdk.responses.retrieve(answer.id).to_dict() == answer.to_dict()


def test_counts_are_those_of_all_steps(sdk: openai.OpenAI, remote: str) -> None:
    usage = ask(sdk, far(remote, "weather")).usage
    assert usage is not None
    first = sdk.responses.input_tokens.count(
        model=MODEL, input="Well?", tools=[far(remote, "weather")]
    ).input_tokens
    without = sdk.responses.input_tokens.count(model=MODEL, input="Well?").input_tokens
    assert first > without, "the tools are part of the prompt"
    assert usage.input_tokens > 2 * first
    details = usage.input_tokens_details
    assert details.cached_tokens + details.cache_write_tokens == usage.input_tokens
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_a_stream(sdk: openai.OpenAI, remote: str) -> None:
    with sdk.responses.stream(
        model=MODEL, input="Well?", tools=[far(remote, "weather")], **SHORT
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    about = [event for event in events if event.type.split(".")[1].startswith(("mcp", "output_i"))]
    names = [event.type.removeprefix("response.") for event in about]
    deltas = names.count("mcp_call_arguments.delta")
    assert names == [
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
        "output_item.added",
        "output_item.done",
        "output_item.added",
        "mcp_call.in_progress",
        *["mcp_call_arguments.delta"] * deltas,
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
        "output_item.added",
        "output_item.done",
    ]
    places = [getattr(event, "output_index", None) for event in about]
    assert places == [*[0] * 4, *[1] * 2, *[2] * (deltas + 5), *[3] * 2]
    text = "".join(
        event.delta for event in events if event.type == "response.mcp_call_arguments.delta"
    )
    assert text == the(final, "mcp_call").arguments == '{"city": "Ulm"}'
    ids = {event.item_id for event in events if event.type == "response.mcp_call.completed"}
    assert ids == {the(final, "mcp_call").id}
    whole = ask(sdk, far(remote, "weather"))
    without: Any = {"id", "created_at", "completed_at", "usage", "output"}
    assert final.model_dump(exclude=without) == whole.model_dump(exclude=without)
    strip: Any = {"id"}
    assert [item.model_dump(exclude=strip | {"content"}) for item in final.output] == [
        item.model_dump(exclude=strip | {"content"}) for item in whole.output
    ]


def test_a_conversation_goes_on(sdk: openai.OpenAI, remote: str) -> None:
    """What was listed and called stands in it, whoever keeps it."""
    tool = far(remote, "weather")
    first = ask(sdk, tool)
    stored = ask(sdk, tool, input_="And?", previous_response_id=first.id)
    asked: dict[str, Any] = {"role": "user", "content": "Well?"}
    more: dict[str, Any] = {"role": "user", "content": "And?"}
    sent = ask(sdk, tool, input_=[asked, *dumped(first), more], store=False)
    for answer in (stored, sent):
        assert kinds(answer) == ["message"]
        assert answer.output_text == ANSWER
    assert stored.usage is not None
    assert sent.usage is not None
    assert stored.usage.input_tokens == sent.usage.input_tokens
    listed = sdk.responses.input_items.list(stored.id).data
    assert "mcp_call" in [item.type for item in listed]


def test_a_conversation_by_its_id(sdk: openai.OpenAI, remote: str) -> None:
    conversation = sdk.conversations.create()
    first = ask(sdk, far(remote, "weather"), conversation=conversation.id)
    second = ask(sdk, far(remote, "weather"), input_="And?", conversation=conversation.id)
    assert [kinds(answer)[0] for answer in (first, second)] == ["mcp_list_tools", "message"]
    assert second.output_text == ANSWER
    items = sdk.conversations.items.list(conversation.id).data
    assert {"mcp_list_tools", "mcp_call"} < {item.type for item in items}


def test_functions_beside(sdk: openai.OpenAI, remote: str) -> None:
    """A call of the caller's tool ends the answer; the result of the other one is kept."""
    tools = [far(remote, "weather"), CLOCK]
    first = ask(sdk, *tools, input_=f"Well? {TWICE}")
    assert kinds(first) == ["mcp_list_tools", "mcp_call", "function_call"]
    assert the(first, "mcp_call").output == f"It rains in Bern. {SEEN}"
    call = the(first, "function_call")
    assert (call.name, call.arguments) == ("clock", '{"zone": "CET"}')
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
    second = ask(sdk, *tools, input_=[output], previous_response_id=first.id)
    assert (kinds(second), second.output_text) == (["message"], ANSWER)
    asked: Any = {"role": "user", "content": f"Well? {TWICE}"}
    sent = ask(sdk, *tools, input_=[asked, *dumped(first), output], store=False)
    assert (kinds(sent), sent.output_text) == (["message"], ANSWER)


def test_a_function_of_the_same_name(sdk: openai.OpenAI, remote: str) -> None:
    """The server's tool has another name for the model, and its own for the client."""
    clash: Any = {**CLOCK, "name": "weather"}
    choice: Any = {"type": "mcp", "server_label": "far", "name": "weather"}
    answer = ask(sdk, far(remote, "weather"), clash, input_=f"Well? {FORCED}", tool_choice=choice)
    call = the(answer, "mcp_call")
    assert (call.name, call.server_label, call.status) == ("weather", "far", "completed")


# --- what may be called -----------------------------------------------------------------


def test_filters(sdk: openai.OpenAI, remote: str) -> None:
    everything = ask(sdk, far(remote, allowed_tools=None), input_=f"Well? {SEEN}")
    names = {tool.name for tool in the(everything, "mcp_list_tools").tools}
    assert {"weather", "visits", "die"} <= names
    harmless = ask(sdk, far(remote, allowed_tools={"read_only": True}))
    assert [tool.name for tool in the(harmless, "mcp_list_tools").tools] == ["weather"]
    assert the(harmless, "mcp_call").status == "completed"


def test_a_forced_call_is_made_once(sdk: openai.OpenAI, remote: str) -> None:
    wanted = {"type": "mcp", "server_label": "far", "name": "visits"}
    choices: list[Any] = [wanted, {**wanted, "name": None}, "required"]
    for choice in choices:
        answer = ask(sdk, far(remote, "visits"), input_=f"Well? {FORCED}", tool_choice=choice)
        assert kinds(answer).count("mcp_call") == 1
        assert answer.output_text.endswith(ANSWER)
    with pytest.raises(openai.BadRequestError) as raised:
        ask(sdk, far(remote, "visits"), tool_choice={**wanted, "name": "weather"})
    assert raised.value.param == "tool_choice"
    assert "'weather'" in raised.value.message
    none = ask(sdk, far(remote, "visits"), tool_choice="none", input_=f"Well? {SEEN}")
    assert kinds(none) == ["mcp_list_tools", "message"]


def test_calls_have_an_end(sdk: openai.OpenAI, remote: str) -> None:
    for most in (0, 2):
        answer = ask(sdk, far(remote, "again"), max_tool_calls=most)
        assert kinds(answer).count("mcp_call") == most
        assert answer.max_tool_calls == most
    # A function may still be called, so the model may still try.
    tools = [far(remote, "weather"), CLOCK]
    refused = the(ask(sdk, *tools, input_=f"Well? {TWICE}", max_tool_calls=0), "mcp_call")
    assert refused.status == "failed"
    assert "No more tools" in refused.error.message


def test_a_limit_of_tokens_is_for_all_steps(sdk: openai.OpenAI, remote: str) -> None:
    whole = ask(sdk, far(remote, "weather")).usage
    assert whole is not None
    cut = ask(sdk, far(remote, "weather"), max_output_tokens=whole.output_tokens - 1)
    assert cut.usage is not None
    assert cut.usage.output_tokens == whole.output_tokens - 1
    assert kinds(cut)[-2:] == ["mcp_call", "message"]
    assert cut.status == "incomplete"
    early = ask(sdk, far(remote, "weather"), max_output_tokens=4)
    call = the(early, "mcp_call")
    assert (call.status, call.output, call.error) == ("incomplete", None, None)
    after = ask(sdk, input_=f"Well? {SEEN}", previous_response_id=early.id)
    assert after.output_text == ANSWER


# --- approval ---------------------------------------------------------------------------


def asked_for(sdk: openai.OpenAI, *tools: Any, **more: Any) -> tuple[Response, str]:
    """An answer that waits for approval, and the id of its request."""
    answer = ask(sdk, *tools, **more)
    assert kinds(answer) == ["mcp_list_tools", "message", "mcp_approval_request"]
    return answer, the(answer, "mcp_approval_request").id


def test_approval(sdk: openai.OpenAI) -> None:
    tool = files("visits", require_approval="always")
    before = visits(sdk)
    first, request = asked_for(sdk, tool)
    item = the(first, "mcp_approval_request")
    assert (item.name, item.server_label) == ("visits", "files")
    assert item.arguments == '{"city": "Ulm"}'
    assert request.startswith("mcpr_")
    with sdk.responses.stream(
        model=MODEL,
        input=[approval(request)],  # type: ignore[list-item]
        tools=[tool],
        previous_response_id=first.id,
        **SHORT,
    ) as stream:
        names = [event.type.removeprefix("response.") for event in stream]
        second = stream.get_final_response()
    assert names[2:8] == [
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]
    assert kinds(second) == ["mcp_call", "message"]
    call = the(second, "mcp_call")
    assert call.approval_request_id == request
    assert call.output.startswith(f"{before + 1} ")
    assert second.output_text == ANSWER
    # Its answer again, when the call has been made: nothing is called once more.
    third = ask(sdk, tool, input_=[approval(request)], previous_response_id=second.id)
    assert kinds(third) == ["message"]
    assert visits(sdk) == before + 2


def test_approval_by_default(sdk: openai.OpenAI, remote: str) -> None:
    tool = far(remote, "weather")
    del tool["require_approval"]
    asked_for(sdk, tool)


def test_denial(sdk: openai.OpenAI) -> None:
    tool = files("visits", require_approval="always")
    before = visits(sdk)
    first, request = asked_for(sdk, tool)
    denial = approval(request, approve=False, reason=f"not today {SEEN}")
    second = ask(sdk, tool, input_=[denial], previous_response_id=first.id)
    assert (kinds(second), second.output_text) == (["message"], ANSWER), "it was told why"
    asked: Any = {"role": "user", "content": "Well?"}
    sent = ask(sdk, tool, input_=[asked, *dumped(first), denial], store=False)
    assert (kinds(sent), sent.output_text) == (["message"], ANSWER)
    third = ask(sdk, tool, input_="And?", previous_response_id=second.id)
    assert third.output_text == ANSWER, "what it was told is remembered"
    assert visits(sdk) == before + 1


def test_approval_that_never_comes(sdk: openai.OpenAI, remote: str) -> None:
    """The conversation goes on as if the call had not been asked for."""
    tool = far(remote, "weather", approval="always")
    first, request = asked_for(sdk, tool)
    second = ask(sdk, tool, input_="Never mind.", previous_response_id=first.id)
    assert kinds(second) == ["message", "mcp_approval_request"]
    asked: Any = {"role": "user", "content": "Well?"}
    other: Any = {"role": "user", "content": "Never mind."}
    sent = ask(sdk, tool, input_=[asked, *dumped(first), other], store=False)
    assert kinds(sent) == ["message", "mcp_approval_request"]
    # The first may still be answered.
    late = ask(sdk, tool, input_=[approval(request)], previous_response_id=second.id)
    assert kinds(late) == ["mcp_call", "message"]


def test_approval_by_who_keeps_the_conversation(sdk: openai.OpenAI, remote: str) -> None:
    tool = far(remote, "weather", approval="always")
    first, request = asked_for(sdk, tool, store=False)
    items: list[Any] = [{"role": "user", "content": "Well?"}, *dumped(first), approval(request)]
    second = ask(sdk, tool, input_=items, store=False)
    assert kinds(second) == ["mcp_call", "message"]
    # The whole of it once more: what was approved has been done.
    items += [*dumped(second), {"role": "user", "content": "And?"}]
    third = ask(sdk, tool, input_=items, store=False)
    assert (kinds(third), third.output_text) == (["message"], ANSWER)


def test_approval_in_a_conversation(sdk: openai.OpenAI, remote: str) -> None:
    conversation = sdk.conversations.create().id
    tool = far(remote, "weather", approval="always")
    _, request = asked_for(sdk, tool, conversation=conversation)
    second = ask(sdk, tool, input_=[approval(request)], conversation=conversation)
    assert kinds(second) == ["mcp_call", "message"]
    third = ask(sdk, tool, input_="And?", conversation=conversation)
    assert (kinds(third), third.output_text) == (["message"], ANSWER)
    items = sdk.conversations.items.list(conversation, order="asc").data
    assert [item.type for item in items if item.type.startswith("mcp")] == [
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
    ]


def test_approval_of_some_calls(sdk: openai.OpenAI, remote: str) -> None:
    """The others are made at once, and the caller's are its own."""
    tools = [far(remote, "weather", approval={"never": {"tool_names": ["visits"]}}), CLOCK]
    first = ask(sdk, *tools, input_=f"Well? {TWICE}")
    assert kinds(first) == ["mcp_list_tools", "function_call", "mcp_approval_request"]
    call, request = the(first, "function_call"), the(first, "mcp_approval_request")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
    answers = [output, approval(request.id)]
    second = ask(sdk, *tools, input_=answers, previous_response_id=first.id)
    assert (kinds(second), second.output_text) == (["mcp_call", "message"], ANSWER)


def test_approvals_that_make_no_sense(sdk: openai.OpenAI, remote: str) -> None:
    tool = far(remote, "weather", approval="always")
    first, request = asked_for(sdk, tool)
    place = "input[0].approval_request_id"
    cases: list[tuple[list[Any], dict[str, Any], str]] = [
        ([tool], approval("mcpr_no"), place),
        ([tool], {**approval(request), "approve": "yes"}, "input[0].approve"),
        ([tool], {**approval(request), "approval_request_id": None}, place),
        ([], approval(request), "tools"),
    ]
    for tools, item, param in cases:
        with pytest.raises(openai.BadRequestError) as raised:
            ask(sdk, *tools, input_=[item], previous_response_id=first.id)
        assert raised.value.param == param
    other = ask(sdk, input_=f"Well? {SEEN}")
    with pytest.raises(openai.BadRequestError) as raised:
        ask(sdk, tool, input_=[approval(request)], previous_response_id=other.id)
    assert raised.value.param == place, "another conversation's"


# --- roads ------------------------------------------------------------------------------


def test_in_the_background(sdk: openai.OpenAI, remote: str) -> None:
    tool = far(remote, "weather", approval="always")
    first = ask(sdk, tool, background=True)
    wait_for(lambda: sdk.responses.retrieve(first.id).status == "completed", "the first answer")
    first = sdk.responses.retrieve(first.id)
    request = the(first, "mcp_approval_request").id
    second = ask(
        sdk, tool, input_=[approval(request)], previous_response_id=first.id, background=True
    )
    wait_for(lambda: sdk.responses.retrieve(second.id).status == "completed", "the second")
    assert kinds(sdk.responses.retrieve(second.id)) == ["mcp_call", "message"]
    events = [event.type for event in sdk.responses.retrieve(second.id, stream=True)]
    assert "response.mcp_call.completed" in events


def test_cancelled_in_mid_call(sdk: openai.OpenAI, loaded: Client, remote: str) -> None:
    job = ask(sdk, far(remote, "sleep"), background=True)

    def calls() -> bool:
        found = sdk.responses.retrieve(job.id).output
        return bool(found) and getattr(found[-1], "arguments", "") != ""

    wait_for(calls, "the call")
    cancelled = sdk.responses.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert the(cancelled, "mcp_call").status == "incomplete"
    wait_for(lambda: all(not row["active"] for row in loaded.ps()), "the model to be free")
    after = ask(sdk, input_=f"Well? {SEEN}", previous_response_id=job.id)
    assert after.output_text == ANSWER


def test_over_a_websocket(loaded: Client, remote: str) -> None:
    """What is not stored is remembered with what was asked for, and listed."""
    events: TypeAdapter[Any] = TypeAdapter(ResponsesServerEvent)
    frame = {"type": "response.create", "model": MODEL, "store": False, "temperature": 0}
    frame["tools"] = [far(remote, "weather", approval="always")]
    with unix_connect(loaded.socket, "ws://local/v1/responses", max_size=None) as socket:

        def create(**fields: Any) -> Response:
            socket.send(json.dumps({**frame, **fields}))
            while True:
                event = events.validate_json(socket.recv(timeout=60))
                if event.type == "response.completed":
                    found: Response = event.response
                    return found
                assert event.type not in {"error", "response.failed"}, event

        first = create(input="Well?")
        request = the(first, "mcp_approval_request").id
        second = create(input=[approval(request)], previous_response_id=first.id)
        assert kinds(second) == ["mcp_call", "message"]
        third = create(input="And?", previous_response_id=second.id)
        assert kinds(third) == ["message"]
        again = create(input=[approval(request)], previous_response_id=third.id)
        assert kinds(again) == ["message"]


# --- without a server -------------------------------------------------------------------


def written(id_: str, name: str, *, is_whole: bool = True) -> list[Step]:
    """A call as the model writes it."""
    steps: list[Step] = [ToolCallStart(0, id_, name), ToolCallDelta(0, "{}")]
    return [*steps, ToolCallEnd(0)] if is_whole else steps


def test_what_comes_into_a_conversation() -> None:
    """Only calls with a result, and the caller's own if they are whole."""
    one, two, three, four = (ToolCall(str(n), "look", "{}") for n in range(1, 5))
    offered: Any = None
    result = (Text("rain"),)
    transcript = Transcript()
    for step in (
        Approved(request="1", call=one, offered=offered),
        Called(call=one, offered=offered, parts=result),
        TextDelta("I look."),
        *written("2", "look"),
        *written("3", "look"),
        *written("4", "look"),
        *written("5", "own", is_whole=False),
        Called(call=two, offered=offered, parts=result, failure="execution_error"),
        Asked(three, offered),
        Called(call=four, offered=offered, is_made=False),
    ):
        transcript.feed(step)
    assert transcript.messages == (
        Message("assistant", (one,)),
        Message("tool", (ToolResult("1", result),)),
        Message("assistant", (Text("I look."), two)),
        Message("tool", (ToolResult("2", result, is_error=True),)),
    )


def test_a_tool_that_there_is_not() -> None:
    """It is called of no server, and the model told so: the client could not do anything about it."""
    request = Request(model="m", tools=(Tool("clock"),))
    loop = ToolLoop(cast("State", None), request)
    answer = ResponseStream(in_progress(ResponsesBody(model="m", input="x")), loop=loop)
    call = ToolCall("1", "nothing", "{}")
    called = asyncio.run(Toolset().call(call))
    for step in (*written("1", "nothing"), called, *written("2", "clock")):
        list(answer.feed(step))
    first, second = answer.snapshot().output
    assert isinstance(first, McpCallItem)
    assert (first.status, first.server_label, first.name) == ("failed", "", "nothing")
    assert first.error is not None
    assert first.error["code"] == -32602
    assert isinstance(second, FunctionCallItem)


# --- what goes wrong --------------------------------------------------------------------


def test_tools_that_fail(sdk: openai.OpenAI, loaded: Client) -> None:
    """The client is told, and so is the model, which goes on."""
    loaded.change_setting("mcp_timeout", 2)
    try:
        for tool, code, reason in (
            ("broken", None, "the well is dry"),
            ("die", -32000, "has ended|closed"),
            ("sleep", -32001, "took over 2 seconds"),
        ):
            with sdk.responses.stream(
                model=MODEL, input="Well?", tools=[files(tool, label=ODD)], **SHORT
            ) as stream:
                names = [event.type for event in stream]
                answer = stream.get_final_response()
            assert "response.mcp_call.failed" in names
            call = the(answer, "mcp_call")
            assert (call.status, call.output) == ("failed", None)
            if code is None:
                assert call.error.type == "mcp_tool_execution_error"
                assert reason in call.error.content[0]["text"]
            else:
                assert (call.error.type, call.error.code) == ("mcp_protocol_error", code)
                assert re.search(reason, call.error.message)
            assert answer.output_text.endswith(ANSWER)
            asked: Any = {"role": "user", "content": "Well?"}
            more: Any = {"role": "user", "content": "And?"}
            sent = ask(
                sdk, files(tool, label=ODD), input_=[asked, *dumped(answer), more], store=False
            )
            assert (kinds(sent), sent.output_text) == (["message"], ANSWER), "the error is told"
    finally:
        loaded.change_setting("mcp_timeout", None)


def test_results_that_are_no_text(sdk: openai.OpenAI, remote: str) -> None:
    answer = ask(sdk, far(remote, "picture"))
    blocks = json.loads(the(answer, "mcp_call").output)
    assert [block["type"] for block in blocks] == ["image", "text"]
    asked: Any = {"role": "user", "content": "Well?"}
    more: Any = {"role": "user", "content": "And?"}
    sent = ask(sdk, far(remote, "picture"), input_=[asked, *dumped(answer), more], store=False)
    assert (kinds(sent), sent.output_text) == (["message"], ANSWER)
    assert sent.usage is not None
    assert sent.usage.input_tokens < 1000, "the picture is not read as text"


def test_servers_that_cannot_be_reached(sdk: openai.OpenAI) -> None:
    nowhere = far("http://127.0.0.1:9/mcp", "weather")
    with pytest.raises(openai.APIStatusError) as raised:
        ask(sdk, nowhere)
    assert (raised.value.status_code, raised.value.param) == (424, "tools[0]")
    assert "far" in raised.value.message
    events = list(sdk.responses.create(model=MODEL, input="Well?", tools=[nowhere], stream=True))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.failed",
        "output_item.done",
        "failed",
    ]
    failed = events[-1]
    assert failed.type == "response.failed"
    assert failed.response.error is not None
    assert failed.response.error.code == "server_error"
    assert "far" in the(failed.response, "mcp_list_tools").error


def test_what_can_be_told_before_servers_are_asked(sdk: openai.OpenAI) -> None:
    """A status, also of a stream."""
    with pytest.raises(openai.NotFoundError):
        sdk.responses.create(
            model="no/such", input="x", tools=[far("http://127.0.0.1:9/mcp")], stream=True
        )
    with pytest.raises(openai.BadRequestError) as raised:
        ask(sdk, {"type": "mcp", "server_label": "none"})
    assert raised.value.param == "tools[0].server_url"
    assert "files" in raised.value.message


def test_what_the_network_may(loaded: Client, remote: str) -> None:
    """As in `/api/v1/chat`: off by default; configured servers need a token with the permission."""
    tools = {"allow_request_mcp": far(remote, "weather"), "allow_configured_mcp": files("weather")}
    token = loaded.create_token("calls", ["mcp", "inference"])["token"]
    other = loaded.create_token("asks", ["inference"])["token"]

    def status(http: httpx2.Client, tool: Any, token: str = "") -> tuple[int, Any]:
        body = {"model": MODEL, "input": "Well?", "tools": [tool], "temperature": 0}
        answer = http.post("/v1/responses", json=body, headers={"x-api-key": token}, timeout=60)
        return answer.status_code, (answer.json().get("error") or {}).get("param")

    try:
        with httpx2.Client(base_url=loaded.serve(port=0)["url"]) as http:
            for setting, tool in tools.items():
                assert status(http, tool) == (403, "tools[0]")
                loaded.change_setting(setting, "on")
            assert status(http, tools["allow_request_mcp"]) == (200, None)
            assert status(http, tools["allow_configured_mcp"]) == (403, "tools[0]")
        loaded.stop_serving()
        with httpx2.Client(base_url=loaded.serve(port=0, require_auth=True)["url"]) as http:
            for tool in tools.values():
                assert status(http, tool, other) == (403, "tools[0]")
                assert status(http, tool, token) == (200, None)
    finally:
        loaded.stop_serving()
        for name in ("calls", "asks"):
            loaded.remove_token(name)
        for setting in tools:
            loaded.change_setting(setting, None)
