"""Responses: the official SDK against the real server and model, strict validation on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from server_home import ServerHome
from test_protocol_openai_chat import ENDLESS, wait_until_idle

from lmnb.client import Client

LLM = "smollm2-135m-instruct"


@pytest.fixture
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(_strict_response_validation=True, max_retries=0)


@pytest.fixture
def raw(client: Client) -> Iterator[httpx2.Client]:
    transport = httpx2.HTTPTransport(uds=client.socket)
    with httpx2.Client(transport=transport, base_url="http://local/v1", timeout=60) as http:
        yield http


def test_a_response(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(
        model=LLM, input="Name a colour.", max_output_tokens=6, temperature=0, metadata={"a": "b"}
    )
    assert answer.output_text
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 6
    details = answer.usage.input_tokens_details
    assert details.cached_tokens + details.cache_write_tokens == answer.usage.input_tokens
    assert answer.metadata == {"a": "b"}
    assert answer.id.startswith("resp_")


def test_streamed_and_whole_responses_agree(sdk: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": LLM, "input": "Name a colour.", "temperature": 0}
    with sdk.responses.stream(**wanted, extra_body={"stop": "."}) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    whole = sdk.responses.create(**wanted, extra_body={"stop": "."})
    assert streamed.output_text == whole.output_text != ""
    assert streamed.status == whole.status == "completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_conversation(sdk: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": LLM, "max_output_tokens": 3, "temperature": 0}
    first = sdk.responses.create(**wanted, input="My name is Ada.", instructions="Be brief.")
    second = sdk.responses.create(**wanted, input="What is my name?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.usage is not None
    assert first.usage is not None
    again = sdk.responses.create(
        **wanted,
        input=[
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "What is my name?"},
        ],
    )
    assert again.usage is not None
    assert again.usage.input_tokens == second.usage.input_tokens, "without the instructions"
    # Few tokens: one answer starts from a longer cached prefix, and is rounded otherwise.
    assert again.output_text == second.output_text


def test_a_stream_can_be_continued_at_once(sdk: openai.OpenAI) -> None:
    """The answer is stored before its completion is announced."""
    wanted: dict[str, Any] = {"model": LLM, "max_output_tokens": 4}
    for event in sdk.responses.create(**wanted, input="Hello.", stream=True):
        if event.type in {"response.completed", "response.incomplete"}:
            sdk.responses.create(**wanted, input="And?", previous_response_id=event.response.id)
            break
    else:
        pytest.fail("the stream has no end")


def test_stored_responses_are_retrieved_and_deleted(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=LLM, input="Hello.", max_output_tokens=3)
    found = sdk.responses.retrieve(answer.id)
    assert found.to_dict() == answer.to_dict()
    sdk.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(answer.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.delete(answer.id)


def test_items_are_referred_to_by_their_ids(sdk: openai.OpenAI) -> None:
    """As Vercel's SDK does for all that the model said in earlier turns."""
    first = sdk.responses.create(model=LLM, input="Hello!", max_output_tokens=8, temperature=0)
    [said] = first.output
    ask: Any = {"model": LLM, "max_output_tokens": 1, "store": False}
    user: Any = {"role": "user", "content": "Hello!"}
    again: Any = {"role": "user", "content": "And now?"}
    dumped: Any = said.model_dump()
    whole = sdk.responses.create(**ask, input=[user, dumped, again])
    references: list[Any] = [{"type": "item_reference", "id": said.id}, {"id": said.id}]
    for reference in references:
        short = sdk.responses.create(**ask, input=[user, reference, again])
        assert short.usage is not None
        assert whole.usage is not None
        assert short.usage.input_tokens == whole.usage.input_tokens
    sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as raised:
        sdk.responses.create(**ask, input=[user, references[0]])
    assert raised.value.param == "input[1].id"


def test_what_is_not_to_be_stored_is_not(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=LLM, input="Hello.", max_output_tokens=3, store=False)
    assert answer.store is False  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(answer.id)
    with pytest.raises(openai.BadRequestError) as raised:
        sdk.responses.create(model=LLM, input="And?", previous_response_id=answer.id)
    assert raised.value.code == "previous_response_not_found"
    assert raised.value.param == "previous_response_id"


def test_codex_preloads_a_model(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=LLM, input="", max_output_tokens=1)
    assert answer.usage is not None
    assert answer.usage.output_tokens == 1


def test_logprobs(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(
        model=LLM,
        input="Name a colour.",
        max_output_tokens=3,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    message = answer.output[0]
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert [len(token.top_logprobs) for token in part.logprobs or []] == [2, 2, 2]


def test_a_prompt_longer_than_the_context(sdk: openai.OpenAI, client: Client) -> None:
    """A status for a plain request; for a stream a failed response, on which Codex compacts."""
    long = "word " * 10_000
    with pytest.raises(openai.BadRequestError) as raised:
        sdk.responses.create(model=LLM, input=long)
    assert raised.value.code == "context_length_exceeded"
    # Not strictly: the code that Codex needs is none of those that the SDK's type lists.
    events = list(client.openai().responses.create(model=LLM, input=long, stream=True))
    assert events[0].type == "response.created"
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert str(last.response.error.code) == "context_length_exceeded"


def test_an_unknown_model_is_a_status_also_when_streaming(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        sdk.responses.create(model="no/such", input="Hello.", stream=True)


def test_a_client_that_leaves_frees_the_engine(client: Client, raw: httpx2.Client) -> None:
    body = {"model": LLM, "input": "Hello.", "stream": True, "logit_bias": ENDLESS}
    with raw.stream("POST", "/responses", json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: response.created"
    wait_until_idle(client)


# --- a server of one's own ------------------------------------------------------------


@pytest.fixture
def own(fresh_home: ServerHome) -> openai.OpenAI:
    return fresh_home.attach().openai(_strict_response_validation=True, max_retries=0)


def test_a_crash_in_mid_answer(own: openai.OpenAI, fresh_home: ServerHome) -> None:
    """Each protocol's own error event; then the model is loaded again."""
    endless: Any = {"extra_body": {"logit_bias": ENDLESS}, "stream": True, "model": LLM}
    hello: Any = [{"role": "user", "content": "Hello."}]

    def kill_in_the_middle(stream: Iterable[Any]) -> Any:
        """The last event."""
        for number, event in enumerate(stream):
            last = event
            if number == 6:
                fresh_home.workers()[0].kill()
        return last

    event = kill_in_the_middle(own.responses.create(**endless, input="Hello."))
    assert event.type == "response.failed"
    assert event.response.error is not None
    assert event.response.error.code == "server_error"
    assert event.response.output_text
    with pytest.raises(openai.APIError, match="process"):
        kill_in_the_middle(own.chat.completions.create(**endless, messages=hello))
    assert own.responses.create(model=LLM, input="Hello.", max_output_tokens=3).output_text


def test_answers_survive_a_restart(own: openai.OpenAI, fresh_home: ServerHome) -> None:
    wanted: dict[str, Any] = {"model": LLM, "max_output_tokens": 4}
    first = own.responses.create(**wanted, input="My name is Ada.")
    fresh_home.kill()
    later = fresh_home.attach().openai(_strict_response_validation=True)
    assert later.responses.retrieve(first.id).output_text == first.output_text
    second = later.responses.create(**wanted, input="And?", previous_response_id=first.id)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens
