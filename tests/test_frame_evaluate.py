"""`lmnb.evaluate`, `grid`, `compare_runs` and `judge`: metrics by hand, statistics by seed, real searches."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_models
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from server_home import CHAT, EMBEDDING, ServerHome

import lmnb
from lmnb.client import Client
from lmnb.errors import InvalidRequest, ModelNotFound
from lmnb.frame.experiments.evaluating import Evaluation
from lmnb.frame.experiments.intervals import common, length, merged
from lmnb.frame.experiments.statistics import holm, interval, randomisation_test

SHARED = Path(os.environ.get("LMNB_SHARED", Path(__file__).parents[2] / "shared"))


def run_of(**found: list[Any]) -> pd.DataFrame:
    """Results as a search returns them: documents by query, best first."""
    rows = [
        (query, rank, name) for query, names in found.items() for rank, name in enumerate(names, 1)
    ]
    return pd.DataFrame(rows, columns=["query_id", "rank", "id"])


def value(table: pd.DataFrame, metric: str) -> float:
    [found] = table.loc[table["metric"] == metric, "value"]
    return float(found)


# --- ranked documents ----------------------------------------------------------------


def test_metrics_by_hand() -> None:
    run = run_of(q1=["c", "a", "b"], q2=["x"])
    relevant = {"q1": {"a": 2, "b": 1, "c": 0}, "q2": "x", "q3": ["y", "z"]}
    metrics = ["nDCG@10", "R@1", "RR@10", "P@2", "AP", "MAP"]
    found = lmnb.evaluate(run, None, relevant, metrics)
    assert list(found.columns) == ["metric", "value", "ci_low", "ci_high", "n_queries"]
    assert found["metric"].tolist() == metrics
    assert found["n_queries"].eq(3).all()
    gain = (2 / math.log2(3) + 1 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert value(found, "nDCG@10") == pytest.approx((gain + 1 + 0) / 3)
    assert value(found, "R@1") == pytest.approx((0 + 1 + 0) / 3)
    assert value(found, "RR@10") == pytest.approx((0.5 + 1 + 0) / 3)
    assert value(found, "P@2") == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert value(found, "AP") == value(found, "MAP") == pytest.approx((7 / 12 + 1 + 0) / 3)
    assert (found["ci_low"] <= found["value"]).all()
    assert (found["ci_high"] >= found["value"]).all()


def test_the_order_shown_decides_and_not_scores_or_names() -> None:
    run = run_of(q=["a", "z", "m"]).assign(score=1.0).sample(frac=1, random_state=1)
    for name, rank in (("a", 1), ("z", 2), ("m", 3)):
        assert value(lmnb.evaluate(run, None, {"q": name}), "RR@10") == pytest.approx(1 / rank)


def test_values_of_each_query() -> None:
    queries = pd.Series({2: "two", 1: "one"})
    relevant = pd.DataFrame({"query_id": [1, 2, 2], "doc_id": [10, 20, 30]})
    run = pd.DataFrame({"query_id": [1, 1, 2], "rank": [1, 2, 1], "id": [11, 10, 20]})
    found = lmnb.evaluate(run, queries, relevant, ["RR@10", "R@5"], per_query=True)
    assert found["query_id"].tolist() == [2, 2, 1, 1]
    assert found["metric"].tolist() == ["RR@10", "R@5"] * 2
    assert found["value"].tolist() == [1, 0.5, 0.5, 1]


def test_a_document_counts_at_the_place_of_its_best_chunk() -> None:
    run = run_of(q=["c1", "c2", "c3", "c4"]).assign(doc_id=["x", "x", "y", "x"])
    relevant = pd.Series(["y"], index=["q"])
    assert value(lmnb.evaluate(run, None, relevant), "RR@10") == 0.5
    assert value(lmnb.evaluate(run, None, relevant, "R@2"), "R@2") == 1
    assert value(lmnb.evaluate(run, None, {"q": "c4"}, by="id"), "RR@10") == 0.25


def test_queries_that_find_nothing_count_and_those_without_an_answer_do_not() -> None:
    run = run_of(q1=["a"])
    queries = {"q1": "?", "q2": "??", "q3": "???"}
    with pytest.warns(UserWarning, match="relevant to 1 of 3 queries"):
        found = lmnb.evaluate(run, queries, {"q1": "a", "q2": "b", "q3": {"c": 0}})
    assert found["value"].tolist() == [0.5, 0.5, 0.5]
    assert found["n_queries"].tolist() == [2, 2, 2]
    with pytest.warns(UserWarning, match="relevant to 2 of 3"):
        single = lmnb.evaluate(run_of(), queries, {"q1": "a", "other": "b"})
    assert single["value"].tolist() == [0, 0, 0]
    assert single["ci_low"].isna().all()


# --- spans ---------------------------------------------------------------------------


def test_sets_of_characters() -> None:
    some = merged([(5, 9), (0, 3), (3, 4), (6, 7)])
    assert some == [(0, 4), (5, 9)]
    assert length(some) == 8
    assert common(some, [(2, 6), (8, 20)]) == 2 + 1 + 1
    assert common(some, []) == 0


@pytest.fixture
def chunks() -> pd.DataFrame:
    """What a query has found: parts of the document `d`, and of another."""
    rows = [
        ("q", 1, "c1", "d", 0, 100, 30),
        ("q", 2, "c2", "e", 0, 50, 10),
        ("q", 3, "c3", "d", 80, 180, 40),
        ("q", 4, "c4", "d", 180, 200, 5),
    ]
    names = ["query_id", "rank", "id", "doc_id", "start", "end", "n_tokens"]
    return pd.DataFrame(rows, columns=names)


def spans(*places: tuple[str, str, int, int]) -> pd.DataFrame:
    return pd.DataFrame(places, columns=["query_id", "doc_id", "start", "end"])


def test_spans_by_hand(chunks: pd.DataFrame) -> None:
    gold = spans(("q", "d", 90, 130), ("q", "d", 120, 140), ("q", "f", 0, 50), ("r", "d", 0, 9))
    metrics = [
        "span_recall@1", "span_recall@3", "span_precision@1", "span_precision@3",
        "span_recall@40tokens", "span_recall@79tokens", "span_recall@80tokens", "span_recall@29tokens",
        "RR@10",
    ]  # fmt: skip
    found = lmnb.evaluate(chunks, {"q": "?", "r": "!"}, gold, metrics, per_query=True)
    found = found.set_index(["query_id", "metric"])["value"]
    assert found["r"].eq(0).all()
    assert found["q"].to_dict() == pytest.approx(
        {
            "span_recall@1": 10 / 100,
            "span_recall@3": 50 / 100,
            "span_precision@1": 10 / 100,
            "span_precision@3": 50 / 250,  # the part that two chunks have is read twice
            "span_recall@40tokens": 10 / 100,
            "span_recall@79tokens": 10
            / 100,  # the small chunk behind the large one is out of reach
            "span_recall@80tokens": 50 / 100,
            "span_recall@29tokens": 0,
            "RR@10": 1,
        }
    )
    usual = lmnb.evaluate(chunks, None, gold)["metric"].tolist()
    assert usual == ["span_recall@10", "span_precision@10", "span_recall@1000tokens"]


# --- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        ([], {}, "not list"),
        (run_of(q=["a"]), {"metrics": "nDGC@10"}, "no metric 'nDGC@10'"),
        (run_of(q=["a"]), {"metrics": "R"}, "no metric 'R'"),
        (run_of(q=["a"]), {"metrics": "R@0"}, "no metric 'R@0'"),
        (run_of(q=["a"]), {"metrics": "RBP(p=0.8)"}, "no metric 'RBP"),
        (run_of(q=["a"]), {"metrics": "span_recall@0"}, "no metric 'span_recall@0'"),
        (run_of(q=["a"]), {"metrics": [10]}, "no metric 10"),
        (run_of(q=["a"]), {"metrics": []}, "no metric to compute"),
        (run_of(q=["a"]), {"metrics": "span_recall@5"}, "needs spans"),
        (run_of(q=["a"]), {"relevant": spans(("q", "d", 0, 5))}, "need a column 'doc_id'"),
        (run_of(q=["a"]), {"relevant": spans(("q", "d", 5, 5))}, "goes from 5 to 5"),
        (run_of(q=["a"]), {"relevant": spans().drop(columns="end")}, "no column 'end'"),
        (run_of(q=["a"]), {"relevant": {}}, "Nothing is said to be relevant"),
        (run_of(q=["a"]), {"relevant": {"q": {"a": 0}}}, "Nothing is said to be relevant"),
        (run_of(q=["a"]), {"relevant": {"q": []}}, "Nothing is said to be relevant"),
        (run_of(q=["a"]), {"relevant": {"q": {"a": 0.5}}}, "a whole number, not 0.5"),
        (run_of(q=["a"]), {"relevant": "a"}, "not str"),
        (run_of(q=["a"]), {"relevant": pd.DataFrame({"query_id": ["q"]})}, "no column 'doc_id'"),
        (run_of(q=["a"]), {"queries": {"p": "?"}}, "called 'p', …, there 'q'"),
        (run_of(q=["a"]), {"queries": []}, "no queries"),
        (run_of(q=["a"]), {"queries": pd.Series(["a", "b"], index=["q", "q"])}, "Several queries"),
        (run_of(q=["a"]), {"queries": np.zeros((1, 3))}, "are texts"),
        (run_of(q=["a"]), {"by": "doc"}, "no column 'doc'"),
        (run_of(q=["a"]), {"mode": "text"}, "'mode' is for an index"),
        (run_of(q=["a"]).drop(columns="rank"), {}, "no column 'rank'"),
    ],
)
def test_what_is_refused(run: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        lmnb.evaluate(run, **{"queries": None, "relevant": {"q": "a"}, **options})


# --- statistics ----------------------------------------------------------------------


def test_intervals_of_means_have_a_seed() -> None:
    values = np.random.default_rng(5).normal(size=400)
    low, high = interval(values)
    assert (low, high) == interval(values)
    assert (low, high) != interval(values, seed=1)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert interval([1.0, 1.0]) == (1, 1)
    assert all(map(math.isnan, interval([1.0])))


def test_the_paired_test() -> None:
    assert randomisation_test([0.1] * 5) == pytest.approx(2 / 32)  # all signs are tried
    assert randomisation_test([1, 2, 3]) == pytest.approx(2 / 8)
    assert randomisation_test([3, -2]) == pytest.approx(1)
    assert randomisation_test([0, 0]) == randomisation_test([]) == 1
    assert randomisation_test([1, 0, 0, 0]) == 1  # ties say nothing
    same = np.random.default_rng(1).normal(size=60)
    chance = randomisation_test(same)
    assert chance == randomisation_test(same)
    assert chance != randomisation_test(same, seed=1)
    assert chance == pytest.approx(
        math.erfc(abs(same.sum()) / np.sqrt(2 * (same**2).sum())), abs=0.03
    )
    assert randomisation_test(same + 1) == 1 / 10_001
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])


def test_runs_are_compared() -> None:
    queries = list("abcdef")
    relevant = dict.fromkeys(queries, "right")

    def evaluated(**ranks: int) -> pd.DataFrame:
        found = {q: ["wrong"] * (ranks.get(q, 1) - 1) + ["right"] for q in queries}
        run = run_of(**found)
        run["id"] = run["id"].where(run["id"] == "right", "wrong" + run.index.astype(str))
        return lmnb.evaluate(run, None, relevant, ["RR@10", "R@1"], per_query=True)

    runs = {
        "good": evaluated(),
        "bad": evaluated(a=2, b=2, c=2, d=2, e=2, f=2),
        "mixed": evaluated(a=2),
    }
    found = lmnb.compare_runs(runs, "RR@10", baseline="good")
    assert found[["a", "b"]].to_numpy().tolist() == [["good", "bad"], ["good", "mixed"]]
    assert found["mean_b"].tolist() == pytest.approx([0.5, 5.5 / 6])
    assert found["difference"].tolist() == pytest.approx([-0.5, -0.5 / 6])
    assert found["p"].tolist() == pytest.approx([2 / 64, 1])
    assert found["p_holm"].tolist() == pytest.approx([4 / 64, 1])
    assert found["ci_high"][0] == -0.5
    assert found["n_queries"].tolist() == [6, 6]
    assert len(lmnb.compare_runs(runs)) == 2 * 3

    settings = [runs[name].copy() for name in runs]
    for size, table in enumerate(settings):
        table.insert(0, "mode", "text")
        table.insert(0, "chunk", size)
    of_grid = lmnb.compare_runs(pd.concat(settings), "R@1")
    assert of_grid["a"].tolist() == ["chunk=0", "chunk=0", "chunk=1"]

    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ({"good": runs["good"]}, {}, "two runs"),
        (settings[0], {}, "two runs"),
        (runs, {"baseline": "best"}, "no run 'best'"),
        (runs, {"metric": "P@1"}, "'P@1'"),
        ({"a": runs["good"], "b": pd.DataFrame()}, {}, "per_query"),
        ({"a": runs["good"], "b": runs["bad"][2:]}, {}, "the same queries"),
        ({"a": runs["good"], "b": pd.concat([runs["bad"]] * 2)}, {}, "several values"),
    ]
    for given, options, message in wrong:
        with pytest.raises(InvalidRequest, match=message):
            lmnb.compare_runs(given, **options)


# --- real searches -------------------------------------------------------------------

CORPUS = Path(__file__).parents[1] / "notebooks" / "rag"


@pytest.fixture(scope="module")
def asked(server: ServerHome) -> Client:
    return server.attach()


@pytest.fixture(scope="module")
def docs() -> pd.Series[Any]:
    """Three documents of the notebook about retrieval, by their names."""
    names = ["ferry", "water", "power"]
    return pd.Series([(CORPUS / f"{name}.md").read_text("utf-8") for name in names], index=names)


@pytest.fixture(scope="module")
def gold(docs: pd.Series[Any]) -> pd.DataFrame:
    """The questions about them, a row for each place that answers."""
    found = pd.read_csv(CORPUS / "questions.csv")
    found = found[found["doc_id"].isin(docs.index)]
    start = [docs[name].index(text) for name, text in zip(found.doc_id, found.quote, strict=True)]
    return found.assign(start=start, end=start + found["quote"].str.len())


@pytest.fixture(scope="module")
def queries(gold: pd.DataFrame) -> pd.Series[Any]:
    return gold.drop_duplicates("query_id").set_index("query_id")["question"]


@pytest.fixture
def no_cache(asked: Client, home: Path) -> Iterator[None]:
    """A cache that is empty again afterwards."""
    yield
    for path in (home / "cache").glob("tables.db*"):
        path.unlink()


@pytest.mark.usefixtures("no_cache")
def test_a_grid_tries_all_and_keeps_what_it_embeds(
    asked: Client, docs: pd.Series[Any], queries: Any, gold: Any
) -> None:
    options: dict[str, Any] = {
        "chunk": [32, 64], "overlap": [0, 32], "mode": ["text", "dense"], "k": 3, "budget_tokens": 100,
        "progress": False,
    }  # fmt: skip
    found = lmnb.grid(docs, queries, gold, **options)
    assert list(found.columns) == [
        "chunk", "overlap", "model", "mode", "rerank", "metric", "value", "ci_low", "ci_high",
        "n_queries", "n_chunks", "index_s", "query_ms",
    ]  # fmt: skip
    assert found.drop_duplicates(["chunk", "overlap"])[["chunk", "overlap"]].to_numpy().tolist() == [
        [32, 0], [64, 0], [64, 32],
    ]  # fmt: skip
    assert len(found) == 3 * 2 * 3
    assert found["metric"].unique().tolist() == [
        "span_recall@3", "span_precision@3", "span_recall@100tokens",
    ]  # fmt: skip
    assert found["model"].unique().tolist() == [EMBEDDING]
    assert found["n_queries"].eq(len(queries)).all()
    assert found[["index_s", "query_ms"]].gt(0).all(axis=None)
    assert found["value"].between(found["ci_low"], found["ci_high"]).all()

    chunks = pd.DataFrame({"text": docs}).lm.chunk(size=64, overlap=32)
    one = found[(found["overlap"] == 32) & (found["mode"] == "dense")]
    assert one["n_chunks"].unique().tolist() == [len(chunks)]
    index = chunks.lm.index("text")
    same = lmnb.evaluate(index, queries, gold, one["metric"].tolist(), mode="dense")
    assert one["value"].tolist() == same["value"].tolist()

    asked.unload(all=True)
    again = lmnb.grid(docs, queries, gold, **options)
    assert asked.ps() == []
    times = ["index_s", "query_ms"]
    pd.testing.assert_frame_equal(found.drop(columns=times), again.drop(columns=times))

    singly = lmnb.grid(docs, queries, gold, **options, per_query=True)
    assert len(singly) == 3 * 2 * 3 * len(queries)
    tests = lmnb.compare_runs(singly, "span_recall@3", baseline="chunk=64, overlap=0, mode=dense")
    assert len(tests) == 5
    assert tests["b"][0] == "chunk=32, overlap=0, mode=text"


@pytest.mark.usefixtures("no_cache")
def test_rerankers_are_tried(asked: Client, docs: pd.Series[Any], tmp_path: Path) -> None:
    path = made_models.reranker(tmp_path / "reranker.gguf")
    for _ in asked.load(str(path), identifier="second-look"):
        pass
    found = lmnb.grid(
        docs, {"q": "wind", "p": "water"}, {"q": "ferry", "p": "power"},
        chunk=64, overlap=0, mode="text", rerank=[None, "second-look"], metrics=["RR@3", "AP"],
    )  # fmt: skip
    assert found["rerank"].fillna("none").tolist() == ["none"] * 2 + ["second-look"] * 2
    assert found["value"][:2].tolist() != found["value"][2:].tolist()
    asked.unload("second-look")


@pytest.mark.usefixtures("no_cache", "asked")
def test_a_grid_that_is_stopped_leaves_what_it_has(
    docs: pd.Series[Any], queries: Any, gold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = Evaluation.values
    seen: list[int] = []

    def stop(*given: Any) -> pd.DataFrame:
        if seen:
            raise KeyboardInterrupt
        seen.append(1)
        return values(*given)

    monkeypatch.setattr(Evaluation, "values", stop)
    with pytest.raises(KeyboardInterrupt):
        lmnb.grid(docs, queries, gold, chunk=100, overlap=0, mode=["text", "dense"])
    assert isinstance(lmnb.last_partial, pd.DataFrame)
    assert lmnb.last_partial["mode"].tolist() == ["text"] * 3


@pytest.mark.usefixtures("asked")
def test_an_index_is_searched_as_deep_as_metrics_look(
    docs: pd.Series[Any], queries: Any, gold: Any
) -> None:
    chunks = pd.DataFrame({"text": docs}).lm.chunk(size=32)
    vectors = np.random.default_rng(0).normal(size=(len(chunks), 8))
    index = chunks.lm.index("text", vectors=vectors)
    metrics = ["R@6", "AP", "span_recall@1000000tokens"]
    whole = chunks.lm.index("text").search(queries, len(chunks), "dense")
    # Spaces between chunks are in none of them.
    assert lmnb.evaluate(whole, queries, gold, metrics)["value"].iloc[[0, 2]].tolist() == [
        1, pytest.approx(1, abs=0.01),
    ]  # fmt: skip
    found = lmnb.evaluate(index, queries, gold, metrics, mode="text")
    deep = lmnb.evaluate(index.search(queries, len(chunks), "text"), queries, gold, metrics)
    pd.testing.assert_frame_equal(found, deep)
    only = lmnb.evaluate(index, queries, gold, "R@6", mode="text", where="doc_id == 'ferry'")
    assert 0 < only["value"][0] < found["value"][0]

    ferry = {"q01": "ferry"}
    with pytest.warns(UserWarning, match=r"1 of 2 relevant documents .* such as 'moon'"):
        lmnb.evaluate(index, queries[:1], {"q01": ["ferry", "moon"]}, mode="text")
    for options, message in (
        ({"relevant": {"q01": "moon"}}, "None of the relevant documents .* such as 'moon'"),
        ({"queries": None}, "how the queries read"),
        ({"k": 5}, "k is no option"),
        ({"by": "page"}, "no column 'page'"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            lmnb.evaluate(index, **{"queries": queries[:1], "relevant": ferry, **options})


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"docs": ["a"]}, "not list"),
        ({"docs": pd.DataFrame({"body": ["a"]})}, "no column 'text'"),
        ({"docs": pd.Series(["a", "b"], index=["d", "d"])}, "Several documents are called 'd'"),
        ({"queries": None}, "how the queries read"),
        ({"relevant": {"q": "e"}}, "None of the relevant documents"),
        ({"chunk": []}, "no values"),
        ({"chunk": 0}, "chunk is a whole number, at least 1"),
        ({"chunk": 16, "overlap": [16, 20]}, "Every overlap"),
        ({"mode": "fast"}, "not 'fast'"),
        ({"model": "nobody/has-this"}, "nobody/has-this"),
        ({"rerank": "nobody/has-this"}, "nobody/has-this"),
        ({"k": 0}, "no metric 'nDCG@0'"),
    ],
)
def test_grids_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    given = {"docs": pd.Series(["a"], index=["d"]), "queries": {"q": "?"}, "relevant": {"q": "d"}}
    with pytest.raises((InvalidRequest, ModelNotFound), match=message):
        lmnb.grid(**{**given, **options})


# --- verdicts ------------------------------------------------------------------------


@pytest.mark.usefixtures("no_cache", "asked")
def test_answers_are_judged() -> None:
    frame = pd.DataFrame(
        {"q": ["Is snow white?", "?"], "said": ["Yes {it} is.", None], "right": ["Yes", "-"]},
        index=list("aa"),
    )
    names: dict[str, Any] = {"question": "q", "answer": "said", "reference": "right"}
    prompts = lmnb.judge(frame, "It is right.", **names, dry_run=True)["verdict_prompt"]
    assert prompts.iloc[0] == (
        "Question: Is snow white?\n\nWhat is right: Yes\n\nAnswer to judge: Yes {it} is.\n\n"
        "Criterion: It is right.\n\nIs the criterion met?"
    )
    found = lmnb.judge(frame, **names, verdicts=["good", "bad"], into="mark", model=CHAT)
    assert list(found.columns) == [*frame.columns, "mark", "mark_reason", "mark_error"]
    assert found.index.equals(frame.index)
    assert found["mark"].cat.categories.tolist() == ["good", "bad"]
    assert found["mark"].notna().tolist() == [True, False]
    assert found["mark_error"].iloc[1] == "null input"
    assert found["mark_reason"].iloc[0]
    with pytest.raises(InvalidRequest, match="already"):
        lmnb.judge(found, into="mark", **names)
    with pytest.raises(InvalidRequest, match="no column 'question'"):
        lmnb.judge(frame)


# --- pictures ------------------------------------------------------------------------


@pytest.fixture
def tried() -> pd.DataFrame:
    """A table as `grid` makes it."""
    rows = [
        (size, 0, mode, metric, size / 512, size / 600, np.nan if size == 512 else 1.0)
        for size in (128, 256, 512)
        for mode in ("text", "dense")
        for metric in ("span_recall@5", "span_precision@5", "span_recall@1000tokens")
    ]
    names = ["chunk", "overlap", "mode", "metric", "value", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=names)


@pytest.fixture
def pictures() -> Iterator[None]:
    from matplotlib import pyplot as plt

    before = mpl.get_backend()
    mpl.use("agg")
    yield
    plt.close("all")
    mpl.use(before)


@pytest.mark.usefixtures("pictures")
def test_recalls_are_drawn_over_the_first_setting(tried: pd.DataFrame) -> None:
    ax = lmnb.plot_grid(tried)
    assert ax.get_xlabel() == "chunk"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["128", "256", "512"]
    assert [one.get_label() for one in ax.containers] == [
        "span_recall@5, mode=text", "span_recall@1000tokens, mode=text",
        "span_recall@5, mode=dense", "span_recall@1000tokens, mode=dense",
    ]  # fmt: skip
    assert np.asarray(ax.get_lines()[0].get_ydata()).tolist() == [0.25, 0.5, 1]
    one = lmnb.plot_grid(tried, "span_precision@5", x="mode", ax=ax)
    assert one is ax
    assert ax.get_ylabel() == "span_precision@5"
    assert lmnb.plot_grid(tried[tried["mode"] == "text"], "span_precision@5").get_legend() is None
    wrong: list[tuple[pd.DataFrame, dict[str, Any], str]] = [
        (tried, {"metric": "AP"}, "no metric 'AP'"),
        (tried, {"x": "model"}, "no setting 'model'"),
        (tried[:0], {}, "no rows"),
        (tried.drop(columns="ci_low"), {}, "no column 'ci_low'"),
    ]
    for table, options, message in wrong:
        with pytest.raises(InvalidRequest, match=message):
            lmnb.plot_grid(table, **options)


# --- published shapes ----------------------------------------------------------------


@pytest.mark.full
@pytest.mark.usefixtures("asked")
def test_recall_grows_with_chunks_at_a_fixed_number_and_not_at_a_fixed_budget() -> None:
    """As measured with other retrievers on the same data: at k chunks the largest win, at a budget not."""
    folder = SHARED / "data" / "chunking"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    given = pd.read_csv(folder / "questions.csv")
    rows = [
        (number, row.corpus_id, one["start_index"], one["end_index"])
        for number, row in enumerate(given.itertuples())
        for one in json.loads(row.references)
    ]
    gold = pd.DataFrame(rows, columns=["query_id", "doc_id", "start", "end"])
    docs = pd.Series(
        {name: (folder / f"{name}.md").read_text("utf-8") for name in given["corpus_id"].unique()}
    )
    found = lmnb.grid(
        docs, given["question"], gold, chunk=[64, 128, 256, 500], overlap=0, mode="text", k=5
    )
    values = found.pivot_table(index="chunk", columns="metric", values="value")
    at_k, at_budget = values["span_recall@5"], values["span_recall@1000tokens"]
    assert at_k.is_monotonic_increasing
    assert at_k[500] > at_k[64] + 0.1
    assert at_budget[500] < at_budget.max() - 0.01
    assert at_budget.idxmax() != 500
