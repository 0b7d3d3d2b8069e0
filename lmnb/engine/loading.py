"""From a `Load` message to an engine that is ready, and what is told of it."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Literal, Protocol

import msgspec
import psutil

from lmnb.engine import native
from lmnb.engine.adapters import Adapters
from lmnb.engine.channel import Channel
from lmnb.engine.config import Estimate, LoadConfig, ModelInfo
from lmnb.engine.context import uses_flash
from lmnb.engine.embed import Embedder
from lmnb.engine.estimate import fit
from lmnb.engine.generator import Generator
from lmnb.engine.gguf import RANK, read_header
from lmnb.engine.model import Model
from lmnb.engine.protocol import Embed, Fits, Generate, Load, LoadProgress, Proceed, Reply, Rerank
from lmnb.engine.rerank import Reranker
from lmnb.engine.spill import open_disk
from lmnb.engine.vocabulary import NOTHING, Vocabulary
from lmnb.engine.watch import Watch

_KINDS: dict[type, Literal["llm", "embedding", "reranker"]] = {
    Generate: "llm",
    Embed: "embedding",
    Rerank: "reranker",
}
_PROGRESS_INTERVAL = 0.05


class Engine(Protocol):
    """What both kinds of engine look like from here. `command` is what they serve."""

    command: ClassVar[type[Generate | Embed | Rerank]]
    model: Model
    context_length: int
    batch_size: int
    parallel: int
    threads: int
    adapters: Adapters
    swa_full: bool
    cache_ram: int

    def prompt(self, command: Any) -> Any:
        """Tokenize; called by the preparing thread."""

    def submit(self, command: Any, prompt: Any) -> None:
        """Queue."""

    def abort(self, request: int) -> None:
        """Drop."""

    def interrupt(self, request: int) -> None:
        """Break off a forward pass; called by the reading thread."""

    def give_up(self) -> None:
        """Break off the forward pass, whosever it is; called by the watching thread."""

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""

    def tidy(self) -> bool:
        """What can wait until nothing else is to be done, piece by piece."""

    def counts(self) -> tuple[int, int, int]:
        """Running, waiting, cached tokens."""

    def step(self) -> list[Reply]:
        """One forward pass."""


def load(command: Load, channel: Channel, watch: Watch) -> tuple[Engine, ModelInfo]:
    """Read the model and make it ready, telling the progress."""
    began = monotonic()
    last = 0.0

    def progress(fraction: float) -> None:
        nonlocal last
        if monotonic() - last >= _PROGRESS_INTERVAL or fraction >= 1:
            last = monotonic()
            channel.send(LoadProgress(fraction))

    header = read_header(Path(command.path))
    if command.only_vocabulary:
        words = Vocabulary(Model.only_vocabulary(command.path, header))
        return words, _describe(words, command.config, NOTHING, monotonic() - began)
    if command.promised is not None:
        fit(Path(command.path), header, command.config, command.promised)
        channel.send(Fits())
        if not isinstance(channel.receive(), Proceed):
            sys.exit(2)
    config, estimate = fit(Path(command.path), header, command.config)
    model = Model.load(command.path, header, config, on_progress=progress)
    engine: Engine
    if header.pooling_type == RANK:
        engine = Reranker(model, config, watch)
    elif header.kind == "embedding":
        engine = Embedder(model, config, watch)
    else:
        disk = open_disk(command, flash=uses_flash(model, config))
        engine = Generator(model, config, watch, disk)
    return engine, _describe(engine, config, estimate, monotonic() - began)


def _describe(engine: Engine, config: LoadConfig, estimate: Estimate, seconds: float) -> ModelInfo:
    model = engine.model
    found = native.devices()
    gpus = [device for device in found if device.type in {"gpu", "igpu"}]
    used = gpus[0] if gpus and model.gpu_layers else found[0]
    final = msgspec.structs.replace(
        config,
        context_length=engine.context_length,
        parallel=engine.parallel,
        eval_batch_size=engine.batch_size,
        gpu_layers=model.gpu_layers,
        experts_on_cpu=estimate.experts_on_cpu,
        threads=engine.threads,
        bf16_weights=model.bf16_weights,
        offload_kv_cache_to_gpu=bool(gpus) and config.offload_kv_cache_to_gpu is not False,
        flash_attention=_flash_attention(engine, config),
        cache_type_k=config.cache_type_k or "f16",
        cache_type_v=config.cache_type_v or "f16",
        adapters=engine.adapters.loaded,
        swa_full=engine.swa_full,
        cache_ram=engine.cache_ram,
    )
    vision = engine.vision if isinstance(engine, Generator) else None
    return ModelInfo(
        architecture=model.header.architecture,
        kind=_KINDS[engine.command],
        context_length=engine.context_length,
        trained_context_length=model.trained_context_length,
        vocab_size=model.n_vocab,
        embedding_length=model.embedding_length,
        layers=model.layers,
        gpu_layers=model.gpu_layers,
        devices=found,
        device=used.description or used.name,
        chat_templates=model.header.chat_templates,
        bos_text=model.text(model.bos),
        eos_text=model.text(model.eos),
        adds_bos=model.adds_bos,
        sampling=model.author_sampling,
        config=final,
        estimate=estimate,
        memory=psutil.Process().memory_info().rss,
        load_seconds=seconds,
        system_info=native.system_info(),
        sees=vision is not None and vision.sees,
        hears=vision is not None and vision.hears,
        control_tokens=model.control_tokens,
        end_tokens=tuple(sorted(model.end_tokens)),
        infill=model.infill,
    )


def _flash_attention(engine: Engine, config: LoadConfig) -> bool | None:
    """Whether it is on; None where llama.cpp decides by device and does not tell."""
    if config.flash_attention is not None or not isinstance(engine, Generator):
        return config.flash_attention
    if not engine.context.flash_attention:
        return False
    return None if engine.model.gpu_layers else True  # every CPU has it
