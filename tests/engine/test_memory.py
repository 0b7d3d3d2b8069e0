"""Every kind of memory on made models: what is reused gives the logits of a fresh prefill."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import made_models
import numpy as np
import pytest
from made_models.writer import CONTROL, VOCABULARY
from numpy.typing import NDArray

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.context import Context
from lmnb.engine.generator import Generator
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.native import L
from lmnb.engine.options import Sampling
from lmnb.engine.protocol import End, Failed, Generate, Step
from lmnb.engine.sequence import Sequence

BATCH = 64
WINDOW = 64
BOUND = 0.05
"""How far a log-probability may move when the same tokens went through the model in batches of
another shape: ggml multiplies one row by other kernels than many, in half precision."""


class Kind(NamedTuple):
    """A model, how it is loaded, and what the engine should find out about its memory."""

    make: Callable[..., Path]
    can_trim: bool
    window: int = 0
    partial: bool = True
    swa_full: bool | None = None


KINDS = {
    "attention": Kind(made_models.llama, can_trim=True),
    "compressed": Kind(made_models.mla, can_trim=True),
    "attention, M-RoPE": Kind(made_models.qwen2vl, can_trim=True),
    "window, full": Kind(made_models.gemma3, can_trim=False, window=WINDOW, swa_full=True),
    "window": Kind(made_models.gemma3, can_trim=False, window=WINDOW, swa_full=False),
    "recurrent": Kind(made_models.mamba, can_trim=False, partial=False),
    "hybrid": Kind(made_models.jamba, can_trim=False),
    "hybrid, convolution": Kind(made_models.lfm2, can_trim=False),
    "hybrid, M-RoPE": Kind(made_models.qwen35, can_trim=False),
}
UNCUT = [name for name, kind in KINDS.items() if not kind.can_trim]


class Engine:
    """A generator in this process that reports whole distributions and counts what it computes."""

    def __init__(self, path: Path, config: LoadConfig) -> None:
        model = Model.load(str(path), read_header(path), config, on_progress=lambda _: None)
        self.generator = Generator(model, config)
        self.context = self.generator.context
        self.computed = 0
        self.rows: dict[int, list[NDArray[np.float64]]] = {}
        self.sequences: dict[int, Sequence] = {}
        self.ends: dict[int, End] = {}
        self._ids = itertools.count(1)
        decode = self.context.decode

        def counting() -> int:
            result = decode()
            self.computed += self.context.batch.size if result == 0 else 0
            return result

        self.context.decode = counting  # type: ignore[method-assign]

    def submit(
        self, prompt: list[int], *, answer: int = 1, seed: int | None = None, key: str | None = None
    ) -> int:
        sampling = Sampling(temperature=0) if seed is None else Sampling(seed=seed)
        command = Generate(
            id=next(self._ids),
            tokens=tuple(prompt),
            sampling=sampling,
            max_tokens=answer,
            logprobs=VOCABULARY,
            show_special=CONTROL,
            cache_key=key,
        )
        self.rows[command.id] = []
        self.generator.submit(command, self.generator.prompt(command))
        waiting = self.generator.scheduler.waiting
        self.sequences |= {sequence.id: sequence for sequence in waiting}
        return command.id

    def step(self) -> None:
        for reply in self.generator.step():
            assert not isinstance(reply, Failed), reply.error
            assert isinstance(reply, Step)
            for delta in reply.deltas:
                for entry in delta.logprobs:
                    self.rows[delta.id].append(np.sort([value for _, _, value in entry.top]))
            self.ends |= {end.id: end for end in reply.ends}

    def answer(self, request: int) -> list[int]:
        """The tokens a request was answered with."""
        sequence = self.sequences[request]
        tokens: list[int] = sequence.tokens[sequence.prompt_length :].tolist()
        return tokens

    def run(self) -> None:
        for _ in range(20_000):
            if not self.generator.busy:
                return
            self.step()
        raise AssertionError("the engine does not come to rest")

    def ask(
        self, prompt: list[int], *, answer: int = 1, key: str | None = None
    ) -> tuple[NDArray[np.float64], int]:
        """The sorted log-probabilities of the first token of the answer, and how much was cached."""
        request = self.submit(prompt, answer=answer, key=key)
        self.run()
        return self.rows[request][0], self.ends[request].cached_tokens

    def fresh(self, prompt: list[int]) -> NDArray[np.float64]:
        """The same of an engine that knows nothing."""
        self.generator.scheduler.cache.clear()
        row, cached = self.ask(prompt)
        assert cached == 0
        return row

    def check_idle(self) -> None:
        """Nothing is leaked: all slots are free, and empty once the cache is cleared."""
        cache = self.generator.scheduler.cache
        assert not any(slot.busy for slot in cache._slots)
        assert cache.saved_bytes <= self.generator.cache_ram
        cache.clear()
        assert cache.saved_bytes == len(cache._prefixes) == 0
        assert all(self.context.length(slot) == 0 for slot in range(self.context.parallel))


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Engine]]:
    """Engines by kind and cache type, loaded once."""
    folder = tmp_path_factory.mktemp("made")
    engines: dict[object, Engine] = {}

    def load(name: str, cache_type: str = "f16") -> Engine:
        if (name, cache_type) not in engines:
            kind = KINDS[name]
            path = folder / f"{kind.make.__name__}.gguf"
            if not path.exists():
                kind.make(path)
            config = LoadConfig(
                context_length=1024,
                parallel=3,
                eval_batch_size=BATCH,
                cache_type_k=cache_type,
                cache_type_v=cache_type,
                swa_full=kind.swa_full,
                threads=1,
            )
            engines[name, cache_type] = Engine(path, config)
        engine = engines[name, cache_type]
        engine.generator.scheduler.cache.clear()
        engine.computed = 0
        return engine

    yield load
    for engine in engines.values():
        engine.check_idle()
        engine.generator.close()


def words(count: int, seed: int, first: int | None = None) -> list[int]:
    """Random printable bytes; `first` makes sure where two of them differ."""
    values: list[int] = np.random.default_rng(seed).integers(32, 127, count).tolist()
    return [*values] if first is None else [first, *values[1:]]


HEAD = words(4 * BATCH, 0)
ALL = pytest.mark.parametrize("name", KINDS)
TYPES = pytest.mark.parametrize("cache_type", ["f16", "q8_0"])


@ALL
def test_the_kind_of_memory_is_found_out(name: str, load: Callable[..., Engine]) -> None:
    context, kind = load(name).context, KINDS[name]
    assert (context.can_trim, context.window, context.partial) == (
        kind.can_trim,
        kind.window,
        kind.partial,
    )


@ALL
@TYPES
def test_from_a_fork_on_the_logits_are_those_of_a_fresh_prefill(
    name: str, cache_type: str, load: Callable[..., Engine]
) -> None:
    """Bit for bit: the batches had the same shapes. The third prompt finds the others' fork."""
    engine = load(name, cache_type)
    for seed in (1, 2):
        engine.ask([*HEAD, *words(40, seed, first=seed)])
    prompt = [*HEAD, *words(40, 3, first=3)]
    row, cached = engine.ask(prompt)
    assert cached == len(HEAD)
    assert (row == engine.fresh(prompt)).all()


@ALL
@TYPES
def test_a_slot_that_was_evicted_comes_back_as_it_was(
    name: str, cache_type: str, load: Callable[..., Engine]
) -> None:
    engine = load(name, cache_type)
    first, more = words(3 * BATCH, 1, first=1), words(40, 5)
    engine.ask(first)
    for seed in range(2, 6):
        engine.ask(words(200, seed, first=seed))
    row, cached = engine.ask([*first, *more])
    assert cached >= len(first) - 1
    fresh = engine.fresh([*first, *more])
    assert abs(row - fresh).max() < BOUND


@ALL
@TYPES
def test_the_same_prompt_again(name: str, cache_type: str, load: Callable[..., Engine]) -> None:
    engine = load(name, cache_type)
    prompt = words(150, 1)
    first, _ = engine.ask(prompt, answer=8)
    again, cached = engine.ask(prompt, answer=8)
    assert cached == len(prompt) - 1
    # Cut memory has read the last token in one pass with others at first; other kinds never do.
    assert abs(first - again).max() <= (BOUND if KINDS[name].can_trim else 0)


@ALL
def test_a_chats_second_turn_computes_only_what_is_new(
    name: str, load: Callable[..., Engine]
) -> None:
    engine = load(name)
    first = words(300, 1)
    request = engine.submit(first, answer=50)
    engine.run()
    answer = engine.answer(request)
    assert len(answer) == 50
    computed, new = engine.computed, words(30, 2)
    row, cached = engine.ask([*first, *answer, *new])
    assert cached == len(first) + len(answer) - 1  # The last token was sampled, not computed.
    assert engine.computed - computed == len(new) + 1
    assert abs(row - engine.fresh([*first, *answer, *new])).max() < BOUND


@ALL
def test_a_turn_without_the_last_answers_thinking_goes_back(
    name: str, load: Callable[..., Engine]
) -> None:
    """The next prompt differs from the first token of the answer on."""
    engine = load(name)
    first = words(300, 1)
    engine.ask(first, answer=50)
    computed, new = engine.computed, words(40, 2)
    row, cached = engine.ask([*first, *new])
    assert cached >= len(first) - 1
    assert engine.computed - computed <= len(new) + 1
    assert abs(row - engine.fresh([*first, *new])).max() < BOUND


@ALL
def test_the_header_of_an_answer_may_change(name: str, load: Callable[..., Engine]) -> None:
    """Control tokens show where it begins: a thinking model's is prefilled, its past ones are not."""
    engine = load(name)
    im_start = 258
    first = [*words(300, 1), im_start, *b"assistant\n<think>\n"]
    engine.ask(first, answer=20)
    row, cached = engine.ask([*first[:301], *b"assistant\nParis", *words(20, 2)])
    assert cached >= 300
    assert (
        abs(row - engine.fresh([*first[:301], *b"assistant\nParis", *words(20, 2)])).max() < BOUND
    )


@ALL
def test_prompts_that_arrive_together_compute_their_beginning_once(
    name: str, load: Callable[..., Engine]
) -> None:
    engine = load(name)
    prompts = [[*HEAD, *words(20, seed, first=seed)] for seed in range(3)]
    requests = [engine.submit(prompt, answer=1) for prompt in prompts]
    engine.run()
    assert engine.computed <= len(HEAD) + 3 * 20 + BATCH
    cached = sorted(engine.ends[request].cached_tokens for request in requests)
    assert cached[0] == 0
    assert cached[1] >= len(HEAD)
    for request, prompt in zip(requests, prompts, strict=True):
        assert abs(engine.rows[request][0] - engine.fresh(prompt)).max() < BOUND


@ALL
def test_a_pass_that_is_broken_off_spoils_nothing(name: str, load: Callable[..., Engine]) -> None:
    engine = load(name)
    prompt = words(400, 1)
    request = engine.submit(prompt)
    for _ in range(3):
        engine.step()
        engine.context.abort.set()
        engine.step()
    engine.run()
    row = engine.rows[request][0]
    assert engine.ends[request].cached_tokens == 0
    assert abs(row - engine.fresh(prompt)).max() < BOUND


@ALL
def test_a_broken_off_prompt_is_not_read_from_the_start(
    name: str, load: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmnb.engine import cache

    monkeypatch.setattr(cache, "_CHECKPOINT_INTERVAL", 2 * BATCH)
    engine = load(name)
    prompt = words(500, 1)
    request = engine.submit(prompt)
    for _ in range(5):
        engine.step()
    (sequence,) = engine.generator.scheduler.running
    assert sequence.computed == 5 * BATCH
    engine.context.abort.set()
    engine.step()
    assert sequence.computed >= 4 * BATCH
    engine.run()
    assert abs(engine.rows[request][0] - engine.fresh(prompt)).max() < BOUND


@pytest.mark.parametrize("name", ["window", "window, full"])
def test_a_window_takes_back_the_last_pass(name: str, load: Callable[..., Engine]) -> None:
    """So that wrong drafts can be dropped, whatever cells the pass has overwritten."""
    engine = load(name)
    context = engine.context
    assert context.can_retract
    engine.ask(words(700, 1))
    length = context.length(0)
    for start in range(length, 1000, 5):
        context.batch.clear()
        context.batch.add(np.array(words(17, start), np.int32), start, 0, 1)
        assert context.decode() == 0
        assert context.trim(0, start + 5)
        assert context.length(0) == start + 5
    engine.generator.scheduler.cache.clear()


def test_a_batch_of_one_is_enough(tmp_path: Path) -> None:
    path = made_models.mamba(tmp_path / "made.gguf")
    model = Model.load(str(path), read_header(path), LoadConfig(), on_progress=lambda _: None)
    context = Context(model, LoadConfig(context_length=256, parallel=1, eval_batch_size=1))
    assert not context.can_trim
    context.close()
    model.close()


def test_a_window_is_cut_as_far_as_its_keys_reach(load: Callable[..., Engine]) -> None:
    """And not one token further: llama.cpp itself would go on, with keys missing."""
    context = load("window").context
    prompt = np.array(words(400, 1), np.int32)

    def logits(start: int, end: int) -> NDArray[np.float32]:
        for begin in range(start, end, BATCH):
            context.batch.clear()
            part = prompt[begin : min(end, begin + BATCH)]
            context.batch.add(part, begin, 0, 1)
            assert context.decode() == 0
        row: NDArray[np.float32] = context.logits(1)[0].copy()
        return row

    def read_all() -> None:
        context.trim(0, 0)
        logits(0, len(prompt))

    read_all()
    least = context.start(0) + WINDOW - 1
    assert 0 < least < len(prompt) - 1
    assert context.trim(0, least)
    assert context.length(0) == least
    reused = logits(least, least + 1)
    read_all()
    assert L.llama_memory_seq_rm(context.memory, 0, least - 1, -1)
    spoilt = logits(least - 1, least + 1)
    context.trim(0, 0)
    fresh = logits(0, least + 1)
    assert abs(reused - fresh).max() < BOUND < abs(spoilt - fresh).max()
    read_all()
    assert not context.trim(0, least - 1)
    assert context.length(0) == 0
    context.trim(0, 0)


@pytest.mark.parametrize("name", UNCUT)
def test_no_memory_for_copies_means_no_reuse_but_right_answers(
    name: str, load: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(name)
    monkeypatch.setattr(engine.generator.scheduler.cache._store, "_budget", 1000)
    engine.ask(words(200, 1), answer=4)
    prompt = [*words(200, 1), *words(20, 2)]
    row, _ = engine.ask(prompt)
    assert engine.generator.scheduler.cache.saved_bytes == 0
    assert abs(row - engine.fresh(prompt)).max() < BOUND


# --- random schedules ----------------------------------------------------------------


@ALL
@pytest.mark.parametrize("seed", range(3))
def test_random_schedules_leak_nothing_and_mix_nothing(
    name: str, seed: int, load: Callable[..., Engine]
) -> None:
    """Arrivals, cancels, aborted passes, preemptions and clearings in any order.

    Every answer is read again afterwards, alone: its last token must have had the same
    distribution, which depends on every token before it.
    """
    engine = load(name)
    dice = random.Random(seed)
    heads = [words(dice.randint(50, 300), 10 + n, first=n) for n in range(3)]
    asked: dict[int, list[int]] = {}
    for _ in range(120):
        action = dice.random()
        if action < 0.3 and len(asked) < 25:
            prompt = [*dice.choice(heads), *words(dice.randint(1, 60), dice.randint(0, 3))]
            key = dice.choice([None, "a", "b"])
            request = engine.submit(prompt, answer=dice.randint(1, 12), seed=1, key=key)
            asked[request] = prompt
        elif action < 0.4 and asked:
            engine.generator.abort(dice.choice(list(asked)))
        elif action < 0.45:
            engine.context.abort.set()
        elif action < 0.47:
            engine.generator.scheduler.cache.clear()
        elif action < 0.55 and engine.generator.scheduler.running:
            sequence = dice.choice(engine.generator.scheduler.running)
            assert sequence.slot is not None
            tokens = sequence.tokens[: sequence.computed]
            engine.generator.scheduler.cache.save(sequence.slot, tokens)
        engine.step()
        check_books(engine)
    engine.run()
    assert asked.keys() <= engine.ends.keys()
    done = [n for n in asked if engine.ends[n].reason == "length"]
    assert len(done) > 5
    for request in done:
        answer = engine.answer(request)
        assert len(answer) == len(engine.rows[request])
        fresh = engine.fresh([*asked[request], *answer[:-1]])
        assert abs(engine.rows[request][-1] - fresh).max() < BOUND
    engine.check_idle()


def check_books(engine: Engine) -> None:
    """What the scheduler and the cache believe of memory is what llama.cpp says of it."""
    scheduler, context = engine.generator.scheduler, engine.context
    lengths = {slot.number: len(slot.tokens) for slot in scheduler.cache._slots if not slot.busy}
    lengths |= {s.slot: s.computed for s in scheduler.running if s.slot is not None}
    assert sorted(lengths) == list(range(context.parallel))
    assert lengths == {slot: context.length(slot) for slot in lengths}


# --- guards --------------------------------------------------------------------------

_ABORTS = """
import sys, numpy as np
from pathlib import Path
from lmnb.engine import native
from lmnb.engine.context import Context
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.native import L
from lmnb.engine.protocol import LoadConfig
native.init(lambda text: None)
path = Path(sys.argv[1])
model = Model.load(str(path), read_header(path), LoadConfig(), on_progress=lambda _: None)
context = Context(model, LoadConfig(context_length=256, parallel=2))
print("loaded", flush=True)
L.llama_memory_seq_rm(context.memory, 2, -1, -1)
print("survived", flush=True)
"""


def test_a_slot_that_is_not_there_is_refused(load: Callable[..., Engine], tmp_path: Path) -> None:
    context = load("attention").context
    beyond = context.parallel
    data = np.zeros(8, np.uint8)
    calls: list[Callable[[], object]] = [
        lambda: context.length(beyond),
        lambda: context.trim(beyond, 0),
        lambda: context.trim(-1, 0),
        lambda: context.start(beyond),
        lambda: context.size(beyond),
        lambda: context.save(beyond),
        lambda: context.restore(beyond, data, 1),
        lambda: context.rewind(beyond, data, 1),
    ]
    for call in calls:
        with pytest.raises(AssertionError, match="no slot"):
            call()
    path = made_models.llama(tmp_path / "made.gguf")
    done = subprocess.run(
        [sys.executable, "-c", _ABORTS, str(path)], capture_output=True, text=True, check=False
    )
    assert "loaded" in done.stdout
    assert "survived" not in done.stdout
    assert done.returncode == -signal.SIGABRT


def test_a_batch_with_wrong_slots_or_positions_is_refused(load: Callable[..., Engine]) -> None:
    context = load("attention").context
    row = np.array([1], np.int32)
    for position, slot in ((0, context.parallel), (0, -1)):
        context.batch.clear()
        context.batch.add(row, position, slot, 1)
        with pytest.raises(AssertionError, match="no slot"):
            context.decode()
    for position in (5, -1):
        context.batch.clear()
        context.batch.add(row, position, 0, 1)
        with pytest.raises(AssertionError, match="bad batch"):
            context.decode()
    # llama.cpp would compute it, with nothing at the positions before.
    assert L.llama_decode(context.handle, batch_of_one(context, 5)) == 0
    assert context.length(0) == 6
    context.trim(0, 0)


def batch_of_one(context: Context, position: int) -> object:
    context.batch.clear()
    context.batch.add(np.array([1], np.int32), position, 0, 1)
    context.batch.raw.n_tokens = 1
    raw: object = context.batch.raw
    return raw


def test_a_copy_that_is_not_one_leaves_an_empty_slot(load: Callable[..., Engine]) -> None:
    engine = load("hybrid")
    engine.ask(words(100, 1))
    context = engine.context
    whole = context.save(0)
    for data in (np.zeros(100, np.uint8), whole[: len(whole) // 2]):
        assert not context.restore(0, data, 100)
        assert context.length(0) == 0
        assert context.restore(0, whole, 100)
        assert not context.rewind(0, data, 50)
        assert context.length(0) == 0
        assert context.restore(0, whole, 100)
    engine.generator.scheduler.cache.clear()
