"""Batches of OpenAI's: the official SDK, strictly, against the real server and models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_models
import openai
import pytest
from batch_requests import CHATS, COMPLETIONS, chat, content, ended, endless, jsonl, line, start
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from server_home import CHAT, EMBEDDING, ServerHome, wait_for

from lmnb.client import Client
from lmnb.server.files import Draft
from lmnb.server.openai.batch_input import BatchInput, read_input


@pytest.fixture(scope="module")
def client(server: ServerHome) -> Client:
    return server.attach()


@pytest.fixture(scope="module")
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(_strict_response_validation=True, max_retries=0)


# --- answers ------------------------------------------------------------------------


def test_a_batch_of_chats(sdk: openai.OpenAI) -> None:
    questions = ["Name a colour.", "Name a city.", "Say\u2028hello.", "Count."]
    lines = [line(f"chat-{n}", chat(words)) for n, words in enumerate(questions)]
    lines.insert(2, line("bad", chat("hi", max_tokens="many")))
    batch = start(sdk, lines, metadata={"made by": "a test"})
    assert batch.status == "validating"
    assert batch.expires_at is None

    batch = ended(sdk, batch.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (5, 4, 1)
    assert batch.metadata == {"made by": "a test"}
    assert batch.model == CHAT
    assert batch.in_progress_at
    assert batch.finalizing_at
    assert batch.completed_at
    assert batch.completed_at >= batch.created_at

    output = content(sdk, batch.output_file_id)
    assert [one["custom_id"] for one in output] == [f"chat-{n}" for n in range(4)]
    answers = [ChatCompletion.model_validate(one["response"]["body"]) for one in output]
    assert len({one["id"] for one in output} | {answer.id for answer in answers}) == 8
    assert len({one["response"]["request_id"] for one in output}) == 4
    assert all(one["error"] is None for one in output)
    assert batch.usage is not None
    assert batch.usage.output_tokens == sum(
        answer.usage.completion_tokens for answer in answers if answer.usage
    )
    [bad] = content(sdk, batch.error_file_id)
    assert bad["custom_id"] == "bad"
    assert bad["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"]["param"] == "max_tokens"

    again = sdk.chat.completions.create(**chat(questions[0]))
    assert again.usage
    assert answers[0].usage
    assert again.usage.prompt_tokens == answers[0].usage.prompt_tokens
    assert again.model_dump().keys() == answers[0].model_dump().keys()


def test_the_files_of_a_batch(sdk: openai.OpenAI) -> None:
    batch = start(
        sdk,
        [line("one", chat("hi"))],
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    sdk.files.delete(ended(sdk, batch.id).input_file_id)
    output = sdk.files.retrieve(ended(sdk, batch.id).output_file_id or "")
    assert output.purpose == "batch_output"
    assert output.filename == f"{batch.id}_output.jsonl"
    assert output.expires_at == output.created_at + 3600
    assert ended(sdk, batch.id).error_file_id is None


@pytest.fixture
def reranker(server: ServerHome, client: Client, tmp_path: Path) -> Iterator[str]:
    path = made_models.reranker(tmp_path / "reranker.gguf")
    server.lmnb("load", str(path), "--identifier", "batch-reranker")
    yield "batch-reranker"
    client.unload("batch-reranker")


def test_all_endpoints(sdk: openai.OpenAI, reranker: str) -> None:
    bodies: dict[str, Any] = {
        "/v1/embeddings": {"model": EMBEDDING, "input": ["owl", "mouse"]},
        "/v1/responses": {"model": CHAT, "input": "hi", "max_output_tokens": 4},
        COMPLETIONS: {"model": CHAT, "prompt": "One,", "max_tokens": 4},
        "/v1/rerank": {"model": reranker, "query": "owl", "documents": ["mouse", "owl"]},
    }
    batches = {url: start(sdk, [line("one", body, url)], url) for url, body in bodies.items()}
    found = {}
    for url, batch in batches.items():
        done = ended(sdk, batch.id)
        assert done.status == "completed", (url, done.errors)
        [one] = content(sdk, done.output_file_id)
        found[url] = one["response"]["body"]
        assert done.usage is not None
        assert done.usage.input_tokens > 0
    assert len(CreateEmbeddingResponse.model_validate(found["/v1/embeddings"]).data) == 2
    stored = sdk.responses.retrieve(Response.model_validate(found["/v1/responses"]).id)
    assert stored.output_text == Response(**found["/v1/responses"]).output_text
    assert found[COMPLETIONS]["choices"][0]["text"]
    assert len(found["/v1/rerank"]["results"]) == 2


def test_batches_are_listed_newest_first(sdk: openai.OpenAI) -> None:
    made = [start(sdk, [line("one", chat("hi"))]).id for _ in range(3)]
    page = sdk.batches.list(limit=2)
    assert [batch.id for batch in page.data] == [made[2], made[1]]
    assert page.has_more
    assert page.get_next_page().data[0].id == made[0]
    for id_ in made:
        ended(sdk, id_)


# --- urgency and cancelling -----------------------------------------------------------


@pytest.fixture
def two_slots(client: Client) -> None:
    """The model is loaded such that it computes two requests together."""
    for row in client.ps():
        client.unload(row["id"])
    list(client.load(CHAT, parallel=2, context_length=8192))


@pytest.mark.usefixtures("two_slots")
def test_others_go_first_and_cancelling_stops_what_runs(sdk: openai.OpenAI, client: Client) -> None:
    """Both slots are taken by requests that do not end, and two more wait for them."""
    batch = start(sdk, endless(12), COMPLETIONS)
    waiting = start(sdk, [line("one", chat("hi"))])
    wait_for(lambda: [row["active"] for row in client.ps()] == [4], "the batch to run")

    answer = sdk.chat.completions.create(**chat("Name a colour."))
    assert answer.usage is not None
    assert answer.usage.completion_tokens
    assert sdk.embeddings.create(model=EMBEDDING, input="owl", encoding_format="float").data
    assert ended(sdk, sdk.batches.cancel(waiting.id).id).status == "cancelled"

    counts = sdk.batches.retrieve(batch.id).request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (12, 0, 0)
    assert sdk.batches.cancel(batch.id).status == "cancelling"
    batch = ended(sdk, batch.id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at
    assert batch.cancelled_at
    assert batch.output_file_id is None
    wait_for(lambda: not any(row["active"] for row in client.ps()), "the model to be free")
    errors = content(sdk, batch.error_file_id)
    assert [one["custom_id"] for one in errors] == [f"endless-{n}" for n in range(12)]
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    assert sdk.batches.cancel(batch.id).status == "cancelled"


def test_what_was_answered_before_a_cancellation_is_kept(sdk: openai.OpenAI) -> None:
    batch = start(
        sdk,
        [
            line("quick", {"model": CHAT, "prompt": "One", "max_tokens": 2}, COMPLETIONS),
            *endless(2),
        ],
        COMPLETIONS,
    )

    def answered() -> bool:
        counts = sdk.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed == 1

    wait_for(answered, "the quick request")
    sdk.batches.cancel(batch.id)
    batch = ended(sdk, batch.id)
    assert [one["custom_id"] for one in content(sdk, batch.output_file_id)] == ["quick"]
    assert len(content(sdk, batch.error_file_id)) == 2


def test_a_model_that_is_unloaded_is_loaded_again(sdk: openai.OpenAI, client: Client) -> None:
    slow = {"model": CHAT, "prompt": "One", "max_tokens": 60}
    batch = start(sdk, [line(f"{n}", slow, COMPLETIONS) for n in range(3)], COMPLETIONS)
    wait_for(lambda: any(row["active"] for row in client.ps()), "the batch to run")
    client.unload(CHAT)
    batch = ended(sdk, batch.id)
    assert len(content(sdk, batch.output_file_id)) == 3


# --- what is refused -------------------------------------------------------------------


def test_a_file_with_bad_lines_is_not_run(sdk: openai.OpenAI) -> None:
    lines = [
        line("one", chat("hi")),
        line("two", chat("hi", model="no-such-model")),
        line("one", chat("hi")),
    ]
    batch = ended(sdk, start(sdk, lines).id)
    assert batch.status == "failed"
    assert batch.failed_at
    assert batch.output_file_id is None
    assert batch.errors is not None
    assert batch.errors.object == "list"
    assert [(one.line, one.code, one.param) for one in batch.errors.data or []] == [
        (2, "model_not_found", "body.model"),
        (3, "duplicate_custom_id", "custom_id"),
    ]
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'failed'"):
        sdk.batches.cancel(batch.id)


def test_models_that_cannot_be_used(sdk: openai.OpenAI, server: ServerHome) -> None:
    damaged = server.path / "models" / "tests" / "damaged" / "damaged.gguf"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"GGUF")
    names = ["damaged", *(f"unknown-{n}" for n in range(150))]
    try:
        batch = ended(sdk, start(sdk, [line(one, chat("hi", model=one)) for one in names]).id)
    finally:
        damaged.unlink()
    assert batch.status == "failed"
    assert batch.errors is not None
    errors = batch.errors.data or []
    assert (errors[0].line, errors[0].code, errors[0].param) == (1, "invalid_model", "body.model")
    assert {one.code for one in errors[1:]} == {"model_not_found"}
    assert len(errors) == 100


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"{no json", "invalid_json_line", None),
        (b"[1, 2]", "invalid_json_line", None),
        (b'{"custom_id": "\xff"}', "invalid_json_line", None),
        (b"[" * 5000, "invalid_json_line", None),
        ({"custom_id": None}, "missing_required_parameter", "custom_id"),
        ({"custom_id": 7}, "invalid_type", "custom_id"),
        ({"custom_id": ""}, "invalid_value", "custom_id"),
        ({"custom_id": "first"}, "duplicate_custom_id", "custom_id"),
        ({"method": None}, "missing_required_parameter", "method"),
        ({"method": "GET"}, "invalid_method", "method"),
        ({"url": None}, "missing_required_parameter", "url"),
        ({"url": "/v1/embeddings"}, "invalid_url", "url"),
        ({"body": None}, "missing_required_parameter", "body"),
        ({"body": "text"}, "invalid_type", "body"),
        ({"body": {"messages": []}}, "invalid_request", "body.model"),
        ({"body": {"model": " ", "messages": []}}, "invalid_request", "body.model"),
        ({"body": {"model": "m"}}, "invalid_request", "body.messages"),
        ({"body": chat("hi", stream=True)}, "streaming_unsupported", "body.stream"),
        ({"body": chat("hi", background=True)}, "invalid_request", "body.background"),
    ],
)
def test_bad_lines(tmp_path: Path, bad: Any, code: str, param: str | None) -> None:
    text = bad if isinstance(bad, bytes) else jsonl([line("second", chat("hi")) | bad])
    found = read(tmp_path, jsonl([line("first", chat("hi"))]) + b"\n" + text)
    [error] = found.checked().errors
    assert (error.code, error.param, error.line) == (code, param, 3)
    assert not found.checked().lines


@pytest.mark.parametrize("text", [b"", b"\n  \n"])
def test_empty_files(tmp_path: Path, text: bytes) -> None:
    [error] = read(tmp_path, text).checked().errors
    assert (error.code, error.line) == ("empty_file", None)


def test_bodies_are_kept_as_they_are(tmp_path: Path) -> None:
    first = b'{"custom_id":"1","method":"POST","url":"%s","body":%s}' % (
        CHATS.encode(),
        b'{ "model": "m", "messages": [], "seed": 1.50, "user": "\\u00fc" }',
    )
    found = read(tmp_path, b"\r\n" + first + b"\r\n" + jsonl([line("2", chat("hi"))]))
    one, two = found.checked().lines
    requests = (tmp_path / "requests").read_bytes()
    assert requests[: one.size].endswith(b'"seed": 1.50, "user": "\\u00fc" }')
    assert two.start == one.size
    assert found.models == {"m": [2], CHAT: [3]}


def read(folder: Path, text: bytes) -> BatchInput:
    (folder / "input").write_bytes(text)
    draft = Draft(folder / "draft")
    found = read_input(folder / "input", CHATS, draft)
    draft.move(folder / "requests")
    return found


def test_files_that_cannot_be_used(sdk: openai.OpenAI) -> None:
    other = sdk.files.create(file=("a.txt", b"text"), purpose="user_data")
    for id_, words in (("file-none", "Cannot find file file-none"), (other.id, "'user_data'")):
        batch = sdk.batches.create(input_file_id=id_, endpoint=CHATS, completion_window="24h")
        batch = ended(sdk, batch.id)
        assert batch.status == "failed"
        assert batch.errors is not None
        [error] = batch.errors.data or []
        assert (error.code, error.param) == ("invalid_request", "file_id")
        assert words in (error.message or "")


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"endpoint": "/v1/images"}, "endpoint", "invalid_value"),
        ({"completion_window": "1h"}, "completion_window", "invalid_value"),
        ({"input_file_id": None}, "input_file_id", "missing_required_parameter"),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags", "invalid_type"),
        ({"metadata": {f"{n}": "" for n in range(17)}}, "metadata", "invalid_value"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
            "expires_after.seconds",
            "invalid_value",
        ),
    ],
)
def test_batches_that_cannot_be_made(
    client: Client, change: dict[str, Any], param: str, code: str
) -> None:
    body = {"input_file_id": "file-x", "endpoint": CHATS, "completion_window": "24h"} | change
    response = client.http.post("/v1/batches", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_unknown_ids(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        sdk.batches.retrieve("batch_none")
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        sdk.batches.cancel("batch_none")
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        sdk.batches.list(after="batch_none")


def test_the_limit_of_a_list(client: Client) -> None:
    for limit in ("0", "101", "x"):
        response = client.http.get("/v1/batches", params={"limit": limit})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "limit"
