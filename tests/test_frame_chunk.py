"""`df.lm.chunk`: parts of texts, whose places are exact, with the real embedding model's tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_home import EMBEDDING, ServerHome

from lmnb.client import Client
from lmnb.engine.chunking import chunked, counted
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.protocol import Chunk, Count
from lmnb.errors import InvalidRequest, LmnbError, ModelNotFound
from lmnb.frame.chunking import spans

SENTENCE = "The cat sat on the mat. "
HARD = [
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. " * 20,
    "👩‍👩‍👧‍👦 family 🇩🇪 flag 👍🏽 " * 60,
    "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。" * 40,
    "one\r\n\r\ntwo\r\nthree\r\n" * 50,
    "x" * 3000,
    SENTENCE * 50,
    " \n\t ",
    "é\u0301\u200b\ufeff\u2028words\x85here\u3000there",
    "[CLS] a [MASK] b [SEP]" * 30,
    "half \ud83d pairs " * 20,
]


@pytest.fixture(scope="module")
def client(server: ServerHome) -> Client:
    return server.attach()


@pytest.fixture(scope="module")
def words(embedding_model_path: Any) -> Model:
    return Model.only_vocabulary(str(embedding_model_path), read_header(embedding_model_path))


def check(frame: pd.DataFrame, found: pd.DataFrame) -> None:
    for row in found.itertuples():
        assert frame.loc[row.doc_id, "text"][row.start : row.end] == row.text
        assert row.text.strip()
    assert found["chunk_id"].is_unique


@pytest.mark.parametrize("overlap", [0, 8])
def test_places_are_exact_and_no_word_is_lost(client: Client, overlap: int) -> None:
    frame = pd.DataFrame({"text": HARD}, dtype=object)  # Arrow takes no half pairs
    found = frame.lm.chunk(size=24, overlap=overlap)
    check(frame, found)
    assert found["n_tokens"].between(1, 24).all()
    for label, text in enumerate(HARD):
        inside = np.zeros(len(text), bool)
        for row in found[found["doc_id"] == label].itertuples():
            inside[row.start : row.end] = True
        assert not "".join(np.array(list(text))[~inside]).strip()
    shared = sum(
        a.end > b.start
        for a, b in zip(found.itertuples(), found[1:].itertuples(), strict=False)
        if a.doc_id == b.doc_id
    )
    assert bool(shared) == bool(overlap)


def test_the_table(client: Client) -> None:
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 0), ("c", 2), ("d", 2)])
    frame = pd.DataFrame(
        {
            "body": [SENTENCE * 4, SENTENCE * 3, None, "", "short"],
            "page": pd.array([1, 2, 3, 4, None], dtype="Int64"),
        },
        index=index,
    )
    before = frame.copy(deep=True)
    found = frame.lm.chunk("body", size=7, keep=["page"])
    pd.testing.assert_frame_equal(frame, before)
    assert list(found.columns) == [
        *("doc_id", "chunk_id", "seq", "start", "end", "text", "n_tokens", "page")
    ]
    assert found["doc_id"].tolist() == [("a", 1)] * 7 + [("d", 2)]
    assert found["chunk_id"].is_unique
    assert found["seq"].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    assert found["text"].tolist() == [SENTENCE.strip()] * 7 + ["short"]
    assert found["n_tokens"].tolist() == [7] * 7 + [1]
    assert found["page"].dtype == "Int64"
    assert found["page"].tolist()[:7] == [1] * 4 + [2] * 3
    assert found["page"].isna().tolist() == [False] * 7 + [True]
    assert found.attrs["lmnb"]["model"] == EMBEDDING
    assert found.attrs["lmnb"]["null"] == 2


def test_nothing_to_cut(client: Client) -> None:
    for frame in (pd.DataFrame({"text": [None, ""]}), pd.DataFrame({"text": []}, dtype=object)):
        found = frame.lm.chunk(keep=["text"][:0])
        assert found.empty
        assert found["start"].dtype == np.int64
        assert list(found.columns)[:2] == ["doc_id", "chunk_id"]


def test_tokens_are_those_that_embedding_reads_and_nothing_is_loaded(client: Client) -> None:
    frame = pd.DataFrame({"text": ["Unaffable Boxkämpfer 天地 said: 'x' 👍🏽!"]})
    client.unload(all=True)
    [count] = frame.lm.chunk()["n_tokens"]
    assert client.ps() == []
    read = client.openai().embeddings.create(model=EMBEDDING, input=frame["text"][0]).usage
    assert read.prompt_tokens == count + 2  # [CLS] and [SEP]


def test_characters(client: Client) -> None:
    frame = pd.DataFrame({"text": HARD}, dtype=object)  # Arrow takes no half pairs
    found = frame.lm.chunk(size=50, unit="characters", model=EMBEDDING)
    check(frame, found)
    assert found["text"].str.len().max() <= 50
    assert (found["n_tokens"] > 0).all()


def test_a_splitter_of_ones_own(client: Client) -> None:
    frame = pd.DataFrame({"text": [SENTENCE * 3, "a-b-a"]}, index=["x", "y"])
    found = frame.lm.chunk(splitter=lambda text: text.replace("-", ".").split("."))
    check(frame, found)
    assert found["seq"].tolist() == [0, 1, 2, 0, 1, 2]
    assert found["start"].tolist() == [0, 23, 47, 0, 2, 4]  # the second begins with a space
    pairs = frame.lm.chunk(splitter=lambda text: [(0, 3), (2, 5)])
    check(frame, pairs)
    assert pairs["end"].tolist() == [3, 5, 3, 5]
    assert pairs["n_tokens"].tolist()[:2] == [1, 2]


def test_where_pieces_of_a_splitter_lie() -> None:
    assert spans("ab ab ab", ["ab", "ab", "ab"]) == [(0, 2), (3, 5), (6, 8)]
    assert spans("abcdef", ["abcd", "cdef"]) == [(0, 4), (2, 6)]
    assert spans("aaaa", ["aaa", "aaa"]) == [(0, 3), (1, 4)]
    assert spans("", [""]) == []
    for wrong, why in (
        (["ab", "zz"], "not in the text: 'zz'"),
        ([3], "not 3"),
        ([(2, 1)], "a text of 8"),
        ([(0, 9)], "a text of 8"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            spans("ab ab ab", wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"size": 0}, "size is a whole number, at least 1, not 0"),
        ({"size": 2.5}, "size is a whole number"),
        ({"overlap": -1}, "overlap is a whole number"),
        ({"size": 10, "overlap": 10}, "less than size"),
        ({"unit": "words"}, "'tokens' or 'characters'"),
        ({"splitter": "chonkie"}, "'semchunk' or a function"),
        ({"splitter": str.split, "size": 3}, "of one's own"),
        ({"keep": ["nope"]}, "no column 'nope'"),
        ({"keep": ["start"]}, "a column of chunks"),
        ({"on": "body"}, "no column 'body'"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"on": "start"}, "holds int, not text"),
    ],
)
def test_what_is_refused(client: Client, options: dict[str, Any], why: str) -> None:
    frame = pd.DataFrame({"text": ["a"], "start": [1]})
    with pytest.raises((InvalidRequest, ModelNotFound), match=why):
        frame.lm.chunk(**options)


def test_the_route_checks_its_body(client: Client) -> None:
    with pytest.raises(LmnbError, match="less than size"):
        list(client.chunks(EMBEDDING, ["a"], 3, overlap=3))
    with pytest.raises(LmnbError, match="cannot be understood"):
        list(client.chunks(EMBEDDING, ["a"], 0))
    events = list(client.counts(EMBEDDING, ["a", "b " * 200_000, "c"]))
    assert [event["first"] for event in events[:-1]] == [0, 1, 2]
    assert [event["tokens"] for event in events[:-1]] == [[1], [200_000], [1]]


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("  \n\r\t.,;x👍天"), max_size=300
)


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(TEXTS, max_size=3).map(tuple),
    size=st.integers(1, 40),
    share=st.floats(0, 0.9),
    unit=st.sampled_from(["tokens", "characters"]),
)
def test_any_text(words: Model, texts: tuple[str, ...], size: int, share: float, unit: Any) -> None:
    command = Chunk(id=1, texts=texts, size=size, overlap=int(size * share), unit=unit)
    for text, some in zip(texts, chunked(words, command).spans, strict=True):
        covered = np.zeros(len(text), bool)
        for one in some:
            part = text[one.start : one.end]
            assert part
            assert part == part.strip() or not part.strip()
            assert one.tokens == words.count(part)
            assert len(part) == 1 or (one.tokens if unit == "tokens" else len(part)) <= size
            covered[one.start : one.end] = True
        assert not "".join(np.array(list(text))[~covered]).strip()
    assert counted(words, Count(id=1, texts=texts)).tokens == tuple(map(words.count, texts))
