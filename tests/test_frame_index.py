"""`df.lm.index` and what searches in it, with the real embedding model and with vectors made by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_models
import numpy as np
import pandas as pd
import pytest
from made_models.scripted import Answer as Said
from made_models.scripted import scripted
from server_home import EMBEDDING, ServerHome

import lmnb
from lmnb.client import Client
from lmnb.engine.options import Segment
from lmnb.errors import ConfigError, InvalidRequest, ModelNotFound
from lmnb.frame import Index
from lmnb.frame.index import Answer, OtherModel, citations, model
from lmnb.frame.index.asking import Asked, schema
from lmnb.frame.index.ranking import Hits, fuse
from lmnb.frame.mapping import RowFailed

TEXTS = [
    "Cats sleep most of the day.",
    "The dog barked at the postman.",
    "Share prices fell on Monday.",
    None,
    "A kitten plays with wool.",
    "Invoice 4711 was paid on Monday.",
]
LABELS = ["b", "a", "b", "n", "z", "i"]
RESULTS = ["query_id", "query", "rank", "id", "score", "rank_dense", "rank_text"]


@pytest.fixture(scope="module", autouse=True)
def client(server: ServerHome) -> Client:
    return server.attach()


def documents() -> pd.DataFrame:
    years = [2019, 2020, 2021, 2022, 2023, 2024]
    return pd.DataFrame({"text": TEXTS, "year": years}, index=pd.Index(LABELS, name="label"))


@pytest.fixture(scope="module")
def index(client: Client) -> Index:
    found: Index = documents().lm.index("text")
    return found


@pytest.fixture(scope="module")
def reranker(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = made_models.reranker(tmp_path_factory.mktemp("models") / "reranker.gguf")
    for _ in client.load(str(path), identifier="second-look"):
        pass
    yield "second-look"
    client.unload("second-look")


@pytest.fixture(params=["memory", "lance"])
def store(request: pytest.FixtureRequest) -> str:
    """Each of the stores, which have one contract."""
    if request.param == "lance":
        pytest.importorskip("lancedb", reason="LanceDB is not installed: lmnb[lance]")
    return str(request.param)


def by_hand(rows: int = 200, dimensions: int = 16, **options: Any) -> tuple[Index, Any]:
    """An index of random vectors, and these."""
    vectors = np.random.default_rng(1).normal(size=(rows, dimensions)).astype(np.float32)
    frame = pd.DataFrame({"n": range(rows), "words": [f"word{n % 7} item{n}" for n in range(rows)]})
    return frame.lm.index(vectors=vectors, **options), vectors


def nearest(vectors: Any, query: Any) -> Any:
    """All rows by their cosine, computed in the plainest way."""
    rows = vectors.astype(float)
    return (rows @ query) / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)


# --- results ---------------------------------------------------------------------


def test_results_have_one_form_for_one_query_and_for_many(index: Index) -> None:
    one = index.search("kitten", k=3)
    assert list(one.columns) == [*RESULTS, "text", "year"]
    column = pd.Series(["kitten", None, "stock market"], index=["x", "y", "x"])
    many = index.search(column, k=3)
    assert one.dtypes.drop("query_id").equals(many.dtypes.drop("query_id"))
    assert many["query_id"].tolist() == ["x"] * 6
    assert many["rank"].tolist() == [1, 2, 3] * 2
    pd.testing.assert_frame_equal(
        many[:3].drop(columns="query_id"), one.drop(columns="query_id"), atol=2e-3
    )
    nothing = index.search([])
    assert nothing.empty
    assert list(nothing.columns) == list(one.columns)
    assert index.search(["kitten", "wool"])["query_id"].unique().tolist() == [0, 1]


def test_labels_outside_are_positions_inside(index: Index) -> None:
    found = index.search("kitten", k=6, mode="dense")
    assert sorted(found["id"]) == sorted(label for label in LABELS if label != "n")
    for row in found.itertuples():
        assert row.text in documents().loc[[row.id], "text"].tolist()
    levels = documents().set_index("year", append=True)
    both = levels.lm.index("text").search("kitten", k=1)
    assert both["id"].tolist() == [("z", 2023)]


def test_dense_is_the_cosine_and_text_wants_a_word(index: Index) -> None:
    dense = index.search("kitten", mode="dense")
    assert dense["id"].tolist()[:2] == ["z", "b"]
    cosines = documents()["text"].lm.similarity("kitten").dropna().sort_values(ascending=False)
    np.testing.assert_allclose(dense["score"], cosines, atol=2e-3)
    assert dense["rank_dense"].tolist() == dense["rank"].tolist()
    assert dense["rank_text"].isna().all()
    text = index.search("invoice 4711", mode="text")
    assert text["id"].tolist() == ["i"]
    assert index.search("zebra", mode="text").empty
    assert index.search("...", mode="text").empty


def test_hybrid_is_the_fusion_of_both(index: Index) -> None:
    query = "paid on Monday"
    lists = {
        "rank_dense": index.search(query, mode="dense").set_index("text")["rank"],
        "rank_text": index.search(query, mode="text").set_index("text")["rank"],
    }
    found = index.search(query, rrf_k=10).set_index("text")
    for name, ranks in lists.items():
        assert found[name].dropna().to_dict() == ranks.to_dict()
    expected = sum(1 / (10 + found[name].astype(float)).fillna(np.inf) for name in lists)
    np.testing.assert_allclose(found["score"], expected)
    assert found["score"].is_monotonic_decreasing
    assert found.index[0] == TEXTS[5]


def test_fusion_by_hand() -> None:
    lists = [Hits(np.array(rows), np.zeros(len(rows))) for rows in ([3, 1], [2, 3])]
    found = fuse(lists, 2, 60)
    assert found.rows.tolist() == [3, 2]
    assert found.scores.tolist() == [1 / 61 + 1 / 62, 1 / 61]


def test_nulls_are_never_found(index: Index) -> None:
    assert len(index.search("the", k=99, mode="dense")) == 5
    assert index.search(["", None]).empty
    nulls = pd.DataFrame({"text": pd.Series([None, None], dtype=object)}).lm.index("text")
    assert nulls.search("a").empty
    assert len(pd.DataFrame({"text": pd.Series([], dtype=object)}).lm.index("text")) == 0


# --- exact -----------------------------------------------------------------------


def test_vectors_of_any_length_are_searched_exactly(store: str) -> None:
    found, vectors = by_hand(store=store)
    queries = np.random.default_rng(2).normal(size=(20, 16))
    table = found.search(queries, k=10)
    for number, query in enumerate(queries):
        rows = table[table["query_id"] == number]
        expected = np.argsort(-nearest(vectors, query))[:10]
        assert rows["id"].tolist() == expected.tolist()
        np.testing.assert_allclose(rows["score"], nearest(vectors, query)[expected], atol=1e-6)
        alone = found.search(query, k=10)
        assert alone["score"].tolist() == rows["score"].tolist()


def test_equal_rows_come_in_their_order(store: str) -> None:
    frame = pd.DataFrame({"text": ["same words"] * 50 + ["others"]})
    vectors = np.array([[1.0, 2.0, 3.0]] * 50 + [[1.0, 0, 0]])
    found = frame.lm.index("text", vectors=vectors, store=store)
    for mode in ("dense", "text"):
        query: Any = np.array([1.0, 2.0, 2.5]) if mode == "dense" else "words"
        assert found.search(query, k=7, mode=mode)["id"].tolist() == list(range(7))


def test_rows_without_a_vector_are_not_found(store: str) -> None:
    column = pd.Series([np.ones(2), None, np.zeros(2), np.array([1.0, 0])], dtype=object)
    frame = pd.DataFrame({"vector": column, "n": range(4)})
    found = frame.lm.index(vectors="vector", store=store)
    assert list(found.table.columns) == ["n"]
    assert found.search([np.array([1.0, 0.1])])["n"].tolist() == [3, 0]
    assert (
        found.search(pd.Series([None, np.ones(2)], index=["x", "y"]))["query_id"].tolist()
        == ["y"] * 2
    )


@pytest.mark.parametrize(
    "where",
    [
        "n % 3 == 0",
        lambda table: table["n"] % 3 == 0,
        np.arange(200) % 3 == 0,
        pd.Series(np.arange(200) % 3 == 0, dtype="boolean").replace({False: pd.NA}),
        [n % 3 == 0 for n in range(200)],
    ],
    ids=["words", "function", "array", "column with nulls", "list"],
)
def test_filters_are_exact(where: Any, store: str) -> None:
    found, vectors = by_hand(store=store)
    query = np.arange(16.0)
    order = [row for row in np.argsort(-nearest(vectors, query)) if row % 3 == 0]
    assert found.search(query, k=5, where=where)["id"].tolist() == order[:5]
    assert len(found.search(query, k=200, where=where)) == 67


def test_filters_hold_for_words_too(index: Index) -> None:
    assert index.search("Monday", mode="text")["year"].tolist() == [2021, 2024]
    for mode in ("text", "hybrid"):
        found = index.search("Monday", mode=mode, where="year > 2021")
        assert (found["year"] > 2021).all()
        assert found["year"].tolist()[0] == 2024
    assert index.search("Monday", where="year > 3000").empty


def test_words_of_any_language() -> None:
    texts = ["東京は晴れです", "Größe und Übermut", "q 7 x", "\ud800 lone"]
    frame = pd.DataFrame({"text": pd.Series(texts, dtype=object)})
    found = frame.lm.index("text", vectors=np.eye(4))
    for place, query in enumerate(["京", "GRÖßE", "x", "LONE"]):
        assert found.search(query, mode="text")["id"].tolist() == [place]


# --- reranking -------------------------------------------------------------------


def test_a_reranking_model_decides(index: Index, client: Client, reranker: str) -> None:
    query = "what eats mice"
    found = index.search(query, k=3, rerank=reranker)
    words = [text for text in TEXTS if text]
    body = {"model": reranker, "query": query, "documents": words}
    answer = client.http.post("/v1/rerank", json=body).json()["results"]
    expected = {words[one["index"]]: one["relevance_score"] for one in answer[:3]}
    assert found["text"].tolist() == list(expected)
    np.testing.assert_allclose(found["score"], list(expected.values()), atol=2e-3)
    assert found["rank"].tolist() == [1, 2, 3]
    assert found["rank_dense"].notna().all()


def test_what_cannot_be_reranked_keeps_its_order(index: Index, reranker: str) -> None:
    with pytest.warns(UserWarning, match="Not reranked"):
        found = index.search(["Monday " * 2000, "the"], k=2, mode="text", rerank=reranker)
    assert found["score"].isna().tolist() == [True, True, False, False]
    assert found["id"].tolist()[:2] == ["b", "i"]
    assert index.search([None], rerank=reranker).empty


# --- adding, deleting ------------------------------------------------------------


def test_adding_and_deleting_is_as_making_it_anew(store: str) -> None:
    whole = documents()
    grown = whole[:2].lm.index("text", store=store)
    grown.add(whole[2:][["year", "text"]])
    fresh = whole.lm.index("text")
    queries = ["Monday", "kitten"]
    pd.testing.assert_frame_equal(grown.search(queries), fresh.search(queries))
    assert grown.delete("b") == 2
    assert grown.delete(where="year == 2024") == 1
    less = whole[whole["year"].isin([2020, 2022, 2023])].lm.index("text")
    pd.testing.assert_frame_equal(grown.search(queries), less.search(queries))
    assert len(grown) == 3


def test_ready_vectors_are_added_ready(store: str) -> None:
    found, vectors = by_hand(10, store=store)
    found.add(pd.DataFrame({"n": [10], "words": ["more"]}, index=[99]), vectors=vectors[:1] * 2)
    assert found.search(vectors[0], k=2)["id"].tolist() == [0, 99]
    with pytest.raises(InvalidRequest, match="give `vectors=`"):
        found.add(found.table)
    with pytest.raises(InvalidRequest, match="3 dimensions, not 16"):
        found.add(found.table[:1], vectors=np.ones((1, 3)))
    with pytest.raises(InvalidRequest, match="'words' is in one"):
        found.add(found.table[["n"]], vectors=np.ones((11, 16)))
    assert len(found) == 11
    found.delete([99, 3])
    assert found.delete(found.table.index) == 9
    assert found.search(vectors[0]).empty


def test_an_index_of_nothing_grows(tmp_path: Path, store: str) -> None:
    nulls = pd.DataFrame({"text": pd.Series([None], dtype=object), "year": [1]}, index=["null"])
    for first in (documents()[:0], nulls):
        found = first.lm.index("text", store=store)
        found.add(documents()[:2])
        found.add(nulls)
        assert found.search("cat", k=9, mode="dense")["id"].tolist() == ["b", "a"]
        assert found.search("dog", mode="text")["id"].tolist() == ["a"]
        found.save(tmp_path / "index")
        again = Index.open(tmp_path / "index")
        pd.testing.assert_frame_equal(again.search("cat"), found.search("cat"), check_exact=True)


def test_the_table_is_not_changed_and_the_index_not_by_it() -> None:
    frame = documents()
    before = frame.copy(deep=True)
    found = frame.lm.index("text")
    pd.testing.assert_frame_equal(frame, before)
    frame.loc[:, "year"] = 0
    assert found.search("kitten", k=1)["year"].tolist() == [2023]


# --- keeping ---------------------------------------------------------------------


def all_kinds() -> pd.DataFrame:
    days = pd.Series(pd.to_datetime(["2026-01-02", None, "2025-07-01"])).astype("datetime64[ns]")
    return pd.DataFrame(
        {
            "text": pd.Series(["one", None, "\udc80 three\n\u2028"], dtype=object),
            "str": ["one", None, "three"],
            "float": [0.1 + 0.2, np.nan, np.inf],
            "single": np.array([1 / 3, 0, -1], np.float32),
            "small": np.array([1, 2, 3], np.uint8),
            "whole": pd.array([2**60, None, 3], dtype="Int64"),
            "real": pd.array([0.1, None, 3], dtype="Float64"),
            "true": pd.array([True, None, False], dtype="boolean"),
            "bool": [True, False, True],
            "string": pd.array(["a", None, ""], dtype="string"),
            "object": pd.Series([{"a": [1]}, None, [1.5, "x"]], dtype=object),
            "kind": pd.Categorical(["x", None, "y"], categories=["y", "x"], ordered=True),
            "number": pd.Categorical([3, 1, 3]),
            "day": days,
            "zone": days.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"),
            "span": pd.to_timedelta([1, None, 2], unit="s"),
        }
    )


@pytest.mark.parametrize(
    "labels",
    [
        pd.Index([7, 3, 7], name="n"),
        pd.MultiIndex.from_arrays(
            [["a", "b", "a"], pd.to_datetime(["2026-01-01"] * 3)], names=["k", None]
        ),
    ],
    ids=["numbers", "levels"],
)
def test_saved_and_reopened_it_is_the_same_to_the_last_bit(
    tmp_path: Path, labels: Any, store: str
) -> None:
    frame = all_kinds().set_index(labels)
    found = frame.lm.index("text", path=tmp_path / "new" / "index", store=store)
    again = Index.open(tmp_path / "new" / "index")
    pd.testing.assert_frame_equal(again.table, found.table, check_freq=False)
    for mode in ("dense", "text", "hybrid"):
        query = ["one", "three"]
        pd.testing.assert_frame_equal(
            again.search(query, mode=mode), found.search(query, mode=mode), check_exact=True
        )
    assert again.info() == found.info()
    assert again.info()["model"]["key"] == EMBEDDING
    assert repr(again) == repr(found)
    again.save(tmp_path / "again")
    for path in (tmp_path / "new" / "index").rglob("*"):
        if path.is_file():
            assert (
                path.read_bytes()
                == (tmp_path / "again" / path.relative_to(tmp_path / "new" / "index")).read_bytes()
            )


def test_a_folder_appears_whole_and_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    found, vectors = by_hand(20)
    found.save(tmp_path / "index")
    found.delete(0)
    bad = found.table.assign(bad=[object()] * 19).lm.index(vectors=vectors[1:])
    with pytest.raises(InvalidRequest, match="'bad' holds object"):
        bad.save(tmp_path / "index")
    assert len(Index.open(tmp_path / "index")) == 20
    found.save()
    assert len(Index.open(tmp_path / "index")) == 19
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["lmnb"] == lmnb.__version__
    assert manifest["model"] is None
    assert manifest["normalised"] is True


def test_what_is_saved_stays_until_it_is_saved_again(tmp_path: Path, store: str) -> None:
    found, vectors = by_hand(5, store=store)
    found.save(tmp_path / "index")
    found.delete(0)
    found.add(pd.DataFrame({"n": [9], "words": ["new"]}, index=[9]), vectors=vectors[:1])
    assert Index.open(tmp_path / "index").search(vectors[0], k=1)["id"].tolist() == [0]
    found.save()
    again = Index.open(tmp_path / "index")
    assert again.search(vectors[0], k=1)["id"].tolist() == [9]
    again.delete(9)
    assert again.search(vectors[1], k=9)["id"].tolist()[0] == 1
    assert len(Index.open(tmp_path / "index").search(vectors[0])) == 5


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    found, _ = by_hand(3)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InvalidRequest, match="is no index"):
        found.save(tmp_path / "mine")
    with pytest.raises(InvalidRequest, match="There is no index"):
        Index.open(tmp_path / "mine")
    with pytest.raises(InvalidRequest, match="Say where"):
        found.save()


@pytest.mark.parametrize("name", ["manifest.json", "rows.jsonl", "vectors.npy"])
def test_a_damaged_folder_is_told(tmp_path: Path, name: str) -> None:
    by_hand(3)[0].save(tmp_path / "index")
    path = tmp_path / "index" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="is damaged"):
        Index.open(tmp_path / "index")


def test_a_later_form_is_refused(tmp_path: Path) -> None:
    by_hand(3)[0].save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99, "lmnb": "9.9"}))
    with pytest.raises(ConfigError, match=r"index of lmnb 9\.9"):
        Index.open(tmp_path / "index")


# --- models ----------------------------------------------------------------------


@pytest.fixture
def other(home: Path, client: Client) -> Iterator[str]:
    """Another embedding model of as many dimensions as the tests ask for."""
    path = home / "models" / "tests" / "other-e5-small" / "other-e5-small.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    made_models.bert(path)
    name = "tests/other-e5-small"
    yield name
    if client.loaded(name) is not None:
        client.unload(name)
    path.unlink()


def test_another_embedding_model_is_refused(
    index: Index, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.save(tmp_path / "index")
    with pytest.raises(OtherModel, match=f"{EMBEDDING} .*{other} "):
        Index.open(tmp_path / "index", model=other)
    monkeypatch.setattr(index, "model", model.Model(other, "0" * 64))
    with pytest.raises(OtherModel, match="cannot be compared"):
        index.search("kitten")
    with pytest.raises(OtherModel):
        index.add(documents())


def test_words_are_found_without_the_model(tmp_path: Path, index: Index) -> None:
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    path.write_text(path.read_text().replace(EMBEDDING, "gone-model"))
    again = Index.open(tmp_path / "index")
    assert again.search("Monday", mode="text")["year"].tolist() == [2021, 2024]
    with pytest.raises(ModelNotFound):
        again.search("Monday")
    assert Index.open(tmp_path / "index", model=EMBEDDING).search("kitten", k=1)["id"].tolist() == [
        "z"
    ]


def test_queries_and_documents_have_their_prefixes(other: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["cat", "dog"]})
    found = frame.lm.index("text", model=other, path=tmp_path / "index")
    assert found.info()["model"]["prefixes"] == {"query": "query: ", "document": "passage: "}
    rows = frame["text"].lm.embed(other, kind="document").lm.matrix()
    query = pd.Series(["cat"]).lm.embed(other, kind="query").lm.matrix()
    expected = nearest(rows, query[0].astype(float))
    result = found.search("cat", mode="dense").sort_values("id")
    np.testing.assert_allclose(result["score"], expected, atol=2e-3)
    own = frame.lm.index("text", model=other, prefixes=("q ", "d "), path=tmp_path / "index")
    assert own.search("cat", k=1)["score"].tolist() != found.search("cat", k=1)["score"].tolist()
    assert Index.open(tmp_path / "index").info()["model"] == own.info()["model"]


# --- joining ---------------------------------------------------------------------

ANIMALS = pd.DataFrame(
    {"name": ["kitten", None, "stock exchange", "puppy"], "n": [1, 2, 3, 4]},
    index=["k", "x", "s", "k"],
)


def test_a_join_puts_the_nearest_beside() -> None:
    right = pd.DataFrame({"name": ["cat", "dog", "share prices"], "id": [7, 8, 9]})
    found = ANIMALS.lm.join(right, on="name")
    assert list(found.columns) == ["name", "n", "name_right", "id", "score"]
    assert found.index.tolist() == ["k", "s", "k"]
    assert found["id"].tolist() == [7, 9, 8]
    assert found["n"].tolist() == [1, 3, 4]
    cosines = (
        ANIMALS["name"][:1].lm.embed().lm.similarity(right["name"][:1].lm.embed().set_axis(["k"]))
    )
    np.testing.assert_allclose(found["score"].iloc[0], cosines.iloc[0], atol=2e-3)
    both = ANIMALS.lm.join(right.rename(columns={"name": "of"}), "name", "of", k=2)
    assert both["n"].tolist() == [1, 1, 3, 3, 4, 4]
    assert both["of"].tolist()[::2] == ["cat", "share prices", "dog"]


def test_a_left_join_keeps_all_rows() -> None:
    right = pd.DataFrame({"of": ["cat"], "n": [7]}).lm.index("of")
    found = ANIMALS.lm.join(right, on="name", threshold=0.65, how="left")
    assert found.index.tolist() == ANIMALS.index.tolist()
    assert found["n"].tolist() == [1, 2, 3, 4]
    assert found["of"].isna().tolist() == [False, True, True, True]
    assert found["score"].isna().tolist() == [False, True, True, True]
    assert found["n_right"].iloc[0] == 7
    inner = ANIMALS.lm.join(right, on="name", threshold=0.65)
    assert inner.index.tolist() == ["k"]
    assert ANIMALS.lm.join(right, on="name", threshold=2).empty
    assert list(ANIMALS[:0].lm.join(right, on="name").columns) == list(found.columns)


def test_vectors_are_joined_as_they_are() -> None:
    left = pd.DataFrame({"v": [np.array([1.0, 0]), np.array([0, 1.0])]})
    right = pd.DataFrame({"v": [np.array([0, 2.0]), np.array([3.0, 0])], "name": ["up", "right"]})
    found = left.lm.join(right, on="v")
    assert found["name"].tolist() == ["right", "up"]
    assert found["score"].tolist() == [1, 1]


def test_wrong_joins_are_told() -> None:
    right = pd.DataFrame({"name": ["cat"], "score": [1]})
    with pytest.raises(InvalidRequest, match=r"'score' already.*into="):
        ANIMALS.lm.join(right, on="name")
    assert "near" in ANIMALS.lm.join(right, on="name", into="near").columns
    with pytest.raises(InvalidRequest, match="how is"):
        ANIMALS.lm.join(right, on="name", how="outer")
    with pytest.raises(InvalidRequest, match="name neither"):
        ANIMALS.lm.join(right[["name"]].lm.index("name"), on="name", right_on="name")
    with pytest.raises(InvalidRequest, match="no column 'title'"):
        ANIMALS.lm.join(right, on="title")


# --- answers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def speaker(client: Client, home: Path) -> str:
    """A model with one answer. The schema's own beginning is not its to say; where there is a choice
    a segment begins.
    """
    path = home / "models" / "tests" / "speaker" / "speaker.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    said = [
        '{"number":', '1,"quote":"', 'Cats  sleep\\nmost of"}',
        ',{"number":', '2,"quote":"', 'sleep most"}', '],"text":"', 'Cats sleep."}', "]}",
    ]  # fmt: skip
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    answers = [Said([Segment(text, special=True) for text in said])]
    scripted(path, answers, template=template, seed=None, context=16384)
    return "tests/speaker"


CONTEXT = pd.DataFrame(
    {
        "id": [5, 6],
        "text": ["Cats  sleep\nmost of the day.", "In a category: the dog (barked) at night."],
        "doc_id": ["a", "b"],
        "chunk_id": ["a:0", "b:3"],
        "start": [0, 100],
        "page": [2, None],
    }
)


def quoted(number: int, quote: str) -> dict[str, Any]:
    return {"number": number, "quote": quote}


def test_quotes_are_looked_up_word_for_word() -> None:
    asked = Asked("?", CONTEXT, "text")
    asked.answered(
        [
            {"sources": [quoted(1, "sleep  most of\tthe"), quoted(1, "(barked)")], "text": "Yes."},
            {
                "sources": [quoted(2, "Dogs sing"), quoted(2, "cat"), quoted(2, " ")],
                "text": " No. ",
            },
            {"sources": [], "text": "So it is."},
        ]
    )
    assert asked.text == "Yes. [1] No. [2] So it is."
    found = citations.table(asked.cited)
    assert found["status"].tolist() == ["supported", "misattributed"] + ["not_found"] * 3
    assert found["found_in"].tolist()[:2] == [1, 2]
    assert found["chunk_id"].tolist() == ["a:0"] * 2 + ["b:3"] * 3
    assert found["doc_id"].tolist()[:3] == ["a", "a", "b"]
    assert found["page"].tolist()[:2] == [2, 2]
    first, second = (slice(*found.loc[row, ["start", "end"]]) for row in (0, 1))
    assert CONTEXT["text"][0][first] == "sleep\nmost of the"
    assert ("." * 100 + CONTEXT["text"][1])[second] == "(barked)"
    assert found["start"].isna().tolist() == [False, False, True, True, True]
    assert citations.table([]).dtypes.equals(found.dtypes)


def test_an_answer_shows_itself() -> None:
    asked = Asked("?", CONTEXT, "text")
    asked.answered([{"sources": [quoted(1, "<b>"), quoted(2, "dog")], "text": "1 < 2"}])
    answer = Answer(asked.text or "", citations.table(asked.cited), CONTEXT, asked.prompt())
    assert str(answer) == "1 < 2 [1][2]"
    assert repr(answer).splitlines()[1:] == ["[1] ✗ '<b>'", "[2] ✓ 'dog'"]
    html = answer._repr_html_()
    assert "1 &lt; 2" in html
    assert "&lt;b&gt;" in html
    assert "b:3 of b, stands there" in html


def test_an_answer_cites_no_source_that_is_not_there(index: Index, speaker: str) -> None:
    answer = index.ask("Do cats sleep?", k=2, model=speaker)
    assert isinstance(answer, Answer)
    assert answer.text == "Cats sleep. [1][2]"
    assert answer.context["marker"].tolist() == [1, 2]
    assert answer.citations["marker"].tolist() == [1, 2]
    assert answer.citations["status"].tolist() == ["supported", "misattributed"]
    assert answer.citations["chunk_id"].tolist() == answer.context["id"].tolist()
    assert f"[2] {answer.context['text'][1]}" in answer.prompt
    free = index.ask("Do cats sleep?", k=1, model=speaker, cite=False)
    assert free.citations.empty
    assert free.text.startswith('{"number":1')


def test_the_schema_has_the_sources_of_the_context_only() -> None:
    numbers = schema(3)["properties"]["statements"]["items"]["properties"]["sources"]["items"]
    assert numbers["properties"]["number"]["enum"] == [1, 2, 3]


def test_questions_in_a_column(index: Index, speaker: str) -> None:
    questions = pd.Series(["Do cats sleep?", None, "Cats in a day"], index=["x", "y", "x"])
    options: dict[str, Any] = {"k": 2, "model": speaker, "where": "year != 2024"}
    found = index.ask(questions, **options)
    assert found.index.equals(questions.index)
    assert found["answer"].tolist()[::2] == ["Cats sleep. [1][2]"] * 2
    assert found["answer_error"].tolist()[1] == "null input"
    assert found["answer"].isna().tolist() == [False, True, False]
    assert [len(labels) for labels in found["context"]] == [2, 0, 2]
    assert found["cited"].tolist()[::2] == [2, 2]
    again = index.ask(questions, **options)
    assert again.attrs["lmnb"]["cached"] == 2
    pd.testing.assert_frame_equal(again, found)
    nothing = index.ask(["Who barked?"], model=speaker, where="year > 3000")
    assert nothing["answer_error"].tolist() == ["no sources"]
    with pytest.raises(RowFailed, match="no sources"):
        index.ask("Who barked?", model=speaker, where="year > 3000")


def test_sources_fit_a_budget(index: Index, client: Client, speaker: str) -> None:
    options: dict[str, Any] = {"model": speaker, "cite": False, "max_tokens": 2, "retries": 0}

    def sources(budget: int) -> int:
        found = index.ask(["Monday?"], k=4, budget_tokens=budget, **options)
        return len(found["context"].iloc[0])

    assert sources(1000) == 4
    fewer = sources(80)
    assert 0 < fewer < 4
    prompt = Asked("Monday?", index.search("Monday?", k=4), "text").prompt

    def tokens(count: int) -> int:
        body = {"model": speaker, "messages": [{"role": "user", "content": prompt(count)}]}
        return int(client.render("/v1/chat/completions", body)["tokens"])

    assert tokens(fewer) - tokens(0) <= 80 < tokens(fewer + 1) - tokens(0)
    with pytest.raises(RowFailed, match="no source has 2 tokens or less"):
        index.ask("Monday?", budget_tokens=2, model=speaker)
    with pytest.raises(InvalidRequest, match="budget_tokens is"):
        index.ask("Monday?", budget_tokens=0, model=speaker)


# --- mistakes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"k": 0}, "k is a number"),
        ({"mode": "sparse"}, "mode is"),
        ({"rrf_k": 0}, "rrf_k is more"),
        ({"where": "nothing > 1"}, "cannot be computed"),
        ({"where": "year"}, "other than truth"),
        ({"where": [True]}, "each of the 6 rows"),
        ({"where": pd.Series([True] * 6)}, "another index"),
        ({"q": 7}, "A query is a text"),
        ({"q": ["a", 7]}, "holds no vector"),
        ({"q": np.ones(3), "mode": "dense"}, "3 dimensions, and the index has 384"),
        ({"q": np.ones(3), "mode": "text"}, "queries that are texts"),
        ({"q": np.ones(384), "rerank": "x"}, "reads texts"),
    ],
    ids=str,
)
def test_wrong_searches_are_told(index: Index, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        index.search(**{"q": "kitten", **given})


def test_wrong_indexes_are_told(index: Index) -> None:
    frame = documents()
    with pytest.raises(InvalidRequest, match="There is no column 'body'"):
        frame.lm.index("body")
    with pytest.raises(InvalidRequest, match="which column"):
        frame.lm.index()
    with pytest.raises(InvalidRequest, match=r"column 'score'.*set_index"):
        frame.rename(columns={"year": "score"}).lm.index("text")
    with pytest.raises(InvalidRequest, match="2 vectors for 6 rows"):
        frame.lm.index("text", vectors=np.ones((2, 2)))
    with pytest.raises(InvalidRequest, match="row 1 is not finite"):
        frame[:2].lm.index("text", vectors=np.array([[1.0], [np.inf]]))
    with pytest.raises(InvalidRequest, match="vectors without a model"):
        frame.lm.index("text", vectors=np.eye(6)).search("a", mode="dense")
    with pytest.raises(InvalidRequest, match="knows no words"):
        frame.lm.index("text", vectors=np.eye(6), hybrid=False).search("a", mode="hybrid")
    with pytest.raises(InvalidRequest, match="store is"):
        frame.lm.index("text", store="disk")
    with pytest.raises(InvalidRequest, match="There is no row 'q'"):
        index.delete("q")
    with pytest.raises(InvalidRequest, match="Say which rows"):
        index.delete()
