"""What is done with stored responses: their input, their prompt's length, in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import httpx2
import openai
import pytest
from pydantic import BaseModel
from server_home import ServerHome, wait_for
from test_protocol_openai_chat import ENDLESS, wait_until_idle

from lmnb.attaching import forget
from lmnb.client import Client

LLM = "smollm2-135m-instruct"
SHORT: dict[str, Any] = {"model": LLM, "max_output_tokens": 4, "temperature": 0}
FOREVER: dict[str, Any] = {
    "model": LLM,
    "input": "One, two, three,",
    "extra_body": {"logit_bias": ENDLESS},
}


@pytest.fixture
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(_strict_response_validation=True, max_retries=0)


@pytest.fixture
def raw(client: Client) -> Iterator[httpx2.Client]:
    transport = httpx2.HTTPTransport(uds=client.socket)
    with httpx2.Client(transport=transport, base_url="http://local/v1", timeout=60) as http:
        yield http


def finished(sdk: openai.OpenAI, id_: str) -> Any:
    wait_for(lambda: sdk.responses.retrieve(id_).status not in {"queued", "in_progress"})
    found: Any = sdk.responses.retrieve(id_)
    return found


def underway(sdk: openai.OpenAI) -> Any:
    """A response in the background that has said something and will not end."""
    begun = sdk.responses.create(**FOREVER, background=True)
    wait_for(lambda: bool(sdk.responses.retrieve(begun.id).output_text))
    return begun


# --- input ------------------------------------------------------------------------------


def test_input_items(sdk: openai.OpenAI) -> None:
    """All of what a response was made from, in the long form that the SDK's types demand."""
    question: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Is it raining?"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "say", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "y"}]},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "Sure?"},
    ]  # fmt: skip
    first = sdk.responses.create(**SHORT, input=question)
    second = sdk.responses.create(**SHORT, input="And now?", previous_response_id=first.id)
    own = sdk.responses.input_items.list(first.id, order="asc").data
    assert [item.type for item in own] == [
        "message",
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "message",
        "message",
    ]
    everything = list(sdk.responses.input_items.list(second.id, order="asc", limit=4))
    assert everything[: len(own)] == own
    said, asked = everything[len(own) :]
    assert said.id == first.output[0].id
    assert asked.type == "message"
    assert asked.to_dict()["content"] == [{"type": "input_text", "text": "And now?"}]
    newest = sdk.responses.input_items.list(second.id, limit=1)
    assert [item.id for item in newest.data] == [asked.id]
    assert newest.has_more
    after = sdk.responses.input_items.list(second.id, after=str(asked.id), limit=1)
    assert [item.id for item in after.data] == [said.id]
    # Listed items can be referred to.
    sdk.responses.create(**SHORT, input=[{"type": "item_reference", "id": str(own[0].id)}])


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "msg_none"}, "after"),
    ],
)
def test_pages_that_do_not_exist(
    sdk: openai.OpenAI, raw: httpx2.Client, query: dict[str, Any], param: str
) -> None:
    answer = sdk.responses.create(**SHORT, input="Hello.")
    refused = raw.get(f"/responses/{answer.id}/input_items", params=query)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


def test_input_tokens(sdk: openai.OpenAI) -> None:
    """The count is that of the real prompt, whatever the prompt continues."""
    tools: Any = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
    ask: Any = {"model": LLM, "input": "Hello.", "instructions": "Be brief.", "tools": tools}
    answer = sdk.responses.create(**ask, max_output_tokens=1)
    assert answer.usage is not None
    assert sdk.responses.input_tokens.count(**ask).input_tokens == answer.usage.input_tokens
    ask |= {"previous_response_id": answer.id, "input": "And?"}
    second = sdk.responses.create(**ask, max_output_tokens=1)
    assert second.usage is not None
    assert sdk.responses.input_tokens.count(**ask).input_tokens == second.usage.input_tokens


def test_counting_waits_for_no_generation(sdk: openai.OpenAI) -> None:
    begun = underway(sdk)
    assert sdk.responses.input_tokens.count(model=LLM, input="Hello.").input_tokens > 0
    assert sdk.responses.retrieve(begun.id).status == "in_progress"
    sdk.responses.cancel(begun.id)


def test_a_prompt_is_read_into_the_cache(sdk: openai.OpenAI) -> None:
    ask: Any = {"model": LLM, "input": "What is the capital of the country Fr-7741?"}
    warmed = sdk.responses.create(**ask, extra_body={"generate": False})
    assert warmed.status == "completed"
    assert warmed.output == []
    assert warmed.usage is not None
    assert warmed.usage.output_tokens == 0
    answer = sdk.responses.create(**ask, max_output_tokens=1)
    assert answer.usage is not None
    cached = answer.usage.input_tokens_details.cached_tokens
    assert cached >= warmed.usage.input_tokens - 1
    later = sdk.responses.create(**SHORT, input=[], previous_response_id=warmed.id)
    assert later.usage is not None
    assert later.usage.input_tokens == warmed.usage.input_tokens


# --- in the background ------------------------------------------------------------------


def test_a_background_response(sdk: openai.OpenAI) -> None:
    begun = sdk.responses.create(**SHORT, input="Name a colour.", background=True)
    assert (begun.status, begun.background) == ("queued", True)
    assert begun.output == []
    done = finished(sdk, begun.id)
    assert done.status == "incomplete"
    assert done.output_text
    assert done.usage is not None
    assert done.usage.output_tokens == 4
    [asked] = sdk.responses.input_items.list(begun.id).data
    assert asked.type == "message"
    assert sdk.responses.create(**SHORT, input="Why?", previous_response_id=begun.id).output
    assert sdk.responses.cancel(begun.id).status == "incomplete", "it had ended"


def test_what_is_said_so_far_is_there(sdk: openai.OpenAI, client: Client) -> None:
    begun = underway(sdk)
    now = sdk.responses.retrieve(begun.id)
    assert now.status == "in_progress"
    assert now.output[0].to_dict()["status"] == "in_progress"
    assert sdk.responses.input_items.list(begun.id).data
    with pytest.raises(openai.BadRequestError, match="still being made") as raised:
        sdk.responses.create(**SHORT, input="And?", previous_response_id=begun.id)
    assert raised.value.code == "previous_response_not_found"
    cancelled = sdk.responses.cancel(begun.id)
    wait_until_idle(client)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text.startswith(now.output_text)
    assert sdk.responses.retrieve(begun.id).to_dict() == cancelled.to_dict()
    assert sdk.responses.cancel(begun.id).to_dict() == cancelled.to_dict()


def test_a_deleted_one_ends(sdk: openai.OpenAI, client: Client) -> None:
    begun = underway(sdk)
    sdk.responses.delete(begun.id)
    wait_until_idle(client)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(begun.id)


def test_a_stream_is_resumed_by_its_numbers(sdk: openai.OpenAI) -> None:
    ask: dict[str, Any] = {**SHORT, "max_output_tokens": 30, "input": "Tell me of the sea."}
    seen = []
    with sdk.responses.create(**ask, background=True, stream=True) as stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    first = seen[0]
    assert first.type == "response.created"
    assert [event.type for event in seen[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    id_ = first.response.id
    last = seen[-1].sequence_number
    rest = list(sdk.responses.retrieve(id_, stream=True, starting_after=last))
    numbers = [event.sequence_number for event in (*seen, *rest)]
    assert all(b == a + 1 for a, b in pairwise(numbers))
    assert rest[-1].type in {"response.completed", "response.incomplete"}
    # Again from its beginning, now from the disk, with the SDK's own helper.
    again = list(sdk.responses.retrieve(id_, stream=True))
    assert [event.to_dict() for event in again] == [event.to_dict() for event in (*seen, *rest)]
    with sdk.responses.stream(response_id=id_, starting_after=last) as helper:
        assert [event.sequence_number for event in helper] == numbers[last + 1 :]


def test_several_follow_one_response(client: Client) -> None:
    async def cancel_before_all(sdk: openai.AsyncOpenAI) -> None:
        begun = await sdk.responses.create(**FOREVER, background=True)

        async def follow() -> list[int]:
            stream = await sdk.responses.retrieve(begun.id, stream=True)
            return [event.sequence_number async for event in stream]

        following = [asyncio.create_task(follow()) for _ in range(3)]
        while not (await sdk.responses.retrieve(begun.id)).output_text:
            await asyncio.sleep(0.02)
        await sdk.responses.cancel(begun.id)
        one, *others = await asyncio.gather(*following)
        assert one == list(range(len(one)))
        assert all(other == one for other in others)

    async def run() -> None:
        transport = httpx2.AsyncHTTPTransport(uds=client.socket)
        async with openai.AsyncOpenAI(
            api_key="none",
            base_url="http://local/v1",
            http_client=httpx2.AsyncClient(transport=transport),
            _strict_response_validation=True,
        ) as sdk:
            await cancel_before_all(sdk)

    asyncio.run(run())


def test_parse_in_the_background(sdk: openai.OpenAI) -> None:
    class Colour(BaseModel):
        name: Literal["red", "blue"]

    begun = sdk.responses.parse(
        model=LLM,
        input="A colour?",
        text_format=Colour,
        background=True,
        extra_body={"max_output_tokens": 60},
    )
    done = finished(sdk, begun.id)
    assert Colour.model_validate_json(done.output_text).name


def test_what_the_background_refuses(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        sdk.responses.create(**SHORT, input="Hello.", background=True, store=False)
    assert raised.value.param == "background"
    with pytest.raises(openai.NotFoundError):
        sdk.responses.create(model="no/such", input="Hello.", background=True)
    plain = sdk.responses.create(**SHORT, input="Hello.")
    with pytest.raises(openai.BadRequestError, match="in the background"):
        sdk.responses.cancel(plain.id)
    with pytest.raises(openai.BadRequestError, match="in the background"):
        sdk.responses.retrieve(plain.id, stream=True)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.cancel("resp_none")
    with pytest.raises(openai.NotFoundError, match="not compacted"):
        sdk.responses.compact(model=LLM, input="Hello.")


def test_a_background_failure_is_told(client: Client) -> None:
    # Not strictly: the code that Codex needs is none of those that the SDK's type lists.
    sdk = client.openai(max_retries=0)
    begun = sdk.responses.create(model=LLM, input="word " * 10_000, background=True)
    done = finished(sdk, begun.id)
    assert done.status == "failed"
    assert done.error is not None
    assert str(done.error.code) == "context_length_exceeded"


# --- across restarts --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "close"])
def test_a_restart_ends_what_is_unfinished(fresh_home: ServerHome, how: str) -> None:
    sdk = fresh_home.attach().openai(_strict_response_validation=True, max_retries=0)
    done = sdk.responses.create(**SHORT, input="Hello.", background=True)
    done = finished(sdk, done.id)
    begun = underway(sdk)
    getattr(fresh_home, how)()
    fresh_home.wait_until_empty()
    forget(fresh_home.path)
    later = fresh_home.attach().openai(_strict_response_validation=True, max_retries=0)
    lost = later.responses.retrieve(begun.id)
    assert lost.status == "failed"
    assert lost.error is not None
    assert "server ended" in lost.error.message
    assert lost.error.code == "server_error"
    assert bool(lost.output_text) == (how == "close"), "a server that is told to end writes it down"
    *_, last = later.responses.retrieve(begun.id, stream=True, starting_after=10_000)
    assert last.type == "response.failed"
    assert later.responses.retrieve(done.id).to_dict() == done.to_dict()
    assert list(later.responses.retrieve(done.id, stream=True))
    assert len(later.responses.input_items.list(begun.id).data) == 1
