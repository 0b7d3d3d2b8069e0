"""Models with M-RoPE, whose images take fewer positions than tokens (Qwen-VL): made ones.

What the engine computes is held against llama.cpp's own way of reading such a prompt
(`mtmd_helper_eval_chunks`), which knows neither slots nor prefixes.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_models
import numpy as np
import pytest
from engine_driver import GREEDY, Engine
from hypothesis import given
from hypothesis import strategies as st
from made_models.projector import projector
from numpy.typing import NDArray
from pictures import picture

from lmnb.engine import native
from lmnb.engine.adapters import AdapterSet
from lmnb.engine.config import LoadConfig
from lmnb.engine.context import Context
from lmnb.engine.native import L
from lmnb.engine.options import Sampling, Segment
from lmnb.engine.positions import TELLING_BITS, positions, pseudo_tokens
from lmnb.engine.protocol import Generate
from lmnb.engine.slices import Slices
from lmnb.engine.spill import Disk, fingerprint
from lmnb.engine.vision import Part, Vision

BATCH = 64
BOUND = 0.02
"""How far a logit may move when the same tokens went through the model in batches of another shape."""

WIDE, TALL, SQUARE = picture(0, 96, 40), picture(1, 32, 88), picture(2, 48, 48)
"""12 x 5, 4 x 11 and 6 x 6 tokens."""
SIZES = {WIDE: (60, 12), TALL: (44, 11), SQUARE: (36, 6)}
"""Tokens and positions."""

Prompt = tuple[str | bytes, ...]
PROMPTS: dict[str, Prompt] = {
    "wide": ("What is this? ", WIDE, " Say it."),
    "tall": ("What is this? ", TALL, " Say it."),
    "first": (SQUARE, " is what?"),
    "two": ("Compare ", WIDE, " with ", TALL, ", please."),
    "side by side": ("Compare ", TALL, SQUARE, WIDE, "."),
    "long": ("A long story. " * 15, SQUARE, " And it goes on and on." * 15, WIDE, " End."),
}

Rows = NDArray[np.float32]


class Seeing(Engine):
    """An engine that notes the logits from which each token was sampled."""

    def __init__(self, path: Path, config: LoadConfig, files: Any = None) -> None:
        super().__init__(path, config, files)
        self.rows: dict[int, list[Rows]] = {}
        self.prompts: dict[int, Prompt] = {}
        answers = self.generator.answers
        extend = answers.extend

        def noting(sequence: Any, rows: Rows) -> None:
            before = sequence.output_length
            kept = rows.copy()
            extend(sequence, rows)
            self.rows[sequence.id].extend(kept[: sequence.output_length - before])

        answers.extend = noting  # type: ignore[method-assign]

    def see(self, prompt: Prompt, *, answer: int = 8, priority: int = 0, seed: int = -1) -> int:
        self.next_id += 1
        sampling = GREEDY if seed < 0 else Sampling(seed=seed)
        command = Generate(
            id=self.next_id,
            segments=segments(prompt),
            sampling=sampling,
            max_tokens=answer,
            priority=priority,
        )
        self.text[command.id], self.rows[command.id] = "", []
        self.prompts[command.id] = prompt
        self.generator.submit(command, self.generator.prompt(command))
        return command.id

    def first_row(self, prompt: Prompt) -> tuple[Rows, int]:
        """Logits after a prompt, and how much of it was cached."""
        request = self.see(prompt, answer=1)
        self.run()
        return self.rows[request][0], self.ends[request].cached_tokens

    def fresh(self, prompt: Prompt) -> Rows:
        """The same of an engine that knows nothing."""
        self.generator.scheduler.cache.clear()
        row, cached = self.first_row(prompt)
        assert cached == 0
        return row

    @property
    def vision(self) -> Vision:
        assert self.generator.vision is not None
        return self.generator.vision

    def sequence(self, request: int) -> Any:
        return next(s for s in self.generator.scheduler.running if s.id == request)


def segments(prompt: Prompt) -> tuple[Segment, ...]:
    return tuple(
        Segment(part) if isinstance(part, str) else Segment("", media=part) for part in prompt
    )


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mrope")
    projector(folder / "mmproj-base.gguf", kind="qwen2vl_merger")
    return made_models.qwen2vl(folder / "base.gguf")


def config(**options: Any) -> LoadConfig:
    usual: dict[str, Any] = {"context_length": 1024, "parallel": 3, "eval_batch_size": BATCH}
    return LoadConfig(**(usual | {"threads": 1} | options))


@pytest.fixture(scope="module")
def loaded(path: Path) -> Iterator[Seeing]:
    engine = Seeing(path, config())
    yield engine
    engine.check_idle()
    engine.generator.close()


@pytest.fixture
def engine(loaded: Seeing) -> Seeing:
    """With an empty cache."""
    loaded.check_idle()
    return loaded


# --- positions ---------------------------------------------------------------------


@given(
    st.lists(st.one_of(st.integers(0, 1 << 20), st.tuples(st.integers(1, 50), st.integers(1, 50))))
)
def test_positions_follow_from_the_tokens(pieces: list[int | tuple[int, int]]) -> None:
    """Of text one each, of an image the longer side; also under an adapter's keys."""
    runs, wanted = [np.empty(0, np.int32)], 0
    for number, piece in enumerate(pieces):
        if isinstance(piece, int):
            runs.append(np.array([piece], np.int32))
            wanted += 1
        else:
            key = number.to_bytes(16, "little")
            runs.append(pseudo_tokens(key, piece[0] * piece[1], max(piece)))
            wanted += max(piece)
            assert (runs[-1] < 0).all()
    tokens = np.concatenate(runs)
    assert positions(tokens) == wanted
    salt = np.random.default_rng(0).integers(-(1 << 31), 1 << 31, 8).astype(np.int32)
    keys = AdapterSet(((0, 1.0),), salt & np.int32(~TELLING_BITS)).keys(tokens)
    assert positions(keys) == wanted


def test_an_image_takes_as_many_positions_as_its_longer_side(engine: Seeing) -> None:
    for image, (length, taken) in SIZES.items():
        tokens, (span,) = engine.generator.tokenize(segments(("a", image, "b")), add_bos=False)
        assert (span.medium.length, span.medium.positions) == (length, taken)
        assert positions(tokens[span.start : span.end]) == taken
        columns, rows = (taken, length // taken) if image != TALL else (length // taken, taken)
        t, y, x, _ = engine.vision.places(span.medium, 100, 4)
        assert (t == 100).all()
        assert y.tolist() == [100 + row for row in range(rows) for _ in range(columns)]
        assert x.tolist() == [100 + column for _ in range(rows) for column in range(columns)]


# --- the same as llama.cpp ---------------------------------------------------------


def reference(engine: Seeing, prompt: Prompt) -> tuple[Rows, int]:
    """The logits that llama.cpp itself has after a prompt, and where it goes on."""
    vision, mtmd = engine.vision, engine.vision._mtmd
    parts = [
        Part(part, special=False) if isinstance(part, str) else Part("", special=False, media=part)
        for part in prompt
    ]
    bitmaps = [vision._bitmap(part.media, n) for n, part in enumerate(parts) if part.media]
    keep, pointers = vision._native_parts(parts, bitmaps)
    chunks = mtmd.mtmd_input_chunks_init()
    context = Context(engine.generator.model, config(parallel=1))
    end = ctypes.c_int32()
    try:
        assert not mtmd.mtmd_tokenize_from_parts(vision._handle, chunks, pointers, len(keep), False)
        arguments = (vision._handle, context.handle, chunks, 0, 0, BATCH, True, ctypes.byref(end))
        assert not mtmd.mtmd_helper_eval_chunks(*arguments)
        n_vocab = context.model.n_vocab
        row = native.floats(L.llama_get_logits_ith(context.handle, -1), n_vocab).copy()
    finally:
        context.close()
        mtmd.mtmd_input_chunks_free(chunks)
        for bitmap in bitmaps:
            mtmd.mtmd_bitmap_free(bitmap)
    return row, end.value


def assert_same(row: Rows, other: Rows) -> None:
    assert abs(row - other).max() < BOUND
    first, second = np.sort(other)[-2:][::-1]
    if first - second > 2 * BOUND:
        assert row.argmax() == other.argmax()


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_are_those_of_llama_cpp(engine: Seeing, name: str) -> None:
    row, end = reference(engine, PROMPTS[name])
    assert_same(engine.fresh(PROMPTS[name]), row)
    tokens, _ = engine.generator.tokenize(segments(PROMPTS[name]), add_bos=False)
    assert positions(tokens) == end < len(tokens)


@pytest.mark.parametrize(
    ("name", "kind"), [("qwen3vl", "qwen3vl_merger"), ("qwen35", "qwen2vl_merger")]
)
def test_its_kin_as_well(tmp_path: Path, name: str, kind: str) -> None:
    """Interleaved dimensions; embeddings of images wider than the model's own; hybrid memory."""
    make: Callable[[Path], Path] = getattr(made_models, name)
    model = make(tmp_path / "model.gguf")
    projector(tmp_path / "mmproj.gguf", kind=kind)
    engine = Seeing(model, config())
    for prompt in PROMPTS.values():
        row, end = reference(engine, prompt)
        assert_same(engine.fresh(prompt), row)
        more = (*prompt, " And what else?")
        row, cached = engine.first_row(more)
        assert cached > end
        assert_same(row, reference(engine, more)[0])
    engine.check_idle()
    engine.generator.close()


def test_positions_matter(engine: Seeing, monkeypatch: pytest.MonkeyPatch) -> None:
    """With others, the logits are far from the right ones: the test above can fail."""
    prompt = PROMPTS["two"]
    right = reference(engine, prompt)[0]
    places = engine.vision.places

    def swapped(*arguments: Any) -> NDArray[np.int32]:
        return places(*arguments)[[0, 2, 1, 3]]

    with monkeypatch.context() as patched:
        patched.setattr(engine.vision, "places", swapped)
        assert abs(engine.fresh(prompt) - right).max() > 5 * BOUND
    collect = engine.vision._medium

    def longer(*arguments: Any) -> Any:
        medium = collect(*arguments)
        medium.positions = medium.length
        return medium

    with monkeypatch.context() as patched:
        patched.setattr(engine.vision, "_medium", longer)
        assert abs(engine.fresh(prompt) - right).max() > 5 * BOUND
    engine.generator.scheduler.cache.clear()


# --- prefixes ----------------------------------------------------------------------


def test_a_prefix_with_an_image_is_reused(engine: Seeing) -> None:
    start: Prompt = ("What is this? ", WIDE)
    engine.first_row((*start, " A first question."))
    prompt = (*start, " Another one, then.")
    row, cached = engine.first_row(prompt)
    assert cached == len("What is this? ") + len("<|vision_start|>") + 60 + len("<|vision_end|> A")
    assert_same(row, engine.fresh(prompt))
    assert_same(row, reference(engine, prompt)[0])


def test_what_differs_right_behind_an_image(path: Path) -> None:
    """The prefix ends with the image: positions go on behind it, where there are no cells."""
    engine = Seeing(path, config(parallel=1))
    scheduler, prompt = engine.generator.scheduler, PROMPTS["wide"]
    request = engine.see(prompt)
    engine.run()
    tokens, (span,) = engine.generator.tokenize(segments(prompt), add_bos=False)
    scheduler.cache.acquire(tokens)
    context = engine.generator.context
    taken = positions(tokens[: span.end])
    assert context.trim(0, taken)
    assert context.length(0) == taken
    assert L.llama_memory_seq_pos_max(context.memory, 0) == taken - 12
    scheduler.cache.release(0, tokens[: span.end])
    again = engine.see(prompt)
    engine.run()
    assert engine.ends[again].cached_tokens == span.end
    assert_same(engine.rows[again][0], engine.rows[request][0])
    assert engine.text[again] == engine.text[request]
    engine.check_idle()


def test_an_image_in_the_second_turn(engine: Seeing) -> None:
    first = PROMPTS["wide"]
    request = engine.see(first, answer=20)
    engine.run()
    # What was answered is no UTF-8: the next turn says something else.
    prompt = (*first, engine.text[request].split("\ufffd", maxsplit=1)[0], " And this? ", TALL, "!")
    row, cached = engine.first_row(prompt)
    assert cached > engine.ends[request].prompt_tokens - 2
    assert_same(row, engine.fresh(prompt))
    assert_same(row, reference(engine, prompt)[0])
    third = (*prompt, " Both are ", SQUARE, "?")
    row, cached = engine.first_row((*third,))
    assert cached > 104
    assert_same(row, reference(engine, third)[0])


def test_a_slot_that_was_evicted_comes_back_as_it_was(engine: Seeing) -> None:
    prompt = PROMPTS["two"]
    engine.first_row(prompt)
    for seed in range(10, 14):
        engine.first_row((f"{seed} is another beginning. " * 8, picture(seed), "?"))
    row, cached = engine.first_row((*prompt, " Go on."))
    assert cached > 104
    assert_same(row, reference(engine, (*prompt, " Go on."))[0])


def test_the_disk_keeps_images(path: Path, tmp_path: Path) -> None:
    def process() -> tuple[Seeing, Disk]:
        disk = Disk(tmp_path, 1 << 30, fingerprint(path, config()))
        return Seeing(path, config(), files=disk), disk

    prompt = PROMPTS["long"]
    engine, disk = process()
    engine.first_row(prompt)
    while engine.generator.tidy():
        pass
    disk.wait()
    engine.generator.close()
    engine, _ = process()
    row, cached = engine.first_row((*prompt, " What else?"))
    assert cached > 500
    assert engine.vision.encoded == 0
    assert_same(row, reference(engine, (*prompt, " What else?"))[0])
    engine.generator.close()


# --- together, interrupted, for long -----------------------------------------------


def test_a_long_answer_goes_on_at_the_right_positions(path: Path, loaded: Seeing) -> None:
    """Greedy made models repeat themselves: drafts are taken back all the time."""
    for drafts in (0, 4):
        engine = Seeing(path, config(draft_tokens=drafts))
        request = engine.see(PROMPTS["two"], answer=300)
        while request not in engine.ends:
            engine.step()
            engine.check_books()
        end = engine.ends[request]
        assert (end.output_tokens, bool(end.drafted_tokens)) == (300, bool(drafts))
        check_last_row(engine, request, loaded)
        engine.check_idle()
        engine.generator.close()


def check_last_row(engine: Seeing, request: int, reader: Seeing) -> None:
    """Reading prompt and answer anew gives the distribution of the answer's last token.

    With that, no token before it can have been misplaced.
    """
    answered = engine.rows[request]
    tokens = [int(row.argmax()) for row in answered[:-1]]
    context = reader.generator.context
    prompt, spans = reader.generator.tokenize(segments(engine.prompts[request]), add_bos=False)
    reader.generator.scheduler.cache.clear()
    everything = np.concatenate([prompt, np.array(tokens, np.int32)])
    place = position = 0
    for span in (*spans, None):
        end = len(everything) if span is None else span.start
        while place < end:
            count = min(BATCH, end - place)
            context.batch.clear()
            context.batch.add(everything[place : place + count], position, 0, int(span is None))
            assert context.decode() == 0
            place, position = place + count, position + count
        if span is not None:
            rows = reader.vision._encode(span.medium)
            places = reader.vision.places(span.medium, position, 4)
            position += span.medium.positions
            assert not context.decode_embeddings(rows, places, 0, end=position, causal=True)
            place = span.end
    assert_same(answered[-1], context.logits(1)[0])
    context.trim(0, 0)


@pytest.mark.parametrize("step", range(2, 12, 3))
def test_who_gives_way_goes_on_where_it_was(path: Path, step: int) -> None:
    """With small batches, a request is suspended before, in, between and behind its images."""
    small = config(parallel=1, eval_batch_size=8)
    prompt: Prompt = ("It is ", SQUARE, TALL, ".")
    engine = Seeing(path, small)
    alone = engine.see(prompt, answer=20)
    engine.run()
    engine.generator.scheduler.cache.clear()
    request = engine.see(prompt, answer=20, priority=1)
    for _ in range(step):
        engine.step()
        engine.check_books()
    urgent = engine.see(PROMPTS["wide"])
    engine.run()
    assert engine.ends[urgent].output_tokens == 8
    assert engine.text[request] == engine.text[alone]
    for row, other in zip(engine.rows[request], engine.rows[alone], strict=True):
        assert_same(row, other)
    engine.check_idle()
    engine.generator.close()


def test_two_answers_to_one_prompt(engine: Seeing) -> None:
    """The second waits for what the first reads, image and all."""
    prompt = PROMPTS["long"]
    one, other = engine.see(prompt, seed=1), engine.see(prompt, seed=2)
    encoded = engine.vision.encoded
    engine.run()
    assert engine.vision.encoded <= encoded + 2
    end = engine.ends[other]
    assert end.cached_tokens >= end.prompt_tokens - 32
    for request in (one, other):
        assert_same(engine.rows[request][0], reference(engine, prompt)[0])


def test_others_get_their_tokens_while_an_image_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Seeing(path, config(eval_batch_size=256, draft_tokens=0))
    scheduler = engine.generator.scheduler
    # As on a slow machine: a quarter of a second is 64 tokens.
    monkeypatch.setattr(scheduler, "observe", lambda *_: None)
    scheduler._slices = Slices(flash=False)
    scheduler._slices.observe(64, 32, 0.25, tiled=True)
    large: Prompt = ("Look: ", picture(3, 160, 80), " Now?")
    engine.fresh(large)
    scheduler.cache.clear()  # The image is encoded.
    answering = engine.see(("Tell me a story.",), answer=60)
    engine.step()
    seeing = engine.see(large)
    partly = 0
    while seeing not in engine.ends:
        before = len(engine.rows[answering])
        engine.step()
        engine.check_books()
        assert len(engine.rows[answering]) == before + 1
        partly += any(s.seen for s in scheduler.running)
    assert partly == 3  # of 200 tokens, 64 in a step
    assert_same(engine.rows[seeing][0], reference(engine, large)[0])
    engine.run()
    engine.check_idle()
    engine.generator.close()


@pytest.mark.parametrize("kind", ["qwen2vl", "qwen35", "llama", "jamba"])
def test_an_image_that_is_half_read_is_left(tmp_path: Path, kind: str) -> None:
    """Cancelled or broken off there, its prefix is as good as ever; memory of every kind."""
    make: Callable[[Path], Path] = getattr(made_models, kind)
    model = make(tmp_path / "model.gguf")
    encoder = "qwen2vl_merger" if kind.startswith("qwen") else "janus_pro"
    projector(tmp_path / "mmproj.gguf", kind=encoder)
    engine = Seeing(model, config(eval_batch_size=8, parallel=1))
    prompt: Prompt = ("A long beginning of a text. " * 6, SQUARE, " What?")
    fresh = engine.fresh(prompt)
    engine.generator.scheduler.cache.clear()
    for leave in ("cancel", "abort", "nothing"):
        request = engine.see(prompt)
        while not (running := engine.generator.scheduler.running) or not running[0].seen:
            engine.step()
        engine.check_books()
        if leave == "cancel":
            engine.generator.abort(request)
        if leave == "abort":
            engine.generator.context.abort.set()
            engine.step()
            assert engine.sequence(request).seen == 0
            engine.check_books()
        engine.run()
        if leave != "cancel":
            assert_same(engine.rows[request][0], fresh)
            engine.generator.scheduler.cache.clear()
    engine.check_idle()
    engine.generator.close()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("make", [made_models.qwen2vl, made_models.qwen35])
def test_random_schedules_leak_nothing_and_mix_nothing(
    make: Callable[[Path], Path], tmp_path: Path, seed: int
) -> None:
    """Arrivals, cancels, aborted passes, preemptions, copies and clearings in any order."""
    model = make(tmp_path / "model.gguf")
    projector(tmp_path / "mmproj.gguf", kind="qwen2vl_merger")
    engine, reader = Seeing(model, config(eval_batch_size=16)), Seeing(model, config())
    scheduler, dice = engine.generator.scheduler, random.Random(seed)
    images = [WIDE, TALL, SQUARE]
    heads: list[Prompt] = [
        ("Look at it. ", dice.choice(images)),
        ("Here are two: ", *dice.sample(images, 2)),
        ("No image, but a text of some length. " * 2,),
    ]
    asked: list[int] = []
    for _ in range(150):
        action = dice.random()
        if action < 0.25 and len(asked) < 20:
            more: Prompt = (" And ", dice.choice(images)) if dice.random() < 0.4 else ()
            prompt = (*dice.choice(heads), *more, " What?"[: dice.randint(1, 6)])
            answer, priority = dice.randint(1, 12), dice.randint(0, 1)
            asked.append(engine.see(prompt, answer=answer, priority=priority))
        elif action < 0.32 and asked:
            engine.generator.abort(dice.choice(asked))
        elif action < 0.38:
            engine.generator.context.abort.set()
        elif action < 0.4:
            scheduler.cache.clear()
        elif action < 0.46 and scheduler.running:
            sequence = dice.choice(scheduler.running)
            assert sequence.slot is not None
            if not sequence.seen or engine.generator.context.can_trim:
                scheduler.cache.save(sequence.slot, sequence.keys[: sequence.computed])
        engine.step()
        engine.check_books()
    engine.run()
    done = [request for request in asked if engine.ends[request].reason == "length"]
    assert len(done) > 5
    for request in done:
        assert len(engine.rows[request]) == engine.ends[request].output_tokens
        check_last_row(engine, request, reader)
    engine.check_idle()
    for one in (engine, reader):
        one.generator.close()


# --- guards ------------------------------------------------------------------------


def test_a_batch_with_wrong_positions_is_refused(engine: Seeing) -> None:
    """llama.cpp lets positions of these models jump forward, whatever is missing in between."""
    context = engine.generator.context
    context.batch.clear()
    context.batch.add(np.array([1], np.int32), 5, 0, 1)
    with pytest.raises(AssertionError, match="bad batch"):
        context.decode()
    rows = np.zeros((4, context.model.embedding_length), np.float32)
    for shape in ((1, 4), (4, 3)):
        with pytest.raises(AssertionError, match="bad batch"):
            context.decode_embeddings(rows, np.zeros(shape, np.int32), 0, end=2, causal=True)
