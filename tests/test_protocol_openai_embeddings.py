"""Embeddings and the model list: the official SDKs against the real server and model."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import anthropic
import made_models
import openai
import pytest
from server_home import ServerHome

from lmnb.client import Client

LLM = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"


@pytest.fixture
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(_strict_response_validation=True, max_retries=0)


def vectors(sdk: openai.OpenAI, texts: str | list[str]) -> list[list[float]]:
    answer = sdk.embeddings.create(model=EMBEDDER, input=texts, encoding_format="float")
    return [row.embedding for row in answer.data]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_embeddings(sdk: openai.OpenAI) -> None:
    cat, kitten, tax = vectors(sdk, ["A cat.", "A kitten.", "The income tax."])
    assert len(cat) == 384
    assert math.isclose(dot(cat, cat), 1, abs_tol=1e-4)
    assert dot(cat, kitten) > dot(cat, tax)


def test_the_order_is_that_of_the_input(sdk: openai.OpenAI) -> None:
    texts = [f"Sentence {'long ' * (i % 5)} {i}." for i in range(20)]
    together = vectors(sdk, texts)
    for i in (0, 7, 19):
        assert dot(vectors(sdk, texts[i])[0], together[i]) > 0.999


def test_usage_is_real(sdk: openai.OpenAI) -> None:
    answer = sdk.embeddings.create(model=EMBEDDER, input=["cat", "cat"], encoding_format="float")
    assert answer.usage.prompt_tokens == 6, "[CLS] cat [SEP], twice"
    assert answer.usage.total_tokens == 6


def test_base64_is_the_default_of_the_sdk(client: Client, sdk: openai.OpenAI) -> None:
    """Not strictly: the SDK checks before it decodes what it has asked for itself."""
    found = client.openai().embeddings.create(model=EMBEDDER, input="A cat.").data[0].embedding
    assert dot(found, vectors(sdk, "A cat.")[0]) > 0.999
    body = {"model": EMBEDDER, "input": "A cat.", "encoding_format": "base64"}
    sent = client.http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    assert len(base64.b64decode(sent)) == 4 * 384


@pytest.mark.parametrize("value", [[1, 2, 3], [[1, 2], [3]]])
def test_token_arrays_are_refused(sdk: openai.OpenAI, value: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as raised:
        sdk.embeddings.create(model=EMBEDDER, input=value)
    assert raised.value.param == "input"


@pytest.mark.parametrize("value", ["", [], ["a", ""]])
def test_nothing_has_no_embedding(sdk: openai.OpenAI, value: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        sdk.embeddings.create(model=EMBEDDER, input=value)


def test_a_text_that_is_too_long(sdk: openai.OpenAI) -> None:
    long = "word " * 600
    with pytest.raises(openai.BadRequestError, match="512"):
        sdk.embeddings.create(model=EMBEDDER, input=long)
    answer = sdk.embeddings.create(
        model=EMBEDDER, input=long, encoding_format="float", extra_body={"truncate": True}
    )
    assert answer.usage.prompt_tokens == 512


def test_a_time_to_live_is_that_of_the_load(client: Client, sdk: openai.OpenAI) -> None:
    client.unload(all=True)
    vectors(sdk, "a")  # loads
    before = {row["id"]: row["ttl"] for row in client.ps()}
    client.unload(all=True)
    sdk.embeddings.create(
        model=EMBEDDER, input="a", encoding_format="float", extra_body={"ttl": 77}
    )
    assert {row["id"]: row["ttl"] for row in client.ps()} == dict.fromkeys(before, 77)


def test_dimensions(sdk: openai.OpenAI) -> None:
    wanted: Any = {"model": EMBEDDER, "input": "x", "encoding_format": "float"}
    assert len(sdk.embeddings.create(**wanted, dimensions=384).data[0].embedding) == 384
    with pytest.raises(openai.BadRequestError, match="384"):
        sdk.embeddings.create(**wanted, dimensions=100)


def test_vectors_of_matryoshka_models_are_cut(
    server: ServerHome, sdk: openai.OpenAI, tmp_path: Path
) -> None:
    path = made_models.bert(tmp_path / "nomic-embed-text-v1.5.Q8_0.gguf")
    server.lmnb("load", str(path), "--identifier", "doll")
    wanted: Any = {"model": "doll", "input": ["a b", "c"], "encoding_format": "float"}
    try:
        whole = [row.embedding for row in sdk.embeddings.create(**wanted).data]
        cut = [row.embedding for row in sdk.embeddings.create(**wanted, dimensions=16).data]
        with pytest.raises(openai.BadRequestError, match="at most 64") as raised:
            sdk.embeddings.create(**wanted, dimensions=65)
    finally:
        server.attach().unload("doll")
    assert raised.value.param == "dimensions"
    for long, short in zip(whole, cut, strict=True):
        size = math.sqrt(dot(long[:16], long[:16]))
        assert short == pytest.approx([value / size for value in long[:16]], abs=1e-6)


def test_a_language_model_has_no_embeddings(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        sdk.embeddings.create(model=LLM, input="x")


# --- models ---------------------------------------------------------------------------


def test_the_model_list(sdk: openai.OpenAI) -> None:
    models = {model.id: model for model in sdk.models.list()}
    assert {LLM, EMBEDDER} <= models.keys()
    assert models[LLM].owned_by == "HuggingFaceTB"
    assert models[LLM].created > 0


def test_one_model_by_any_of_its_names(sdk: openai.OpenAI) -> None:
    for name in (LLM, LLM.upper(), f"HuggingFaceTB/{LLM}", f"{LLM}@q4_1"):
        assert sdk.models.retrieve(name).id == LLM
    with pytest.raises(openai.NotFoundError) as raised:
        sdk.models.retrieve("some/other@q4")
    assert raised.value.code == "model_not_found"


def test_a_loaded_model_says_its_context(client: Client, sdk: openai.OpenAI) -> None:
    for _ in client.load(LLM, identifier="short", context_length=512):
        pass
    try:
        found = sdk.models.retrieve("short").to_dict()
        assert found["max_input_tokens"] == 512
        assert found["state"] == "loaded"
        assert "short" in [model.id for model in sdk.models.list()]
    finally:
        client.unload("short")
    assert "short" not in [model.id for model in sdk.models.list()]


def test_only_loaded_models_where_requests_may_not_load(
    fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMNB_JIT_LOADING", "false")
    client = fresh_home.attach()
    sdk = client.openai(_strict_response_validation=True, max_retries=0)
    assert [model.id for model in sdk.models.list()] == []
    with pytest.raises(openai.NotFoundError, match="lmnb load"):
        sdk.models.retrieve(EMBEDDER)
    with pytest.raises(openai.NotFoundError):
        sdk.embeddings.create(model=EMBEDDER, input="x")
    for _ in client.load(EMBEDDER, identifier="mine"):
        pass
    assert [model.id for model in sdk.models.list()] == ["mine"]
    assert sdk.models.retrieve(EMBEDDER).id == "mine"
    assert len(vectors(sdk, "x")) == 1


def test_the_same_list_for_anthropics_sdk(client: Client) -> None:
    sdk = client.anthropic(_strict_response_validation=True)
    found = sdk.models.list()
    assert {LLM, EMBEDDER} <= {model.id for model in found}
    one = sdk.models.retrieve(LLM)
    assert one.display_name == "SmolLM2 135M Instruct"
    assert one.max_input_tokens is not None
    assert one.capabilities is not None
    assert one.capabilities.thinking.supported is False
    assert one.capabilities.image_input.supported is False
    assert one.capabilities.pdf_input.supported
    assert one.capabilities.structured_outputs.supported
    embedder = sdk.models.retrieve(EMBEDDER).capabilities
    assert embedder is not None
    assert embedder.pdf_input.supported is False
    with pytest.raises(anthropic.NotFoundError, match="model:"):
        sdk.models.retrieve("none")


def test_anthropics_paging(client: Client) -> None:
    sdk = client.anthropic(_strict_response_validation=True)
    everything = [model.id for model in sdk.models.list()]
    paged = [model.id for model in sdk.models.list(limit=1)]
    assert paged == everything
    backwards = sdk.models.list(limit=1, before_id=everything[1])
    assert [model.id for model in backwards.data] == everything[:1]
    with pytest.raises(anthropic.BadRequestError):
        sdk.models.list(after_id="none")
    with pytest.raises(anthropic.BadRequestError):
        sdk.models.list(limit=0)
