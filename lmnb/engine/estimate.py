"""What a model is going to take, before it is loaded, and options with which it fits.

`python -m lmnb.engine.estimate PATH OPTIONS` prints an `Estimate` as JSON.

The weights are the tensors the file lists. Everything else is llama.cpp's own reckoning: it reads
the file without its weights (`no_alloc`), makes contexts without memory, and logs how large their
caches and compute buffers would be. So it is right for every architecture, whatever kind of memory
it has: plain, windowed, compressed, recurrent.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil

from lmnb.engine import bf16, native, placement
from lmnb.engine.config import Estimate, LoadConfig
from lmnb.engine.context import create, parameters
from lmnb.engine.embed import batch_tokens, longest_text
from lmnb.engine.gguf import Header, TensorInfo, read_header, split_paths
from lmnb.engine.host_memory import free_memory
from lmnb.engine.lanes import LANE_TOKENS, lane_count
from lmnb.engine.lanes import parameters as lane_parameters
from lmnb.engine.model import open_file
from lmnb.engine.native import L
from lmnb.engine.projector import find_projector
from lmnb.engine.protocol import Memory
from lmnb.errors import LmnbError, ModelLoadFailed

SMALLEST_CONTEXT = 4096
"""Tokens below which a context is not made smaller by itself."""
_SHARE_OF_FREE = 0.9
_WINDOW_SHARE = 32
"""Sliding-window models keep all keys if their cache is at most this fraction of the memory."""
_PIECE_BYTES = 150
"""Of host memory per token of a vocabulary: the bytes objects and the set of `Model`."""

_LARGEST_PROBE = 1 << 16
"""Tokens of a slot up to which it is tried; beyond that sizes grow in proportion. llama.cpp's books of
the cells are no part of `no_alloc`, and those of a senseless length would not fit into memory."""

_CACHE = re.compile(r"(?:llama_kv_cache|llama_memory_recurrent)\w*: size =\s*([\d.]+) MiB")
_COMPUTE = re.compile(r"(\S+) compute buffer size =\s*([\d.]+) MiB")
_MIB = 1 << 20


class Sizes(NamedTuple):
    """Of the contexts of a model, in bytes."""

    cache: int
    compute: int
    gpu_compute: int


class _Draft(NamedTuple):
    weights: int
    sizes: Sizes
    vocabulary: int


_NO_DRAFT = _Draft(0, Sizes(0, 0, 0), 0)
_NONE = Memory()


class Probe:
    """A model without its weights: vocabulary, hyperparameters, and contexts that take no memory."""

    def __init__(self, path: Path, header: Header, config: LoadConfig) -> None:
        before = _resident()
        self.path, self.header = path, header
        params = placement.parameters(header, config)
        params.load_mtp = placement.predicts_ahead(path, header, config)
        params.no_alloc, params.load_mode = True, 0
        self.handle = open_file(str(path), params)
        self.layers: int = L.llama_model_n_layer(self.handle)
        wanted: int = params.n_gpu_layers
        self.gpu_layers = self.layers + 1 if wanted < 0 else min(wanted, self.layers + 1)
        self.n_vocab: int = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.handle))
        self.vocabulary = max(0, _resident() - before) + _PIECE_BYTES * self.n_vocab

    def close(self) -> None:
        """Give the memory back."""
        L.llama_model_free(self.handle)

    def sizes(self, config: LoadConfig) -> Sizes:
        """What the contexts for these options would take."""
        if self.header.kind == "embedding":
            return self._lanes(config)
        params = parameters(self, config)
        length = params.n_ctx // params.n_seq_max
        sizes = self._sizes(params, min(length, _LARGEST_PROBE))
        if length > _LARGEST_PROBE:
            half = self._sizes(params, _LARGEST_PROBE // 2)
            steps = 2 * (length - _LARGEST_PROBE) / _LARGEST_PROBE
            pairs = zip(sizes, half, strict=True)
            sizes = Sizes(*(whole + int(steps * (whole - part)) for whole, part in pairs))
        outputs = 4 * self.n_vocab * max(params.n_outputs_max, params.n_seq_max)
        return sizes._replace(compute=sizes.compute + outputs)

    def _sizes(self, params: Any, length: int) -> Sizes:
        """Of a context whose slots have this length."""
        params.n_ctx = length * params.n_seq_max
        sizes, _ = self._context(params)
        return sizes

    def _lanes(self, config: LoadConfig) -> Sizes:
        capacity = batch_tokens(self, config)
        params = lane_parameters(self, config, capacity)
        first, has_memory = self._context(params)
        count = lane_count(self, config, params.n_threads, has_memory=has_memory) - 1
        row = 4 * (self.n_vocab + int(L.llama_model_n_embd_out(self.handle)))
        compute = first.compute + row * params.n_ctx
        if count:
            params = lane_parameters(self, config, min(capacity, LANE_TOKENS))
            other, _ = self._context(params)
            compute += count * (other.compute + row * params.n_ctx)
        return first._replace(compute=compute)

    def _context(self, params: Any) -> tuple[Sizes, bool]:
        native.log.lines.clear()
        handle = create(self, params)
        has_memory = bool(L.llama_get_memory(handle))
        L.llama_free(handle)
        lines = [line for _, line in native.log.lines]
        caches = [float(found[1]) for line in lines if (found := _CACHE.search(line))]
        buffers = [
            (found[1], float(found[2])) for line in lines if (found := _COMPUTE.search(line))
        ]
        on_gpu = sum(size for device, size in buffers if not _is_host(device))
        compute = sum(size for _, size in buffers)
        return Sizes(int(sum(caches) * _MIB), int(compute * _MIB), int(on_gpu * _MIB)), has_memory


def _is_host(device: str) -> bool:
    return device == "CPU" or device.endswith("_Host")


def fit(
    path: Path, header: Header, config: LoadConfig, promised: Memory = _NONE
) -> tuple[LoadConfig, Estimate]:
    """Options with which the model fits into what is free, and what it takes then.

    What is `promised` counts as free.

    What `config` leaves open is made smaller until it fits: first the slots, then the context (down
    to `SMALLEST_CONTEXT`), then experts move to the CPU, then layers. What it gives is never changed.

    Raises
    ------
    ModelLoadFailed
        It does not fit. The message has the figures.
    """
    base = _resident()
    tensors = [tensor for part in split_paths(path) for tensor in _tensors(part, path, header)]
    projector = _projector(path, config) if header.kind == "llm" else 0
    chosen = config
    probe = Probe(path, header, chosen)
    try:
        if config.swa_full is None and header.kind == "llm":
            most = psutil.virtual_memory().total // _WINDOW_SHARE
            keeps = probe.sizes(config).cache <= most
            chosen = msgspec.structs.replace(config, swa_full=keeps)
        while True:
            estimate = _estimate(probe, chosen, tensors, base, projector, promised)
            short = _shortage(estimate)
            if short is None:
                return chosen, estimate
            smaller = _smaller(config, chosen, estimate, header, short)
            if smaller is None:
                raise _does_not_fit(estimate, short, promised)
            placed = (smaller.gpu_layers, smaller.experts_on_cpu)
            if placed != (chosen.gpu_layers, chosen.experts_on_cpu):
                probe.close()
                probe = Probe(path, header, smaller)
            chosen = smaller
    finally:
        probe.close()


def _projector(path: Path, config: LoadConfig) -> int:
    """Bytes of the encoder for images, with its buffers. The fifth is a guess from experience."""
    wanted = config.projector
    found = Path(wanted) if wanted not in {None, "none"} else None
    if wanted is None:
        found = find_projector(path)
    return int(1.2 * found.stat().st_size) if found and found.is_file() else 0


def _tensors(part: Path, first: Path, header: Header) -> tuple[TensorInfo, ...]:
    return header.tensors if part == first else read_header(part).tensors


def _estimate(
    probe: Probe,
    config: LoadConfig,
    tensors: list[TensorInfo],
    base: int,
    projector: int,
    promised: Memory,
) -> Estimate:
    sizes = probe.sizes(config)
    experts = placement.expert_layers(probe.header, config)
    offloaded = min(probe.gpu_layers, probe.layers) / max(1, probe.layers)
    with_cache = offloaded if config.offload_kv_cache_to_gpu is not False else 0.0
    on_gpu = sum(tensor.size or 0 for tensor in tensors if _is_on_gpu(tensor, probe, experts))
    embeds = probe.header.kind == "embedding"
    draft = _draft(config) if config.draft_model else _NO_DRAFT
    if placement.predicts_ahead(
        probe.path, probe.header, config
    ):  # a context of its own, with one layer
        draft = _Draft(0, Sizes(sizes.cache // probe.layers, sizes.compute, 0), 0)
    length, parallel = longest_text(probe, config), 1
    if not embeds:
        params = parameters(probe, config)
        length, parallel = params.n_ctx // params.n_seq_max, params.n_seq_max
    grows = bf16.growth(bf16.wanted(probe.header, config, probe.gpu_layers))
    return Estimate(
        weights=sum(tensor.size or 0 for tensor in tensors) + grows + draft.weights + projector,
        cache=sizes.cache + draft.sizes.cache,
        compute=sizes.compute + draft.sizes.compute,
        other=base + probe.vocabulary + draft.vocabulary,
        gpu=on_gpu + int(sizes.cache * with_cache) + sizes.gpu_compute,
        free=free_memory() + base + promised.host,
        gpu_free=sum(device.memory_free for device in placement.gpus(config)) + promised.gpu,
        context_length=length,
        parallel=parallel,
        gpu_layers=probe.gpu_layers,
        experts_on_cpu=experts,
    )


def _draft(config: LoadConfig) -> _Draft:
    """What the draft model adds; see `draft_model.DraftModel`. On a GPU it is not counted apart."""
    path = Path(config.draft_model or "")
    header = read_header(path)
    same = msgspec.structs.replace(config, num_experts=None, experts_on_cpu=None, draft_model=None)
    probe = Probe(path, header, same)
    try:
        weights = sum(read_header(part).tensor_bytes for part in split_paths(path))
        return _Draft(weights, probe.sizes(same), probe.vocabulary)
    finally:
        probe.close()


def _is_on_gpu(tensor: TensorInfo, probe: Probe, experts: int) -> bool:
    """llama.cpp puts the last layers on the GPU first, and the output after all layers."""
    if not probe.gpu_layers:
        return False
    block = re.match(r"blk\.(\d+)\.", tensor.name)
    if block is None:
        return probe.gpu_layers > probe.layers and not tensor.name.startswith("token_embd")
    layer = int(block[1])
    if layer < experts and re.search(placement.EXPERTS, tensor.name):
        return False
    first: int = probe.layers + 1 - probe.gpu_layers
    return layer >= first


def _shortage(estimate: Estimate) -> str | None:
    """Where it does not fit: `GPU`, `host`, or nowhere."""
    if estimate.gpu > estimate.gpu_free * _SHARE_OF_FREE:
        return "GPU"
    if estimate.total - estimate.gpu > estimate.free * _SHARE_OF_FREE:
        return "host"
    return None


def _smaller(
    asked: LoadConfig, now: LoadConfig, estimate: Estimate, header: Header, short: str
) -> LoadConfig | None:
    """The next smaller thing to try, or None."""
    replace = msgspec.structs.replace
    if header.kind != "embedding":
        if asked.parallel is None and estimate.parallel > 1:
            return replace(now, parallel=estimate.parallel - 1)
        if asked.context_length is None and estimate.context_length > SMALLEST_CONTEXT:
            length = max(SMALLEST_CONTEXT, estimate.context_length // 2)
            return replace(now, context_length=length)
    if short == "host" or not estimate.gpu_layers:
        return None
    layers = header.integer(f"{header.architecture}.block_count") or 0
    has_experts = header.integer(f"{header.architecture}.expert_count")
    if asked.experts_on_cpu is None and has_experts and estimate.experts_on_cpu < layers:
        return replace(now, experts_on_cpu=min(layers, estimate.experts_on_cpu + -(-layers // 8)))
    if asked.gpu_layers is None:
        return replace(now, gpu_layers=max(0, estimate.gpu_layers - -(-layers // 16)))
    return None


def _does_not_fit(estimate: Estimate, short: str, promised: Memory) -> ModelLoadFailed:
    needed = estimate.gpu if short == "GPU" else estimate.total - estimate.gpu
    free = estimate.gpu_free if short == "GPU" else estimate.free
    where = "GPU memory" if short == "GPU" else "memory"
    are_free = "are free" if promised == _NONE else "would be free without the models it replaces"
    parts = [
        f"{name} {_gb(value)}"
        for name, value in (
            ("weights", estimate.weights),
            (f"cache of {estimate.parallel} x {estimate.context_length} tokens", estimate.cache),
            ("forward passes", estimate.compute),
            ("the rest", estimate.other),
        )
    ]
    return ModelLoadFailed(
        f"The model would need {_gb(needed)} of {where}, and "
        f"{_gb(free)} {are_free} ({', '.join(parts)}).",
        hint="Load it with a smaller context_length, parallel or gpu_layers, with cache_type_k and "
        "cache_type_v q8_0, or unload another model.",
        param="context_length",
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def _resident() -> int:
    size: int = psutil.Process().memory_info().rss
    return size


def main() -> None:
    """Entry point. The last line is the answer: an `Estimate`, or `{"error": …}`."""
    path = Path(sys.argv[1])
    try:
        native.init(lambda text: print(text, file=sys.stderr))  # noqa: T201
        config = msgspec.json.decode(sys.argv[2], type=LoadConfig)
        _, estimate = fit(path, read_header(path), config)
        answer = {**msgspec.structs.asdict(estimate), "total": estimate.total}
    except LmnbError as error:
        answer = {"error": error.to_dict()}
    print(msgspec.json.encode(answer).decode())  # noqa: T201
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
