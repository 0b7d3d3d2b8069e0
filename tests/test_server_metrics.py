"""`/metrics`."""

from __future__ import annotations

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_home import CHAT, EMBEDDING, ServerHome

from lmnb.client import Client


def read(client: Client) -> dict[tuple[str, ...], float]:
    """Samples by name and values of their labels, these in the order of the labels' names."""
    answer = client.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.fixture
def sdk(server: ServerHome, client: Client) -> openai.OpenAI:
    return client.openai()


def test_what_is_done_is_counted(client: Client, sdk: openai.OpenAI) -> None:
    list(client.load(CHAT))
    before = read(client)
    answer = sdk.completions.create(model=CHAT, prompt="One, two,", max_tokens=4)
    stream = sdk.chat.completions.create(
        model=CHAT, max_tokens=3, stream=True, messages=[{"role": "user", "content": "Hello"}]
    )
    list(stream)
    vectors = sdk.embeddings.create(model=EMBEDDING, input="A few words")
    with pytest.raises(openai.BadRequestError):
        sdk.completions.create(model=CHAT, prompt="x", max_tokens=1, temperature=-3)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve("resp_nothing")
    client.http.get("/nowhere")
    after = read(client)

    def grown(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    assert answer.usage is not None
    assert grown("lmnb_requests_total", "POST", "/v1/completions", "200") == 1
    assert grown("lmnb_requests_total", "POST", "/v1/completions", "400") == 1
    assert grown("lmnb_requests_total", "POST", "/v1/chat/completions", "200") == 1
    assert grown("lmnb_requests_total", "GET", "/v1/responses/{id}", "404") == 1
    assert grown("lmnb_requests_total", "GET", "unknown", "404") == 1
    assert grown("lmnb_request_seconds_count", "/v1/completions") == 2
    assert grown("lmnb_answers_total", CHAT, "length") == 2
    assert grown("lmnb_tokens_total", "output", CHAT) == answer.usage.completion_tokens + 3
    assert grown("lmnb_tokens_total", "input", CHAT) > answer.usage.prompt_tokens
    assert grown("lmnb_tokens_total", "embedded", EMBEDDING) == vectors.usage.total_tokens
    assert grown("lmnb_first_token_seconds_count", CHAT) == 2
    assert after["lmnb_model_active_requests", CHAT] == 0
    (row,) = (row for row in client.ps() if row["id"] == CHAT)
    assert after["lmnb_model_memory_bytes", CHAT] == pytest.approx(row["memory"], rel=0.2)
    assert after["process_resident_memory_bytes",] > 1e6
    client.unload(all=True)
    assert ("lmnb_model_memory_bytes", CHAT) not in read(client)


def test_labels_hold_nothing_of_requests(client: Client, sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        sdk.completions.create(model="secret-model", prompt="secret-prompt", max_tokens=1)
    client.http.get("/secret-path", params={"q": "secret-query"})
    # An id that is part of another, or of the route's own names.
    for path in ("se/items/secret", "secret/items/secret-item", "e/items/secret"):
        client.http.get(f"/v1/conversations/{path}")
    client.http.get("/v1/batches/batches")
    text = client.http.get("/metrics").text
    assert "secret" not in text
    assert 'route="/v1/conversations/{id}/items/{item}"' in text
    assert 'route="/v1/batches/{id}"' in text
    assert 'route="/v1/conversations/e' not in text
