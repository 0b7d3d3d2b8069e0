"""Packing, fairness, limits and cancelling of embedding, and scores of reranking."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_models
import numpy as np
import pytest
from made_models.writer import WORD_PIECES
from numpy.typing import NDArray
from tiny_reranker import classify

from lmnb.engine import embed, native
from lmnb.engine.config import LoadConfig
from lmnb.engine.embed import Embedder, Pooler
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.protocol import Embed, Embedded, Failed, Ranked, Reply, Rerank, Step
from lmnb.engine.rerank import Reranker
from lmnb.errors import InvalidModel, InvalidRequest, NotSupported

TWO = LoadConfig(threads=2)


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


def load(path: Path) -> Model:
    return Model.load(str(path), read_header(path), LoadConfig(), on_progress=lambda _: None)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    path = made_models.bert(tmp_path_factory.mktemp("models") / "bert.gguf", pooling=1, context=600)
    made = Embedder(load(path), TWO)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reranker_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_models.reranker(tmp_path_factory.mktemp("models") / "reranker.gguf")


@pytest.fixture(scope="module")
def reranker(reranker_path: Path) -> Iterator[Reranker]:
    made = Reranker(load(reranker_path), TWO)
    yield made
    made.close()


def run(engine: Pooler) -> list[Reply]:
    replies: list[Reply] = []
    for _ in range(5000):
        if not engine.busy:
            return replies
        replies += engine.step()
    raise AssertionError("the engine does not come to rest")


def submit(engine: Embedder, request: int, *lengths: int, **options: Any) -> Embed:
    """A request of texts of so many tokens, [CLS] and [SEP] included."""
    command = Embed(id=request, inputs=tuple(text(n, request) for n in lengths), **options)
    engine.submit(command, engine.prompt(command))
    return command


def text(tokens: int, seed: int = 0) -> str:
    letters = np.random.default_rng(seed * 1000 + tokens).integers(0, 26, tokens - 2)
    return " ".join(chr(97 + letter) for letter in letters)


def vectors(reply: Reply) -> NDArray[np.float32]:
    assert isinstance(reply, Embedded)
    return np.frombuffer(reply.vectors, "<f4").reshape(-1, reply.dimensions)


def answer(replies: list[Reply], request: int) -> NDArray[np.float32]:
    (found,) = (r for r in replies if isinstance(r, Embedded) and r.id == request)
    return vectors(found)


def alone(engine: Embedder, command: Embed) -> NDArray[np.float32]:
    """Each text in a pass of its own."""
    rows = []
    for value in command.inputs:
        single = Embed(id=999, inputs=(value,), truncate=command.truncate)
        engine.submit(single, engine.prompt(single))
        rows.append(answer(run(engine), 999))
    return np.concatenate(rows)


# --- packing ---------------------------------------------------------------------------


def test_packed_texts_have_the_vectors_they_have_alone(embedder: Embedder) -> None:
    commands = [
        submit(embedder, 1, *range(3, 60)),
        submit(embedder, 2, 600, 3, 530, 200),
        submit(embedder, 3, 8),
    ]
    replies = run(embedder)
    for command in commands:
        np.testing.assert_allclose(
            answer(replies, command.id), alone(embedder, command), atol=1e-3, rtol=0
        )


def test_texts_of_several_requests_share_a_pass(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = counted(embedder, monkeypatch)
    for request in range(1, 11):
        submit(embedder, request, 10)
    assert len(run(embedder)) == 10
    assert passes == [10]


def counted(engine: Embedder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each pass has."""
    passes: list[int] = []
    original = engine._run

    def record(lane: Any, rows: list[Any], threads: int) -> None:
        passes.append(len(rows))
        original(lane, rows, threads)

    monkeypatch.setattr(engine, "_run", record)
    return passes


def test_many_texts_are_computed_on_all_lanes(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(embedder._lanes) == 2
    busy = []
    original = embedder._collect

    def record(lane: Any) -> list[Failed]:
        busy.append((embedder._lanes.index(lane), len(embedder._running)))
        return original(lane)

    monkeypatch.setattr(embedder, "_collect", record)
    submit(embedder, 1, *[20] * 200)
    run(embedder)
    assert {lane for lane, _ in busy} == {0, 1}
    assert any(running == 2 for _, running in busy)


def test_a_short_request_overtakes_a_large_one(embedder: Embedder) -> None:
    submit(embedder, 1, *[30] * 300)
    for _ in range(3):
        embedder.step()
    submit(embedder, 2, 9)
    order = [reply.id for reply in run(embedder) if isinstance(reply, Embedded)]
    assert order == [2, 1]


def test_an_urgent_request_overtakes_short_ones(embedder: Embedder) -> None:
    for request in range(1, 41):
        submit(embedder, request, 30, priority=1)
    submit(embedder, 50, *[180] * 12)
    ended = [reply.id for reply in run(embedder) if isinstance(reply, Embedded)]
    assert len(ended) == 41
    assert ended.index(50) < 14  # but for what had been begun, or fills up its passes


def test_a_large_request_is_not_starved_by_short_ones(embedder: Embedder) -> None:
    submit(embedder, 1, *[180] * 12)
    done: list[Reply] = []
    for request in itertools.count(2):
        submit(embedder, request, 180)
        submit(embedder, 10_000 + request, 180)
        done += embedder.step()
        if any(reply.id == 1 for reply in done if isinstance(reply, Embedded)):
            break
        assert request < 200
    run(embedder)


def test_large_requests_report_progress(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "_PROGRESS_INTERVAL", 0.0)
    submit(embedder, 1, *[100] * 20)
    told = [p for reply in run(embedder) if isinstance(reply, Step) for p in reply.progress]
    assert len(told) > 3
    assert all(p.id == 1 and p.total == 20 and 0 < p.done < 20 for p in told)
    assert [p.done for p in told] == sorted(p.done for p in told)


# --- limits ----------------------------------------------------------------------------


def test_what_is_too_long_is_refused_or_cut(embedder: Embedder) -> None:
    long = text(700)
    with pytest.raises(InvalidRequest, match="700 tokens; this model takes at most 600"):
        embedder.prompt(Embed(id=1, inputs=(long,)))
    whole = embedder.model.tokenize_for_embedding(long)
    (end,) = embedder.prompt(Embed(id=1, inputs=(long,), truncate="end"))
    (yes,) = embedder.prompt(Embed(id=1, inputs=(long,), truncate=True))
    (start,) = embedder.prompt(Embed(id=1, inputs=(long,), truncate="start"))
    marks = (WORD_PIECES.index("[CLS]"), WORD_PIECES.index("[SEP]"))
    for tokens in (end, start):
        assert len(tokens) == 600
        assert (tokens[0], tokens[-1]) == marks
    assert (end == yes).all()
    assert (end[:-1] == whole[:599]).all()
    assert (start[1:] == whole[-599:]).all()


def test_empty_and_impossible_inputs_are_refused(embedder: Embedder) -> None:
    with pytest.raises(InvalidRequest, match="Input 0 is empty"):
        embedder.prompt(Embed(id=1, inputs=((),)))
    with pytest.raises(InvalidRequest, match="outside this model's vocabulary"):
        embedder.prompt(Embed(id=1, inputs=((10**6,),)))


def test_no_texts_at_all(embedder: Embedder) -> None:
    submit(embedder, 1)
    assert answer(run(embedder), 1).shape == (0, 64)


# --- cancelling ------------------------------------------------------------------------


def test_a_cancelled_request_leaves_the_others_alone(embedder: Embedder) -> None:
    submit(embedder, 1, *[100] * 50)
    kept = submit(embedder, 2, *[90] * 5)
    embedder.step()
    embedder.abort(1)
    embedder.interrupt(1)
    replies = run(embedder)
    assert [reply.id for reply in replies if isinstance(reply, Embedded)] == [2]
    np.testing.assert_allclose(answer(replies, 2), alone(embedder, kept), atol=1e-3, rtol=0)


def test_a_pass_that_was_broken_off_is_done_again(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = counted(embedder, monkeypatch)
    embedder._lanes[0].abort_flag.set()  # as if a cancel had come too late for its own pass
    command = submit(embedder, 1, 50)
    replies = run(embedder)
    assert passes == [1, 1]
    np.testing.assert_allclose(answer(replies, 1), alone(embedder, command), atol=1e-3, rtol=0)


def test_nothing_is_left_behind(embedder: Embedder) -> None:
    generator = np.random.default_rng(5)
    alive: dict[int, Embed] = {}
    done: list[Reply] = []
    for request in range(1, 60):
        lengths = generator.integers(3, 250, generator.integers(1, 12)).tolist()
        alive[request] = submit(embedder, request, *lengths)
        if generator.random() < 0.3:
            victim = int(generator.choice(list(alive)))
            if victim not in {r.id for r in done if isinstance(r, Embedded)}:
                del alive[victim]
            embedder.abort(victim)
            embedder.interrupt(victim)
        done += embedder.step()
    done += run(embedder)
    assert {r.id for r in done if isinstance(r, Embedded)} == set(alive)
    assert embedder._jobs == []
    assert embedder._running == {}
    assert embedder.counts() == (0, 0, 0)
    for request in list(alive)[::7]:
        np.testing.assert_allclose(
            answer(done, request), alone(embedder, alive[request]), atol=1e-3, rtol=0
        )


# --- reranking -------------------------------------------------------------------------

QUERY = "what eats mice"
DOCUMENTS = ("the owl", "a cat eats mice, it is said", "stone", "mice " * 40)


def rank(engine: Reranker, command: Rerank) -> Ranked:
    engine.submit(command, engine.prompt(command))
    (reply,) = (r for r in run(engine) if not isinstance(r, Step))
    assert isinstance(reply, Ranked), reply
    return reply


def test_scores_are_those_of_the_reference(reranker: Reranker, reranker_path: Path) -> None:
    command = Rerank(id=1, query=QUERY, documents=DOCUMENTS)
    reply = rank(reranker, command)
    pairs = reranker.prompt(command)
    assert all(len(pair) > 5 for pair in pairs)
    expected = [1 / (1 + np.exp(-classify(reranker_path, p.tolist())[0])) for p in pairs]
    np.testing.assert_allclose(reply.scores, expected, atol=1e-3)
    assert len({round(score, 2) for score in reply.scores}) == len(DOCUMENTS)
    assert reply.tokens == tuple(len(pair) for pair in pairs)


def test_a_pair_is_query_and_document_between_marks(reranker: Reranker) -> None:
    (pair,) = reranker.prompt(Rerank(id=1, query="ab", documents=("c [SEP] d",)))
    names = [reranker.model.text(token) for token in pair.tolist()]
    assert (names[0], names[-1], names.count("[SEP]")) == ("[CLS]", "[SEP]", 2)


def test_documents_that_are_too_long(reranker: Reranker) -> None:
    long = "x" * 600 + "y" * 600
    with pytest.raises(InvalidRequest, match="at most 512"):
        reranker.prompt(Rerank(id=1, query=QUERY, documents=("short", long)))
    for side, kept in (("end", "x"), ("start", "y")):
        (pair,) = reranker.prompt(Rerank(id=1, query=QUERY, documents=(long,), truncate=side))  # type: ignore[arg-type]
        names = [reranker.model.text(token) for token in pair.tolist()]
        assert len(pair) == 512
        assert names[-2].endswith(kept)
        assert names[1].endswith("w")
    with pytest.raises(InvalidRequest, match="at most 512"):
        reranker.prompt(Rerank(id=1, query="q" * 600, documents=("short",), truncate=True))


def test_a_classifier_is_no_reranker(tmp_path: Path) -> None:
    model = load(made_models.reranker(tmp_path / "three.gguf", labels=3))
    with pytest.raises(NotSupported, match="3 labels"):
        Reranker(model, TWO)
    model.close()


def test_a_reranker_needs_its_classifier(tmp_path: Path) -> None:
    model = load(made_models.bert(tmp_path / "bert.gguf", pooling=4))
    with pytest.raises(InvalidModel, match="no classifier"):
        Reranker(model, TWO)
    model.close()
