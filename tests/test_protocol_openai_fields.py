"""Every field that OpenAI's own types have, and every one of ours, has a known fate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from openai_fields import (
    CHAT,
    COMPLETIONS,
    HELLO,
    RESPONSES,
    Fate,
    Honoured,
    Ignored,
    Output,
    Refused,
)
from openai_synthetic import Indexed, chat_frames, finished
from starlette.datastructures import Headers

from lmnb.chat.conversation import Request
from lmnb.chat.events import Prompt, TextDelta
from lmnb.errors import InvalidRequest
from lmnb.server.openai import (
    chat_request,
    completions_request,
    responses_request,
)
from lmnb.server.openai.body import Fields, check
from lmnb.server.openai.chat_request import ChatBody
from lmnb.server.openai.completions_request import CompletionsBody
from lmnb.server.openai.embeddings import EmbeddingsBody
from lmnb.server.openai.responses_request import ResponsesBody

NOBODY = Headers({})


def _chat(data: dict[str, Any]) -> list[Request]:
    return list(chat_request.translate(check(data, ChatBody), NOBODY))


def _completions(data: dict[str, Any]) -> list[Request]:
    groups = completions_request.translate(check(data, CompletionsBody), NOBODY)
    return [request for group in groups for request in group]


def _responses(data: dict[str, Any]) -> list[Request]:
    return [responses_request.translate(check(data, ResponsesBody), NOBODY, ())[0]]


class Endpoint(NamedTuple):
    """Its table, its body, the SDK's type of it, a request, and how that becomes the engine's."""

    table: dict[str, Fate]
    body: type[Fields]
    sdk: Any
    least: dict[str, Any]
    requests: Callable[[dict[str, Any]], list[Request]]


ENDPOINTS = {
    "chat": Endpoint(
        CHAT,
        ChatBody,
        chat_create_params.CompletionCreateParamsNonStreaming,
        {"model": "m", "messages": [HELLO]},
        _chat,
    ),
    "completions": Endpoint(
        COMPLETIONS,
        CompletionsBody,
        completion_create_params.CompletionCreateParamsNonStreaming,
        {"model": "m", "prompt": "p"},
        _completions,
    ),
    "responses": Endpoint(
        RESPONSES,
        ResponsesBody,
        response_create_params.ResponseCreateParamsNonStreaming,
        {"model": "m", "input": "hi"},
        _responses,
    ),
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_field_is_forgotten(endpoint: str) -> None:
    """Also those that a new version of the SDK brings."""
    table, body, sdk, _, _ = ENDPOINTS[endpoint]
    assert set(get_type_hints(sdk)) - set(table) == set(), "OpenAI's fields without a known fate"
    assert set(body.model_fields) - set(table) == set(), "fields that are read, but not checked"


def fates(kind: type[Fate]) -> list[Any]:
    return [
        pytest.param(endpoint, name, fate, id=f"{endpoint} {name}")
        for endpoint, (table, *_) in ENDPOINTS.items()
        for name, fate in table.items()
        if isinstance(fate, kind)
    ]


@pytest.mark.parametrize(("endpoint", "name", "fate"), fates(Honoured))
def test_what_is_honoured_reaches_the_engine(endpoint: str, name: str, fate: Honoured) -> None:
    *_, least, requests = ENDPOINTS[endpoint]
    without = requests(least | fate.besides)[0]
    request = requests(least | fate.besides | {name: fate.value})[0]
    assert fate.seen(request) == fate.expected
    assert fate.seen(without) != fate.expected


@pytest.mark.parametrize(("endpoint", "name", "fate"), fates(Ignored))
def test_what_is_ignored_changes_nothing(
    noted: dict[str, None], endpoint: str, name: str, fate: Ignored
) -> None:
    *_, least, requests = ENDPOINTS[endpoint]
    assert requests(least | {name: fate.value}) == requests(least)
    assert fate.noted == any(f"'{name}'" in text for text in noted)


@pytest.mark.parametrize(("endpoint", "name", "fate"), fates(Refused))
def test_what_is_refused_is_named(endpoint: str, name: str, fate: Refused) -> None:
    *_, least, requests = ENDPOINTS[endpoint]
    with pytest.raises(InvalidRequest, match=f"'{name}'") as raised:
        requests(least | {name: fate.value})
    assert raised.value.param == (fate.param or name)


@pytest.mark.parametrize(("endpoint", "name", "fate"), fates(Output))
def test_what_shapes_the_answer_has_a_test(endpoint: str, name: str, fate: Output) -> None:
    assert fate.test in globals() or (Path(__file__).parent / f"{fate.test}.py").exists()


@pytest.mark.parametrize(("endpoint", "name", "fate"), [*fates(Honoured), *fates(Output)])
def test_a_wrong_type_is_named(endpoint: str, name: str, fate: Honoured | Output) -> None:
    """Whatever is read is checked: nothing of another type passes for a value, or breaks something."""
    _, body, _, least, requests = ENDPOINTS[endpoint]
    if name not in body.model_fields:
        return
    wrong: Any = [[]] if isinstance(fate.value, str | bool | int | float | dict) else 5.5
    with pytest.raises(InvalidRequest) as raised:
        requests(least | getattr(fate, "besides", {}) | {name: wrong})
    assert (raised.value.param or "").startswith(name)


def test_streams_and_whole_answers() -> None:
    body = check({"model": "m", "messages": [HELLO], "stream": True}, ChatBody)
    assert (body.stream, body.stream_options.include_usage) == (True, False)
    events: list[Indexed] = [(0, TextDelta("x")), (0, finished())]
    assert b'"usage"' in chat_frames(events, usage=True)
    assert b'"usage"' not in chat_frames(events, usage=False)


def test_progress_of_the_prompt_is_told() -> None:
    events: list[Indexed] = [
        *((0, Prompt(done, 10, 2)) for done in (5, 10)),
        (0, TextDelta("x")),
        (0, finished()),
    ]
    assert b"prompt_progress" not in chat_frames(events)
    lines = chat_frames(events, progress=True).decode().split("\n\n")
    told = [json.loads(line[6:])["prompt_progress"] for line in lines if "prompt_progress" in line]
    assert [(one["processed"], one["total"], one["cache"]) for one in told] == [
        (5, 10, 2),
        (10, 10, 2),
    ]


def test_n_is_a_request_each() -> None:
    assert len(_chat({"model": "m", "messages": [HELLO], "n": 3})) == 3
    assert len(_completions({"model": "m", "prompt": ["a", "b"], "n": 3})) == 6
    assert len(_completions({"model": "m", "prompt": ["a", "b"], "best_of": 4})) == 8


# --- embeddings -----------------------------------------------------------------------

EMBEDDINGS = {
    "input": "test_embeddings",
    "model": "test_a_language_model_has_no_embeddings",
    "dimensions": "test_vectors_of_matryoshka_models_are_cut",
    "encoding_format": "test_base64_is_the_default_of_the_sdk",
    "truncate": "test_a_text_that_is_too_long",
    "user": "test_the_user_of_embeddings_is_ignored",
    "ttl": "test_a_time_to_live_is_that_of_the_load",
}
"""By the test that sees each field, most of them with a real model."""


def test_no_field_of_embeddings_is_forgotten() -> None:
    hints = get_type_hints(embedding_create_params.EmbeddingCreateParams)
    assert set(hints) | set(EmbeddingsBody.model_fields) == set(EMBEDDINGS)
    source = (Path(__file__).parent / "test_protocol_openai_embeddings.py").read_text()
    for test in set(EMBEDDINGS.values()):
        assert f"def {test}(" in source or test in globals()


def test_the_user_of_embeddings_is_ignored() -> None:
    least = {"model": "m", "input": "x"}
    assert check(least | {"user": "me"}, EmbeddingsBody) == check(least, EmbeddingsBody)
