"""Batches of messages: the official SDK, strictly, against the real server and model."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic.types.messages import MessageBatch
from server_home import CHAT, ServerHome, wait_for

from lmnb.client import Client

HELLO = [{"role": "user", "content": "Name a colour.\u2028Please."}]


@pytest.fixture(scope="module")
def client(server: ServerHome) -> Client:
    return server.attach()


@pytest.fixture(scope="module")
def sdk(client: Client) -> anthropic.Anthropic:
    return client.anthropic(_strict_response_validation=True, max_retries=0)


def asked(custom_id: str, **more: Any) -> Any:
    return {
        "custom_id": custom_id,
        "params": {"model": CHAT, "max_tokens": 5, "messages": HELLO, **more},
    }


def ended(sdk: anthropic.Anthropic, id_: str) -> MessageBatch:
    def done() -> bool:
        return sdk.messages.batches.retrieve(id_).processing_status == "ended"

    wait_for(done, "the batch to end")
    return sdk.messages.batches.retrieve(id_)


def test_a_batch_of_messages(sdk: anthropic.Anthropic) -> None:
    requests = [
        asked("one"),
        asked("bad", temperature="hot"),
        asked("other-name", model="claude-of-any-kind"),
        asked("no-model", model="nobody/has-this"),
    ]
    batch = sdk.messages.batches.create(requests=requests)
    assert batch.processing_status == "in_progress"
    assert (batch.request_counts.processing, batch.results_url, batch.ended_at) == (4, None, None)
    assert batch.expires_at > batch.created_at

    batch = ended(sdk, batch.id)
    counts = batch.request_counts
    assert (counts.processing, counts.succeeded, counts.errored) == (0, 2, 2)
    assert batch.ended_at
    assert batch.cancel_initiated_at is None
    results = {one.custom_id: one.result for one in sdk.messages.batches.results(batch.id)}
    assert list(results) == ["one", "bad", "other-name", "no-model"]
    assert [one.type for one in results.values()] == ["succeeded", "errored"] * 2
    for name in ("one", "other-name"):
        result = results[name]
        assert result.type == "succeeded"
        assert result.message.usage.output_tokens == 5
        assert result.message.model == CHAT
    for name, kind in (("bad", "invalid_request_error"), ("no-model", "not_found_error")):
        result = results[name]
        assert result.type == "errored"
        assert result.error.error.type == kind
        assert result.error.request_id


def test_results_that_somebody_has_deleted(
    sdk: anthropic.Anthropic, client: Client, server: ServerHome
) -> None:
    batch = ended(sdk, sdk.messages.batches.create(requests=[asked("one")]).id)
    (server.path / "batches" / f"{batch.id}.results").unlink()
    response = client.http.get(f"/v1/messages/batches/{batch.id}/results")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


def test_listing_and_deleting(sdk: anthropic.Anthropic) -> None:
    made = [sdk.messages.batches.create(requests=[asked("one")]).id for _ in range(3)]
    newest = sdk.messages.batches.list(limit=2)
    assert [batch.id for batch in newest.data] == [made[2], made[1]]
    assert newest.has_more
    assert newest.get_next_page().data[0].id == made[0]
    older = sdk.messages.batches.list(before_id=made[0], limit=1)
    assert [batch.id for batch in older.data] == [made[1]]
    assert older.has_more
    assert sdk.messages.batches.list(after_id=made[2], limit=1).data[0].id == made[1]
    for id_ in made:
        ended(sdk, id_)
        assert sdk.messages.batches.delete(id_).type == "message_batch_deleted"
        with pytest.raises(anthropic.NotFoundError, match=id_):
            sdk.messages.batches.retrieve(id_)


def test_canceling(sdk: anthropic.Anthropic, client: Client) -> None:
    forever = {"max_tokens": 7000, "temperature": 2}
    batch = sdk.messages.batches.create(
        requests=[asked("quick"), *(asked(f"long-{n}", **forever) for n in range(8))]
    )
    wait_for(lambda: any(row["active"] for row in client.ps()), "the batch to run")
    with pytest.raises(anthropic.BadRequestError, match="not ended"):
        sdk.messages.batches.delete(batch.id)
    with pytest.raises(anthropic.AnthropicError, match="results_url"):
        sdk.messages.batches.results(batch.id)
    response = client.http.get(f"/v1/messages/batches/{batch.id}/results")
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"

    assert sdk.messages.batches.cancel(batch.id).processing_status == "canceling"
    batch = ended(sdk, batch.id)
    assert batch.cancel_initiated_at
    results = [one.result.type for one in sdk.messages.batches.results(batch.id)]
    assert len(results) == 9
    assert batch.request_counts.canceled == results.count("canceled") >= 1
    assert sdk.messages.batches.cancel(batch.id).processing_status == "ended"


def test_what_has_ended_cannot_be_canceled(sdk: anthropic.Anthropic) -> None:
    batch = sdk.messages.batches.create(requests=[asked("one")])
    ended(sdk, batch.id)
    with pytest.raises(anthropic.BadRequestError, match="has ended"):
        sdk.messages.batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "1 to"),
        ([asked("same"), asked("same")], "requests.1.custom_id"),
        ([asked("a space")], "requests.0.custom_id"),
        ([asked("x" * 65)], "requests.0.custom_id"),
        ([asked("one"), asked("two", stream=True)], "requests.1.params.stream"),
        ([{"custom_id": "one"}], "params"),
        ([{"custom_id": "one", "params": [1]}], "requests.0.params"),
        ([{"params": {}}], "custom_id"),
        ("text", "requests"),
        (None, "requests"),
    ],
)
def test_batches_that_cannot_be_made(client: Client, requests: Any, words: str) -> None:
    response = client.http.post("/v1/messages/batches", json={"requests": requests})
    assert response.status_code == 400
    body = response.json()
    assert body["error"]["type"] == "invalid_request_error"
    assert words in body["error"]["message"]


def test_the_two_protocols_do_not_see_each_others_batches(
    sdk: anthropic.Anthropic, client: Client
) -> None:
    batch = sdk.messages.batches.create(requests=[asked("one")])
    assert client.http.get(f"/v1/batches/{batch.id}").status_code == 404
    ended(sdk, batch.id)
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.batches.retrieve("batch_none")
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        sdk.messages.batches.list(limit=1001)
