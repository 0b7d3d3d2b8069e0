"""LoRA adapters for made models, and the models that have them merged into their weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from lmnb.engine.gguf import read_header

RANK = 4
ALPHA = 8.0
Factors = tuple[NDArray[np.float32], NDArray[np.float32]]


def random_factors(
    base: Path, names: Sequence[str], *, seed: int = 0, size: float = 0.5
) -> dict[str, Factors]:
    """For each weight of `base` the two factors of its change: (rank, inputs), (outputs, rank)."""
    random = np.random.default_rng(seed)
    shapes = {tensor.name: tensor.shape for tensor in read_header(base).tensors}
    factors = {}
    for name in names:
        inputs, outputs = shapes[name]
        a = random.normal(0, inputs**-0.5, (RANK, inputs)).astype(np.float32)
        b = random.normal(0, size, (outputs, RANK)).astype(np.float32)
        factors[name] = (a, b)
    return factors


def lora(
    path: Path,
    factors: Mapping[str, Factors],
    *,
    architecture: str = "llama",
    alpha: float = ALPHA,
    alpha_type: gguf.GGUFValueType = gguf.GGUFValueType.FLOAT32,
    kind: str = "lora",
) -> Path:
    """An adapter file."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    writer.add_key_value("adapter.lora.alpha", alpha, alpha_type)
    for name, (a, b) in factors.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(path: Path, base: Path, factors: Mapping[str, Factors], scale: float = 1.0) -> Path:
    """A copy of `base`, whose weights are F32, with W + scale · alpha / rank · B A for each W."""
    shutil.copy(base, path)
    header = read_header(base)
    for tensor in header.tensors:
        if tensor.name in factors:
            a, b = factors[tensor.name]
            offset = header.data_offset + tensor.offset
            weight = np.memmap(path, np.float32, "r+", offset, tensor.shape[::-1])
            weight += np.float32(scale * ALPHA / RANK) * (b @ a)
            weight.flush()
    return path
