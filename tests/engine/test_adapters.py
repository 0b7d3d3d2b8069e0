"""LoRA adapters: what they compute, who computes with whom, and what the cache makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import gguf
import made_models
import numpy as np
import pytest
from engine_driver import GREEDY, Engine
from made_models.adapter import Factors, lora, merged, random_factors
from numpy.typing import NDArray

from lmnb.engine import native, turns
from lmnb.engine.adapters import Adapters
from lmnb.engine.config import LoadAdapter, LoadConfig
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.options import AdapterChoice, Segment
from lmnb.engine.protocol import Generate
from lmnb.errors import InvalidModel, InvalidRequest, LmnbError

WEIGHTS = ("blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.1.attn_v.weight", "output.weight")
PROMPT = "the quick brown fox jumps over the lazy dog and then some more of it all " * 2
A, B = AdapterChoice("a"), AdapterChoice("b", 0.5)
SETS: list[tuple[AdapterChoice, ...]] = [(), (A,), (B,), (A, B), (AdapterChoice("a", 0.25),)]


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_models.llama(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture(scope="module")
def changes(base: Path) -> dict[str, dict[str, Factors]]:
    return {name: random_factors(base, WEIGHTS, seed=n) for n, name in enumerate("ab")}


@pytest.fixture(scope="module")
def files(base: Path, changes: dict[str, dict[str, Factors]]) -> dict[str, Path]:
    return {name: lora(base.parent / f"{name}.gguf", changes[name]) for name in changes}


@pytest.fixture
def engine(base: Path, files: dict[str, Path]) -> Engine:
    return load(base, *files.values())


def load(base: Path, *adapters: Path, scale: float = 0.0, parallel: int = 4) -> Engine:
    loaded = tuple(LoadAdapter(path=str(path), scale=scale) for path in adapters)
    config = LoadConfig(context_length=1024, parallel=parallel, adapters=loaded or None)
    return Engine(base, config)


def submit(
    engine: Engine,
    adapters: tuple[AdapterChoice, ...] | None,
    prompt: str = PROMPT,
    max_tokens: int = 12,
) -> int:
    engine.next_id += 1
    command = Generate(
        id=engine.next_id,
        segments=(Segment(prompt),),
        sampling=GREEDY,
        max_tokens=max_tokens,
        logprobs=5,
        adapters=adapters,
    )
    engine.text[engine.next_id] = ""
    engine.generator.submit(command, engine.generator.prompt(command))
    return engine.next_id


def ask(engine: Engine, adapters: tuple[AdapterChoice, ...] | None, prompt: str = PROMPT) -> str:
    request = submit(engine, adapters, prompt)
    engine.run()
    return engine.text[request]


def logits(engine: Engine, adapters: tuple[AdapterChoice, ...] | None) -> NDArray[np.float32]:
    """After a prompt, with an empty cache."""
    generator = engine.generator
    generator.scheduler.cache.clear()
    generator.adapters.apply(generator.context.handle, generator.adapters.choose(adapters))
    batch = generator.context.batch
    batch.clear()
    batch.add(np.frombuffer(PROMPT.encode(), np.uint8).astype(np.int32), 0, 0, 1)
    assert generator.context.decode() == 0
    row: NDArray[np.float32] = generator.context.logits(1)[0].copy()
    generator.context.trim(0, 0)
    return row


# --- what they compute -------------------------------------------------------------


def test_scale_0_is_the_base_and_scale_1_the_merged_model(
    base: Path, changes: dict[str, dict[str, Factors]], engine: Engine, tmp_path: Path
) -> None:
    plain = logits(load(base), None)
    assert (logits(engine, ()) == plain).all()
    assert (logits(engine, (AdapterChoice("a", 0.0), AdapterChoice("b", 0.0))) == plain).all()
    for scale in (1.0, -0.5):
        whole = logits(load(merged(tmp_path / f"{scale}.gguf", base, changes["a"], scale)), None)
        changed = logits(engine, (AdapterChoice("a", scale),))
        assert abs(changed - plain).max() > 0.5
        np.testing.assert_allclose(changed, whole, atol=1e-3)
    assert (logits(engine, ()) == plain).all()


def test_several_adapters_add_up(
    base: Path, changes: dict[str, dict[str, Factors]], engine: Engine, tmp_path: Path
) -> None:
    first = merged(tmp_path / "first.gguf", base, changes["a"])
    both = merged(tmp_path / "both.gguf", first, changes["b"], 0.5)
    np.testing.assert_allclose(logits(engine, (A, B)), logits(load(both), None), atol=1e-3)


def test_what_a_model_is_loaded_with_is_the_default(base: Path, files: dict[str, Path]) -> None:
    engine = load(base, files["a"], scale=0.75)
    chosen = engine.generator.adapters
    assert chosen.choose(None) is chosen.choose([AdapterChoice("a", 0.75)])
    assert chosen.choose(None) is chosen.choose([AdapterChoice(0, 0.75)])
    assert chosen.choose([]) is not chosen.choose(None)
    assert [adapter.name for adapter in chosen.loaded] == ["a"]


def test_an_embedding_token_adapter(
    base: Path, tmp_path: Path, changes: dict[str, dict[str, Factors]]
) -> None:
    name = "token_embd.weight"
    a, b = random_factors(base, [name])[name]
    whole = merged(tmp_path / "merged.gguf", base, {name: (a, b)})
    # llama.cpp wants its factors the other way round: rows of the vocabulary are looked up.
    path = lora(tmp_path / "tokens.gguf", {name: (b, np.ascontiguousarray(a.T))})
    engine = load(base, path)
    changed = logits(engine, (AdapterChoice("tokens"),))
    np.testing.assert_allclose(changed, logits(load(whole), None), atol=1e-3)


# --- together ----------------------------------------------------------------------


def test_mixed_requests_answer_as_they_do_alone(
    base: Path, files: dict[str, Path], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [ask(load(base, *files.values()), adapters) for adapters in SETS]
    assert len(set(alone)) == len(SETS)
    monkeypatch.setattr(turns, "SLICE_SECONDS", 0.0)  # change at every step
    for _ in range(2):  # the second time from the cache
        requests = [submit(engine, adapters) for adapters in SETS * 2]
        engine.run()
        assert [engine.text[request] for request in requests] == alone * 2
    assert all(engine.ends[request].cached_tokens for request in requests)
    engine.check_idle()


def test_a_set_never_finds_what_another_computed(engine: Engine) -> None:
    for adapters in SETS:
        request = submit(engine, adapters)
        engine.run()
        assert engine.ends[request].cached_tokens == 0
    for adapters in SETS[1:]:
        request = submit(engine, adapters)
        engine.run()
        assert engine.ends[request].cached_tokens > 32


def test_a_running_set_is_no_leader_of_another(engine: Engine) -> None:
    """Nobody waits for a prefix, or copies it, that is computed with other adapters."""
    requests = [submit(engine, adapters) for adapters in SETS[:4]]
    engine.step()
    assert len(engine.generator.scheduler.running) == 4
    engine.run()
    assert all(engine.ends[request].cached_tokens == 0 for request in requests)


def test_groups_take_turns(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(turns, "monotonic", lambda: now[0])
    sets = SETS[:3]
    requests = [submit(engine, adapters, max_tokens=60) for adapters in sets]
    progress = dict.fromkeys(requests, 0)
    order = []
    for _ in range(60):
        engine.step()
        now[0] += 0.03
        moved = []
        for sequence in engine.generator.scheduler.running:
            if sequence.output_length > progress[sequence.id]:
                progress[sequence.id] = sequence.output_length
                moved.append(sequence.id)
        assert len(moved) == 1  # never two sets in one step
        order += moved
    counts = [order.count(request) for request in requests]
    assert max(counts) - min(counts) <= 4, order
    changes = sum(one != other for one, other in pairwise(order))
    assert changes <= 20  # a turn is several steps
    engine.run()
    assert all(engine.ends[request].output_tokens == 60 for request in requests)


def test_a_group_that_keeps_coming_does_not_starve_another(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(turns, "monotonic", lambda: now[0])
    other = submit(engine, (A,), max_tokens=5)
    for _ in range(200):
        if len(engine.generator.scheduler.running) < 3:
            submit(engine, (), prompt="another", max_tokens=20)
        engine.step()
        now[0] += 0.05
        if other in engine.ends:
            break
    assert engine.ends[other].output_tokens == 5
    engine.run()


# --- what is refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted",
    [
        (AdapterChoice("c"),),
        (AdapterChoice(2),),
        (AdapterChoice(-1),),
        (A, AdapterChoice(0)),
        (AdapterChoice("a", math.nan),),
        (AdapterChoice("a", math.inf),),
        (AdapterChoice("a", 1e9),),
    ],
)
def test_choices_are_checked(engine: Engine, wanted: tuple[AdapterChoice, ...]) -> None:
    request = submit(engine, wanted)
    engine.run()
    error = engine.errors[request]
    assert isinstance(error, InvalidRequest)
    assert error.param == "lora"


def test_a_model_without_adapters_says_so(base: Path) -> None:
    engine = load(base)
    request = submit(engine, (A,))
    engine.run()
    assert "--adapter" in str(engine.errors[request])


def model_of(base: Path) -> Model:
    return Model.load(str(base), read_header(base), LoadConfig(), on_progress=lambda _: None)


def damaged(name: str, shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> dict[str, Factors]:
    return {name: (np.ones(shape_a, np.float32), np.ones(shape_b, np.float32))}


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: None, "cannot be read"),
    "no GGUF": (lambda path: path.write_bytes(b"PK" * 50), "GGUF"),
    "a model": (made_models.llama, "no LoRA adapter"),
    "another kind": (lambda path: lora(path, ok(), kind="control"), "no LoRA adapter"),
    "another architecture": (lambda path: lora(path, ok(), architecture="qwen3"), "'qwen3'"),
    "another size": (lambda path: lora(path, damaged(WEIGHTS[0], (4, 8), (8, 4))), "wrong base"),
    "another weight": (lambda path: lora(path, damaged("blk.9.x", (4, 8), (8, 4))), "wrong base"),
    "nothing in it": (lambda path: lora(path, {}), "changes nothing"),
    # Each of these would end the process: at once, or in the first forward pass.
    "alpha is no float": (
        lambda path: lora(path, ok(), alpha_type=gguf.GGUFValueType.FLOAT64),
        "float32",
    ),
    "ranks differ": (
        lambda path: lora(path, damaged("token_embd.weight", (260, 4), (64, 8))),
        "does not multiply",
    ),
    "too deep": (
        lambda path: lora(path, damaged(WEIGHTS[0], (3, 4, 64), (3, 64, 4))),
        "does not multiply",
    ),
    "integers": (
        lambda path: lora(
            path,
            {WEIGHTS[0]: (np.ones((4, 64), np.int32), np.ones((64, 4), np.int32))},
        ),
        "does not multiply",
    ),
}


def ok() -> dict[str, Factors]:
    return damaged(WEIGHTS[0], (4, 64), (64, 4))


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused(base: Path, tmp_path: Path, case: str) -> None:
    make, text = BAD[case]
    path = tmp_path / "bad.gguf"
    make(path)
    with pytest.raises(LmnbError) as caught:
        Adapters(model_of(base), [LoadAdapter(path=str(path))])
    assert text in str(caught.value)
    assert caught.value.param == "adapters"
    assert caught.value.status == 400


def test_a_cut_file_is_refused(base: Path, files: dict[str, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(files["a"].read_bytes()[:-100])
    with pytest.raises(InvalidModel):
        Adapters(model_of(base), [LoadAdapter(path=str(cut))])


def test_names_must_differ(base: Path, files: dict[str, Path]) -> None:
    twice = [LoadAdapter(path=str(files["a"]))] * 2
    with pytest.raises(InvalidRequest, match="named 'a'"):
        Adapters(model_of(base), twice)
    renamed = [twice[0], LoadAdapter(path=str(files["a"]), name="other")]
    assert Adapters(model_of(base), renamed).names == ["a", "other"]
