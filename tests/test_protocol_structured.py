"""Structured output: the official SDKs against the real server and model."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import anthropic
import jsonschema
import openai
import pytest
from json_schemas import HOSTILE, REFUSED, VARIED
from pydantic import BaseModel, ConfigDict, Field
from server_home import ServerHome

from lmnb.client import Client

LLM = "smollm2-135m-instruct"
ASK: Any = [{"role": "user", "content": "Describe a small animal as JSON."}]
NAMES = [
    "flat",
    "enum of strings",
    "pattern",
    "any of",
    "defs",
    "deep",
    "unicode",
    "records",
]


class Leg(BaseModel):
    """A part of an animal."""

    model_config = ConfigDict(extra="forbid")

    side: Literal["left", "right"]
    length: Annotated[int, Field(ge=1, le=50)]


class Animal(BaseModel):
    """What the model is to describe."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern="^[A-Z][a-z]{2,7}$")]
    legs: Annotated[list[Leg], Field(min_length=1, max_length=2)]
    tame: bool | None


class Pet(BaseModel):
    """What any model can describe."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["cat", "dog"]
    tame: bool


@pytest.fixture
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(_strict_response_validation=True, max_retries=0)


@pytest.fixture
def claude(client: Client) -> anthropic.Anthropic:
    return client.anthropic(_strict_response_validation=True, max_retries=0)


def schema_format(schema: Any, **more: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


# --- OpenAI --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_chat_completions(sdk: openai.OpenAI, name: str) -> None:
    answer = sdk.chat.completions.create(
        model=LLM, messages=ASK, max_tokens=200, seed=1,
        response_format=schema_format(VARIED[name], strict=True),
    )  # fmt: skip
    [choice] = answer.choices
    assert choice.finish_reason == "stop"
    jsonschema.validate(json.loads(choice.message.content or ""), VARIED[name])


def test_streamed_and_whole_answers_agree(sdk: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {
        "model": LLM, "messages": ASK, "max_tokens": 200, "temperature": 0,
        "response_format": schema_format(VARIED["records"]),
    }  # fmt: skip
    whole = sdk.chat.completions.create(**wanted).choices[0].message.content
    chunks = list(sdk.chat.completions.create(**wanted, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert json.loads(whole or "")


def test_chat_parse(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.parse(
        model=LLM, messages=ASK, max_tokens=100, seed=1, response_format=Animal
    )
    animal = answer.choices[0].message.parsed
    assert isinstance(animal, Animal)
    assert animal.legs


def test_responses_parse(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.parse(
        model=LLM, input="Describe a small animal.", max_output_tokens=100, text_format=Animal
    )
    assert isinstance(answer.output_parsed, Animal)
    assert answer.text is not None
    assert answer.text.format is not None
    assert answer.text.format.type == "json_schema"


def test_responses_stream(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(
        model=LLM, input="Describe a small animal.", max_output_tokens=100, text_format=Animal
    ) as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert Animal.model_validate_json("".join(deltas)) == final.output_parsed


def test_any_json_object(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=LLM, messages=ASK, max_tokens=150, temperature=0,
        response_format={"type": "json_object"},
    )  # fmt: skip
    [choice] = answer.choices
    assert (choice.message.content or "").startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)


@pytest.mark.parametrize("syntax", ["regex", "lark"])
def test_grammars(sdk: openai.OpenAI, syntax: str) -> None:
    definition = {
        "regex": r"(cat|dog), aged [1-9][0-9]?",
        "lark": 'start: KIND ", aged " AGE\nKIND: "cat" | "dog"\nAGE: /[1-9][0-9]?/',
    }[syntax]
    form: Any = {"type": "grammar", "syntax": syntax, "definition": definition}
    chat = sdk.chat.completions.create(
        model=LLM, messages=ASK, max_tokens=20, extra_body={"response_format": form}
    )
    completion = sdk.completions.create(
        model=LLM, prompt="My pet: ", max_tokens=20, extra_body={"response_format": form}
    )
    for text in (chat.choices[0].message.content, completion.choices[0].text):
        assert re.fullmatch(r"(cat|dog), aged [1-9]\d?", text or "")


def test_several_choices_differ_and_all_fit(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=LLM, messages=ASK, max_tokens=100, n=4, seed=7, temperature=1.2,
        response_format=schema_format(Animal.model_json_schema()),
    )  # fmt: skip
    texts = {choice.message.content or "" for choice in answer.choices}
    assert len(texts) > 1
    for text in texts:
        Animal.model_validate_json(text)


def test_logprobs(sdk: openai.OpenAI) -> None:
    [choice] = sdk.chat.completions.create(
        model=LLM, messages=ASK, max_tokens=100, temperature=0, logprobs=True, top_logprobs=2,
        response_format=schema_format(VARIED["flat"]),
    ).choices  # fmt: skip
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert "".join(entry.token for entry in entries) == choice.message.content
    assert entries[0].logprob == 0.0


def test_a_limit_is_reported(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=LLM, messages=ASK, max_tokens=5, response_format=schema_format(VARIED["flat"])
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


# --- what cannot be enforced ----------------------------------------------------------


@pytest.mark.parametrize("name", ["not", "uniqueItems", "format", "oneOf"])
def test_strict_is_refused_and_lenient_says_so(sdk: openai.OpenAI, name: str) -> None:
    text, expected = REFUSED[name]
    schema = json.loads(text)
    for strict in (True, None):
        with pytest.raises(openai.BadRequestError, match=re.escape(expected)) as caught:
            sdk.chat.completions.create(
                model=LLM, messages=ASK, response_format=schema_format(schema, strict=strict)
            )
        assert caught.value.param == "response_format.json_schema.schema"
    raw = sdk.chat.completions.with_raw_response.create(
        model=LLM, messages=ASK, max_tokens=20, response_format=schema_format(schema, strict=False)
    )
    assert expected in raw.headers["x-lmnb-warning"]
    with sdk.responses.with_streaming_response.create(
        model=LLM, input="Hi", max_output_tokens=20, stream=True,
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": False}},
    ) as streamed:  # fmt: skip
        assert expected in streamed.headers["x-lmnb-warning"]


@pytest.mark.parametrize("name", REFUSED)
def test_bad_schemas_are_errors_of_the_request(client: Client, name: str) -> None:
    text, _ = REFUSED[name]
    body = (
        f'{{"model":"{LLM}","messages":{json.dumps(ASK)},"response_format":'
        f'{{"type":"json_schema","json_schema":{{"name":"n","schema":{text}}}}}}}'
    )
    response = client.http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert len(response.json()["error"]["message"]) < 500


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_harm_nobody(server: ServerHome, sdk: openai.OpenAI, name: str) -> None:
    """Neither the server nor the model's process dies of them."""
    sdk.chat.completions.create(model=LLM, messages=ASK, max_tokens=1)
    before = {one.pid for one in server.processes()}
    try:
        answer = sdk.chat.completions.create(
            model=LLM, messages=ASK, max_tokens=12, temperature=0,
            response_format=schema_format(HOSTILE[name]),
        )  # fmt: skip
    except openai.BadRequestError as error:
        assert len(error.message) < 500  # noqa: PT017
    else:
        if answer.choices[0].finish_reason == "stop":
            jsonschema.validate(json.loads(answer.choices[0].message.content or ""), HOSTILE[name])
    assert {one.pid for one in server.processes()} == before


# --- Anthropic -------------------------------------------------------------------------


def test_messages(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(
        model=LLM, messages=ASK, max_tokens=200,
        output_config={"format": {"type": "json_schema", "schema": VARIED["records"]}},
    )  # fmt: skip
    assert answer.stop_reason == "end_turn"
    [block] = answer.content
    assert block.type == "text"
    jsonschema.validate(json.loads(block.text), VARIED["records"])


def test_messages_parse(claude: anthropic.Anthropic) -> None:
    """With types only: the SDK takes patterns and bounds out of the schema that it sends."""
    answer = claude.messages.parse(model=LLM, messages=ASK, max_tokens=60, output_format=Pet)
    assert isinstance(answer.parsed_output, Pet)


def test_messages_refuse_what_cannot_be_enforced(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="'not'"):
        claude.messages.create(
            model=LLM, messages=ASK, max_tokens=20,
            output_config={"format": {"type": "json_schema", "schema": {"not": {}}}},
        )  # fmt: skip


def test_messages_cannot_continue_an_answer_in_a_format(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="continued"):
        claude.messages.create(
            model=LLM, max_tokens=20, messages=[*ASK, {"role": "assistant", "content": "{"}],
            output_config={"format": {"type": "json_schema", "schema": {}}},
        )  # fmt: skip
