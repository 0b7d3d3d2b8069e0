"""What a model is going to take, against what it takes then; and what is done if that is too much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_models
import pytest

from lmnb.engine import estimate, native, placement
from lmnb.engine.client import Worker
from lmnb.engine.config import Device, Estimate, LoadConfig
from lmnb.engine.estimate import SMALLEST_CONTEXT, fit
from lmnb.engine.gguf import read_header
from lmnb.engine.protocol import Generate
from lmnb.errors import InvalidRequest, ModelLoadFailed

GB = 1 << 30


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


async def used(worker: Worker) -> int:
    """The worker's memory after a forward pass of the largest size in every slot."""
    info = worker.info
    if info.kind == "embedding":
        longest = "river stone " * info.context_length
        await worker.embed([longest] * 4, truncate=True)
        await worker.embed(["river stone " * 20] * 30, truncate=True)
    else:
        size = min(info.config.eval_batch_size or 0, info.context_length - 8)

        async def fill(slot: int) -> None:
            tokens = tuple(32 + (slot + 7 * place) % 90 for place in range(size))
            async for _ in worker.generate(Generate(id=0, tokens=tokens, max_tokens=2)):
                pass

        await asyncio.gather(*(fill(slot) for slot in range(info.config.parallel or 0)))
    return (await worker.ping()).memory


def check(path: Path, config: LoadConfig) -> None:
    async def main() -> None:
        worker = await Worker.start(path, config)
        try:
            measured = await used(worker)
        finally:
            await worker.stop()
        expected = worker.info.estimate.total
        assert abs(expected - measured) <= 0.1 * measured, (expected, measured)

    asyncio.run(main())


@pytest.mark.parametrize(
    "options",
    [
        {"context_length": 2048, "parallel": 1},
        {"context_length": 1024, "parallel": 2, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
        {"context_length": 4096, "parallel": 2, "flash_attention": True},
    ],
)
def test_a_chat_model_takes_what_was_expected(
    chat_model_path: Path, options: dict[str, Any]
) -> None:
    check(chat_model_path, LoadConfig(**options))


@pytest.mark.parametrize("length", [None, 128])
def test_an_embedding_model_takes_what_was_expected(
    embedding_model_path: Path, length: int | None
) -> None:
    check(embedding_model_path, LoadConfig(context_length=length, threads=2))


@pytest.mark.parametrize(
    "make", [made_models.gemma3, made_models.mla, made_models.mamba, made_models.jamba]
)
def test_every_kind_of_memory_takes_what_was_expected(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    check(make(tmp_path / "made.gguf"), LoadConfig(context_length=1024, parallel=4))


@pytest.mark.parametrize(
    ("make", "row", "state"),
    [
        # Bytes of a cell in f16, of a slot's recurrent state: from the shapes in `made_models`.
        (made_models.llama, 2 * (64 + 64) * 2, 0),
        (made_models.gemma3, 4 * (64 + 64) * 2, 0),  # the windowed layers keep everything, too
        (made_models.mla, 2 * 64 * 2, 0),
    ],
)
def test_the_cache_is_that_of_the_architecture(
    make: Callable[..., Path], row: int, state: int, tmp_path: Path
) -> None:
    path = make(tmp_path / "made.gguf")
    header = read_header(path)
    for length, parallel in ((1024, 1), (4096, 8)):
        _, found = fit(path, header, LoadConfig(context_length=length, parallel=parallel))
        assert found.cache == pytest.approx((row * length + state) * parallel, rel=0.01, abs=6000)
        assert found.weights == sum(tensor.size or 0 for tensor in header.tensors)


# --- fitting -----------------------------------------------------------------------------


def llama_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: Callable[[Estimate], float], **given: Any
) -> tuple[LoadConfig, Estimate]:
    """The fit of a model where only so much memory is free, as a function of what it takes at ease."""
    path = made_models.llama(tmp_path / "llama.gguf", layers=8, context=32768)
    header = read_header(path)
    _, ease = fit(path, header, LoadConfig(**given))
    base = estimate._resident()
    monkeypatch.setattr(estimate, "free_memory", lambda: int(free(ease) / 0.9) - base)
    return fit(path, header, LoadConfig(**given))


def test_slots_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, found = llama_with(tmp_path, monkeypatch, lambda e: e.total - 0.4 * e.cache)
    assert (found.context_length, found.parallel) == (8192, 2)
    assert config.parallel == 2


def test_then_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, found = llama_with(tmp_path, monkeypatch, lambda e: e.total - 0.8 * e.cache)
    assert (found.context_length, found.parallel) == (SMALLEST_CONTEXT, 1)
    assert config.context_length == SMALLEST_CONTEXT


def test_what_was_asked_for_is_never_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = llama_with(
        tmp_path, monkeypatch, lambda e: e.total - 0.4 * e.cache, context_length=20000
    )
    assert (found.context_length, found.parallel) == (20000, 2)
    with pytest.raises(ModelLoadFailed, match=r"cache of 3 x 20000 tokens [\d.]+ GB") as failure:
        llama_with(
            tmp_path,
            monkeypatch,
            lambda e: e.total - 0.1 * e.cache,
            context_length=20000,
            parallel=3,
        )
    assert "are free" in str(failure.value)


def test_what_cannot_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadFailed, match=r"memory, and .* are free"):
        llama_with(tmp_path, monkeypatch, lambda e: e.weights)


# --- where the weights go ----------------------------------------------------------------


def test_experts_on_the_cpu_load_and_are_counted(tmp_path: Path) -> None:
    path = made_models.experts(tmp_path / "experts.gguf")
    for given, counted in ((None, 0), (0, 0), (1, 1), (-1, 2)):
        _, found = fit(path, read_header(path), LoadConfig(experts_on_cpu=given))
        assert found.experts_on_cpu == counted
    check(path, LoadConfig(experts_on_cpu=-1, context_length=512, parallel=1))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"experts_on_cpu": 3}, "experts_on_cpu must lie between 0 and 2"),
        ({"experts_on_cpu": -2}, "experts_on_cpu must lie between 0 and 2"),
        ({"devices": ("CUDA9",)}, "devices must name GPUs"),
        ({"devices": ()}, "devices must name GPUs"),
        ({"tensor_split": (1.0, 1.0)}, "tensor_split has 2 shares"),
    ],
)
def test_wrong_places_are_refused(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    path = made_models.experts(tmp_path / "experts.gguf")
    with pytest.raises(InvalidRequest, match=named):
        placement.parameters(read_header(path), LoadConfig(**options))


def test_experts_of_a_model_without_are_refused(tmp_path: Path) -> None:
    path = made_models.llama(tmp_path / "llama.gguf")
    with pytest.raises(InvalidRequest, match="no mixture of experts"):
        placement.parameters(read_header(path), LoadConfig(experts_on_cpu=-1))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ggml saw two GPUs. Nothing can be loaded onto them."""
    gpus = tuple(
        Device(
            name=f"GPU{number}", description="", type="gpu", memory_total=8 * GB, memory_free=4 * GB
        )
        for number in range(2)
    )
    monkeypatch.setattr(native, "devices", lambda: gpus)
    monkeypatch.setattr(native, "supports_gpu_offload", lambda: True)
    monkeypatch.setattr(native, "device_handles", lambda: {"GPU0": 16, "GPU1": 32})


@pytest.mark.usefixtures("two_gpus")
def test_devices_and_shares_reach_llama_cpp(tmp_path: Path) -> None:
    header = read_header(made_models.llama(tmp_path / "llama.gguf"))
    config = LoadConfig(devices=("GPU1", "GPU0"), tensor_split=(3, 1), split_mode="row")
    params = placement.parameters(header, config)
    assert list(params.keep_alive[0]) == [32, 16, None]
    assert params.tensor_split[0:3] == [3, 1, 0]
    assert (params.split_mode, params.n_gpu_layers) == (2, -1)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"devices": ("GPU0", "GPU0")}, "each once"),
        ({"tensor_split": (1.0,)}, "1 shares; there are 2 GPUs"),
        ({"tensor_split": (0.0, 0.0)}, "not all of them 0"),
        ({"tensor_split": (-1.0, 2.0)}, "at least 0"),
        ({"tensor_split": (float("nan"), 2.0)}, "at least 0"),
        ({"devices": ("GPU0",), "tensor_split": (1.0,)}, "1 GPUs"),
    ],
)
def test_wrong_shares_are_refused(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    header = read_header(made_models.llama(tmp_path / "llama.gguf"))
    with pytest.raises(InvalidRequest, match=named):
        placement.parameters(header, LoadConfig(**options))


def test_sizes_beyond_what_is_tried_grow_in_proportion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made_models.llama(tmp_path / "llama.gguf", context=32768)
    header = read_header(path)
    config = LoadConfig(context_length=32768, parallel=2, flash_attention=True)
    _, tried = fit(path, header, config)
    monkeypatch.setattr(estimate, "_LARGEST_PROBE", 4096)
    _, extrapolated = fit(path, header, config)
    assert extrapolated.cache == pytest.approx(tried.cache, rel=0.01)
    assert extrapolated.compute == pytest.approx(tried.compute, rel=0.05)
