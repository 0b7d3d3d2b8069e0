"""POST /v1/rerank with a made reranking model whose scores a reference computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import made_models
import pytest
from server_home import ServerHome

from lmnb.client import Client

MODEL = "made-reranker"
QUERY = "what eats mice"
DOCUMENTS = ["the owl", "a cat eats mice, it is said", "stone", "mice " * 40]


@pytest.fixture(scope="module")
def client(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server that has the model loaded."""
    path = made_models.reranker(tmp_path_factory.mktemp("models") / "reranker.gguf")
    server.lmnb("load", str(path), "--identifier", MODEL)
    found = server.attach()
    yield found
    found.unload(MODEL)


def ask(client: Client, **fields: Any) -> Any:
    body = {"model": MODEL, "query": QUERY, "documents": DOCUMENTS} | fields
    return client.http.post("/v1/rerank", json=body)


def test_documents_come_by_relevance(client: Client) -> None:
    answer = ask(client).raise_for_status().json()
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert {result["index"] for result in answer["results"]} == set(range(len(DOCUMENTS)))
    assert (answer["object"], answer["model"]) == ("list", MODEL)
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 100
    assert "document" not in answer["results"][0]


def test_a_score_does_not_depend_on_the_other_documents(client: Client) -> None:
    together = {r["index"]: r["relevance_score"] for r in ask(client).json()["results"]}
    [alone] = ask(client, documents=DOCUMENTS[1:2]).json()["results"]
    assert alone["relevance_score"] == pytest.approx(together[1], abs=1e-3)


def test_the_best_few_with_their_texts(client: Client) -> None:
    documents = [{"text": text} for text in DOCUMENTS]
    answer = ask(client, documents=documents, top_n=2, return_documents=True).json()
    assert len(answer["results"]) == 2
    for result in answer["results"]:
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}


def test_long_documents_are_cut_unless_that_is_forbidden(client: Client) -> None:
    long = ["x" * 3000]
    assert ask(client, documents=long).status_code == 200
    refused = ask(client, documents=long, truncate=False)
    assert refused.status_code == 400
    assert "512" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"documents": [{"text": None}]}, "documents[0].text"),
        ({"documents": "text"}, "documents"),
        ({"query": None}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"model": "all-minilm-l6-v2"}, "model"),
        ({"model": "smollm2-135m-instruct"}, "model"),
    ],
)
def test_what_is_wrong_is_said(client: Client, fields: dict[str, Any], param: str) -> None:
    answer = ask(client, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_coheres_path_is_there(client: Client) -> None:
    body = {"model": MODEL, "query": QUERY, "documents": DOCUMENTS, "top_n": 1}
    answer = client.http.post("/v2/rerank", json=body | {"max_tokens_per_doc": 4096}).json()
    assert answer["results"] == ask(client, top_n=1).json()["results"]


def test_a_reranking_model_does_not_embed(client: Client) -> None:
    answer = client.http.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
    assert answer.status_code == 400
    assert "rank" in answer.json()["error"]["message"]
