"""`series.lm.embed`, `matrix`, `similarity`: vectors of the real embedding model."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from server_home import EMBEDDING, ServerHome

from lmnb.client import Client
from lmnb.errors import InvalidRequest
from lmnb.frame import prefixes

TEXTS = ["A cat sleeps.", "A dog barks.", "Stocks fell on Monday."]
TOO_LONG = "word " * 2000


@pytest.fixture(autouse=True)
def embedding(server: ServerHome, home: Path) -> Iterator[Client]:
    yield server.attach()
    for path in (home / "cache").glob("tables.db*"):
        path.unlink()


def test_vectors_are_those_of_the_server(embedding: Client) -> None:
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 0)], names=["k", None])
    series = pd.Series(TEXTS, index=index, name="text")
    found = series.lm.embed()
    pd.testing.assert_index_equal(found.index, index)
    assert found.name == "text"
    assert found.dtype == object
    direct = embedding.openai().embeddings.create(model=EMBEDDING, input=TEXTS).data
    expected = np.array([one.embedding for one in direct], np.float32)
    assert found.lm.matrix().dtype == np.float32
    # Texts that share a pass with others differ in the last digits.
    np.testing.assert_allclose(found.lm.matrix(), expected, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found.lm.matrix(), axis=1), 1, rtol=1e-3)


def test_nulls_have_no_vector(embedding: Client) -> None:
    nulls = [None, float("nan"), pd.NA, pd.NaT, ""]
    series = pd.Series([TEXTS[0], *nulls], dtype=object)
    found = series.lm.embed()
    assert [one is None for one in found] == [False] + [True] * 5
    rows = found.lm.matrix()
    assert rows.shape == (6, 384)
    assert np.isnan(rows[1:]).all()
    assert found.lm.similarity(rows[0]).isna().tolist() == [False] + [True] * 5
    assert found.attrs["lmnb"]["null"] == 5


def test_texts_of_any_dtype_and_no_texts(embedding: Client) -> None:
    for dtype in ("string", "object", "str", "category"):
        found = pd.Series([TEXTS[0]] * 2, dtype=dtype).lm.embed()
        assert found.lm.matrix().shape == (2, 384)
    empty = pd.Series([], dtype=object).lm.embed()
    assert empty.lm.matrix().shape == (0, 0)
    assert pd.Series([], dtype=object).lm.similarity("cat").empty
    assert pd.Series([None, ""]).lm.similarity("cat").isna().all()
    with pytest.raises(InvalidRequest, match="Row 1 of 'n' holds int"):
        pd.Series(["a", 1], name="n", dtype=object).lm.embed()


def test_equal_texts_are_embedded_once_and_a_second_run_computes_nothing(embedding: Client) -> None:
    series = pd.Series(TEXTS * 100)
    first = series.lm.embed()
    assert first.attrs["lmnb"]["tokens"] == series[:3].lm.embed(cache=False).attrs["lmnb"]["tokens"]
    embedding.unload(all=True)
    again = series.lm.embed()
    assert embedding.ps() == []
    assert again.attrs["lmnb"]["cached"] == 300
    np.testing.assert_array_equal(first.lm.matrix(), again.lm.matrix())
    assert series.lm.embed(prefix="query: ").attrs["lmnb"]["cached"] == 0


def test_many_texts_keep_their_places(embedding: Client) -> None:
    series = pd.Series([f"{'long ' * (n % 7)}text number {n}" for n in range(200)])
    found = series.lm.embed()
    some = series[[3, 77, 199]].lm.embed(cache=False)
    np.testing.assert_allclose(found[[3, 77, 199]].lm.matrix(), some.lm.matrix(), atol=2e-3)


def test_long_texts_are_cut_with_a_warning(embedding: Client) -> None:
    series = pd.Series([TEXTS[0], TOO_LONG])
    with pytest.warns(UserWarning, match="1 texts are longer than all-minilm-l6-v2 reads"):
        found = series.lm.embed()
    assert found.attrs["lmnb"]["ok"] == 2
    end = series.lm.embed(truncate="end", cache=False)
    np.testing.assert_allclose(found.lm.matrix(), end.lm.matrix(), atol=2e-3)


def test_a_long_text_is_one_row_without_a_vector(embedding: Client) -> None:
    series = pd.Series([TEXTS[0], TOO_LONG, TEXTS[1]], index=["a", "a", "b"])
    with pytest.warns(UserWarning, match="1 rows have no vector"):
        found = series.lm.embed(truncate="error")
    assert [one is None for one in found] == [False, True, False]
    assert list(found.attrs["lmnb"]["errors"]) == [1]
    assert "2002 tokens" in found.attrs["lmnb"]["errors"][1]


def test_similarity_finds_what_is_meant(embedding: Client) -> None:
    series = pd.Series(TEXTS, index=[9, 9, 1])
    near = series.lm.similarity("kitten")
    pd.testing.assert_index_equal(near.index, series.index)
    assert near.to_numpy().argmax() == 0
    vectors = series.lm.embed()
    np.testing.assert_allclose(vectors.lm.similarity("kitten"), near, atol=2e-3)
    np.testing.assert_allclose(vectors.lm.similarity(vectors), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors.lm.similarity(vectors.iloc[0]).iloc[0], 1, rtol=1e-5)
    with pytest.raises(InvalidRequest, match="indexes"):
        vectors.lm.similarity(vectors.reset_index(drop=True))
    with pytest.raises(InvalidRequest, match="384 dimensions"):
        vectors.lm.similarity([1.0, 2.0])
    with pytest.raises(InvalidRequest, match="Row 1 of"):
        pd.Series([np.ones(3), "text"], dtype=object).lm.matrix()


def test_vectors_go_through_parquet_where_it_is(embedding: Client) -> None:
    pytest.importorskip("pyarrow", reason="pandas reads parquet with pyarrow")
    frame = pd.DataFrame({"vector": pd.Series(TEXTS).lm.embed()})
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    back = pd.read_parquet(buffer)
    np.testing.assert_array_equal(back["vector"].lm.matrix(), frame["vector"].lm.matrix())


SENTENCE = "Represent this sentence for searching relevant passages: "
CODE = "Represent this query for searching relevant code: "
TASK = "Instruct: Given a web search query, retrieve relevant passages that answer the query"


@pytest.mark.parametrize(
    ("model", "query", "document"),
    [
        ("intfloat/multilingual-e5-small", "query: ", "passage: "),
        ("intfloat/e5-base-v2@f16", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large-instruct", f"{TASK}\nQuery: ", ""),
        ("intfloat/e5-mistral-7b-instruct", f"{TASK}\nQuery: ", ""),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", f"{TASK}\nQuery: ", ""),
        ("Qwen/Qwen3-Embedding-0.6B", f"{TASK}\nQuery:", ""),
        ("NovaSearch/stella_en_400M_v5", f"{TASK}.\nQuery: ", ""),
        ("nomic-ai/nomic-embed-text-v1.5@q8_0", "search_query: ", "search_document: "),
        ("nomic-ai/nomic-embed-text-v2-moe", "search_query: ", "search_document: "),
        ("nomic-ai/nomic-embed-code", CODE, ""),
        ("nomic-ai/modernbert-embed-base", "search_query: ", "search_document: "),
        ("BAAI/bge-small-en-v1.5", SENTENCE, ""),
        ("BAAI/bge-large-zh-v1.5", "为这个句子生成表示以用于检索相关文章：", ""),
        ("mixedbread-ai/mxbai-embed-large-v1", SENTENCE, ""),
        ("mixedbread-ai/deepset-mxbai-embed-de-large-v1", "query: ", "passage: "),
        ("WhereIsAI/UAE-Large-V1", SENTENCE, ""),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", SENTENCE, ""),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "query: ", ""),
        ("google/embeddinggemma-300m", "task: search result | query: ", "title: none | text: "),
        (
            "jinaai/jina-embeddings-v3",
            "Represent the query for retrieving evidence documents: ",
            "Represent the document for retrieval: ",
        ),
        ("jinaai/jina-embeddings-v4-text-retrieval", "Query: ", "Passage: "),
        ("jinaai/jina-embeddings-v5-text-nano-retrieval", "Query: ", "Document: "),
    ],
)
def test_models_that_tell_queries_from_documents(model: str, query: str, document: str) -> None:
    assert prefixes.find(model) == (query, document)


@pytest.mark.parametrize(
    "model",
    [
        "all-minilm-l6-v2",
        "sentence-transformers/all-mpnet-base-v2",
        "BAAI/bge-m3",
        "thenlper/gte-small",
        "Alibaba-NLP/gte-multilingual-base",
        "ibm-granite/granite-embedding-30m-english",
        "jinaai/jina-embeddings-v2-base-en",
    ],
)
def test_models_that_do_not(model: str) -> None:
    assert prefixes.find(model) is None


def test_a_model_that_tells_them_apart_wants_to_know(
    embedding: Client, home: Path, embedding_model_path: Path
) -> None:
    path = home / "models" / "tests" / "tiny-e5-small" / "tiny-e5-small.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(embedding_model_path)
    series = pd.Series(["cat"])
    try:
        with pytest.warns(UserWarning, match="tells documents and queries apart"):
            plain = series.lm.embed("tests/tiny-e5-small")
        query = series.lm.embed("tests/tiny-e5-small", kind="query")
        expected = pd.Series(["query: cat"]).lm.embed(EMBEDDING)
        np.testing.assert_allclose(query.lm.matrix(), expected.lm.matrix(), atol=2e-3)
        assert not np.allclose(query.lm.matrix(), plain.lm.matrix(), atol=1e-2)
    finally:
        embedding.unload(all=True)
        path.unlink()


def test_vectors_lie_in_the_cache_as_float32(embedding: Client, home: Path) -> None:
    found = pd.Series(TEXTS[:1]).lm.embed()
    with sqlite3.connect(home / "cache" / "tables.db") as database:
        [(value,)] = database.execute("SELECT value FROM kept").fetchall()
    np.testing.assert_array_equal(np.frombuffer(value, "<f4"), found[0])


@pytest.mark.parametrize("options", [{"truncate": "start"}, {"kind": "passage"}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        pd.Series(TEXTS).lm.embed(**options)
