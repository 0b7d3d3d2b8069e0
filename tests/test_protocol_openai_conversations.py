"""Conversations: the official SDK against the real server, strictly, also across a restart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from server_home import ServerHome, wait_for
from test_protocol_openai_chat import ENDLESS

from lmnb.client import Client

LLM = "smollm2-135m-instruct"
SHORT: dict[str, Any] = {"model": LLM, "max_output_tokens": 4, "temperature": 0}
ADA: Any = [{"role": "user", "content": "My name is Ada."}]


@pytest.fixture
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(_strict_response_validation=True, max_retries=0)


def texts(sdk: openai.OpenAI, conversation: str) -> list[tuple[str, str]]:
    """Who said what, oldest first."""
    found: list[tuple[str, str]] = []
    for item in sdk.conversations.items.list(conversation, order="asc"):
        assert item.type == "message"
        found.append((item.role, "".join(str(part.to_dict()["text"]) for part in item.content)))
    return found


def test_a_conversation_and_its_items(sdk: openai.OpenAI) -> None:
    made = sdk.conversations.create(items=ADA, metadata={"topic": "names"})
    assert made.id.startswith("conv_")
    assert sdk.conversations.retrieve(made.id) == made
    assert sdk.conversations.update(made.id, metadata={"a": "b"}).metadata == {"a": "b"}
    assert sdk.conversations.retrieve(made.id).metadata == {"a": "b"}
    more: Any = [
        {"type": "message", "role": "assistant", "content": "Hello, Ada."},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
    ]
    added = sdk.conversations.items.create(made.id, items=more)
    assert len(added.data) == 3
    assert added.first_id == added.data[0].id
    newest = sdk.conversations.items.list(made.id, limit=1)
    assert [item.type for item in newest.data] == ["function_call_output"]
    assert newest.has_more
    assert [item.type for item in sdk.conversations.items.list(made.id, order="asc", limit=2)] == [
        "message",
        "message",
        "function_call",
        "function_call_output",
    ]
    id_ = str(added.data[0].id)
    assert sdk.conversations.items.retrieve(id_, conversation_id=made.id) == added.data[0]
    assert sdk.conversations.items.delete(id_, conversation_id=made.id).id == made.id
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.items.retrieve(id_, conversation_id=made.id)
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.items.delete(id_, conversation_id=made.id)
    assert sdk.conversations.delete(made.id).deleted
    for gone in (
        lambda: sdk.conversations.retrieve(made.id),
        lambda: sdk.conversations.update(made.id, metadata={}),
        lambda: sdk.conversations.delete(made.id),
        lambda: sdk.conversations.items.list(made.id),
        lambda: sdk.conversations.items.create(made.id, items=ADA),
    ):
        with pytest.raises(openai.NotFoundError) as raised:
            gone()
        assert raised.value.code == "conversation_not_found"


@pytest.mark.parametrize("streamed", [False, True])
def test_responses_continue_a_conversation(sdk: openai.OpenAI, *, streamed: bool) -> None:
    made = sdk.conversations.create(items=ADA)

    def ask(question: str) -> Any:
        wanted: Any = {**SHORT, "input": question, "conversation": made.id}
        if not streamed:
            return sdk.responses.create(**wanted)
        *_, last = sdk.responses.create(**wanted, stream=True)
        return last.response

    first = ask("Hello.")
    assert first.conversation.id == made.id
    second = ask("What is my name?")
    assert texts(sdk, made.id) == [
        ("user", "My name is Ada."),
        ("user", "Hello."),
        ("assistant", first.output_text),
        ("user", "What is my name?"),
        ("assistant", second.output_text),
    ]
    whole = sdk.responses.create(
        **SHORT,
        store=False,
        input=[
            *ADA,
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "What is my name?"},
        ],
    )
    assert whole.usage is not None
    assert second.usage.input_tokens == whole.usage.input_tokens
    # Its responses can be continued elsewhere, which is not part of it.
    sdk.responses.create(**SHORT, input="Bye.", previous_response_id=second.id)
    assert len(texts(sdk, made.id)) == 5


def test_responses_at_once_are_added_turn_by_turn(sdk: openai.OpenAI) -> None:
    made = sdk.conversations.create(items=ADA)
    questions = [f"What is {n}?" for n in range(6)]

    def ask(question: str) -> str:
        answer: str = sdk.responses.create(
            **SHORT, input=question, conversation=made.id
        ).output_text
        return answer

    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(ask, questions))
    said = texts(sdk, made.id)[1:]
    turns = {(question, answer) for question, answer in zip(said[::2], said[1::2], strict=True)}
    assert turns == {
        (("user", question), ("assistant", answer))
        for question, answer in zip(questions, answers, strict=True)
    }
    assert sdk.responses.create(**SHORT, input="And?", conversation=made.id).output


def test_what_is_only_read_is_not_added(sdk: openai.OpenAI) -> None:
    made = sdk.conversations.create(items=ADA)
    ask: Any = {**SHORT, "input": "Hello.", "conversation": made.id}
    assert sdk.responses.create(**ask, extra_body={"generate": False}).status == "completed"
    assert len(texts(sdk, made.id)) == 1


def test_what_is_not_stored_is_added_all_the_same(sdk: openai.OpenAI) -> None:
    made = sdk.conversations.create()
    sdk.responses.create(**SHORT, input="Hello.", conversation={"id": made.id}, store=False)
    assert len(texts(sdk, made.id)) == 2


def test_changed_items_count(sdk: openai.OpenAI) -> None:
    made = sdk.conversations.create(items=ADA)
    sdk.responses.create(**SHORT, input="Hello.", conversation=made.id)
    before = sdk.responses.input_tokens.count(model=LLM, input="And?", conversation=made.id)
    first = sdk.conversations.items.list(made.id, order="asc").data[0]
    sdk.conversations.items.delete(str(first.id), conversation_id=made.id)
    after = sdk.responses.input_tokens.count(model=LLM, input="And?", conversation=made.id)
    assert after.input_tokens < before.input_tokens
    answer = sdk.responses.create(**SHORT, input="And?", conversation=made.id)
    assert answer.usage is not None
    assert answer.usage.input_tokens == after.input_tokens


def test_a_background_response_is_added_at_its_end(sdk: openai.OpenAI) -> None:
    made = sdk.conversations.create()
    begun = sdk.responses.create(**SHORT, input="Hello.", conversation=made.id, background=True)
    wait_for(lambda: sdk.responses.retrieve(begun.id).status not in {"queued", "in_progress"})
    assert len(texts(sdk, made.id)) == 2
    endless: Any = {"extra_body": {"logit_bias": ENDLESS}, "background": True}
    begun = sdk.responses.create(model=LLM, input="Go on.", conversation=made.id, **endless)
    wait_for(lambda: bool(sdk.responses.retrieve(begun.id).output_text))
    sdk.responses.cancel(begun.id)
    assert len(texts(sdk, made.id)) == 2, "a cancelled one is not"


def test_what_conversations_refuse(sdk: openai.OpenAI) -> None:
    made = sdk.conversations.create()
    answer = sdk.responses.create(**SHORT, input="Hello.")
    with pytest.raises(openai.BadRequestError) as raised:
        sdk.responses.create(
            **SHORT, input="And?", conversation=made.id, previous_response_id=answer.id
        )
    assert raised.value.param == "conversation"
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.responses.create(**SHORT, input="And?", conversation="conv_none")
    assert missing.value.code == "conversation_not_found"
    wrong: Any = [{"role": "user", "content": [{"type": "movie"}]}]
    with pytest.raises(openai.BadRequestError) as raised:
        sdk.conversations.items.create(made.id, items=wrong)
    assert raised.value.param == "items[0].content[0].type"
    with pytest.raises(openai.BadRequestError):
        sdk.conversations.items.create(made.id, items=[])


def test_conversations_survive_a_kill(fresh_home: ServerHome) -> None:
    sdk = fresh_home.attach().openai(_strict_response_validation=True, max_retries=0)
    made = sdk.conversations.create(items=ADA, metadata={"a": "b"})
    answer = sdk.responses.create(**SHORT, input="Hello.", conversation=made.id)
    fresh_home.kill()
    later = fresh_home.attach().openai(_strict_response_validation=True, max_retries=0)
    assert later.conversations.retrieve(made.id) == made
    assert texts(later, made.id)[-1] == ("assistant", answer.output_text)
    second = later.responses.create(**SHORT, input="And?", conversation=made.id)
    assert second.usage is not None
    assert answer.usage is not None
    assert second.usage.input_tokens > answer.usage.total_tokens
