"""Where the weights of a model go: layers and experts on GPUs or in host memory."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

from lmnb.engine import native
from lmnb.engine.config import Device, LoadConfig
from lmnb.engine.gguf import Header, read_header, split_paths
from lmnb.engine.native import L
from lmnb.errors import InvalidRequest

_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
"""llama.h, enum llama_split_mode."""
EXPERTS = r"ffn_(up|down|gate|gate_up)_(ch|)exps"
"""Tensors of experts (llama.cpp, common/common.h, LLM_FFN_EXPS_REGEX)."""
_PREDICTING = frozenset({"glm4moe"})
"""Architectures whose layer for multi-token prediction is used: those it was tried with. llama.cpp
asserts on layers that it does not know."""


def parameters(header: Header, config: LoadConfig) -> Any:
    """llama.cpp's parameters for loading a model.

    Raises
    ------
    InvalidRequest
        An option is out of range, or needs what this machine or model does not have.
    """
    params = L.llama_model_default_params()
    params.n_gpu_layers = _gpu_layers(config)
    params.use_extra_bufts = native.extra_buffers_work(header)
    keep: list[Any] = []
    if (overrides := _overrides(header, config)) is not None:
        params.kv_overrides = overrides
    if config.devices is not None:
        handles = native.device_handles()
        chosen = [handles[device.name] for device in gpus(config)]
        keep.append((ctypes.c_void_p * (len(chosen) + 1))(*chosen, None))
        params.devices = ctypes.cast(keep[-1], ctypes.c_void_p)
    if config.split_mode is not None:
        params.split_mode = _split_mode(config.split_mode)
    if config.tensor_split is not None:
        keep.append(_tensor_split(config))
        params.tensor_split = keep[-1]
    if patterns := _patterns(header, config):
        keep.append(_buffers(patterns))
        params.tensor_buft_overrides = ctypes.cast(keep[-1], ctypes.c_void_p)
    params.keep_alive = keep  # llama.cpp reads them while loading
    return params


def predicts_ahead(path: Path, header: Header, config: LoadConfig) -> bool:
    """Whether a layer for multi-token prediction is loaded: it is there, can be used, and is wanted."""
    layers = header.integer(f"{header.architecture}.nextn_predict_layers")
    is_wanted = config.draft_tokens != 0 and config.draft_model is None
    if header.architecture not in _PREDICTING or layers != 1 or not is_wanted:
        return False
    # A file may announce the layer and not have it; of several files it is in the last.
    last = split_paths(path)[-1]
    tensors = header.tensors if last == path else read_header(last).tensors
    return any(".nextn.eh_proj" in tensor.name for tensor in tensors)


def gpus(config: LoadConfig) -> list[Device]:
    """The GPUs to use.

    Raises
    ------
    InvalidRequest
        `devices` names one there is not.
    """
    if not native.supports_gpu_offload():
        found = []
    else:
        found = [device for device in native.devices() if device.type in {"gpu", "igpu"}]
    if config.devices is None:
        return found
    by_name = {device.name: device for device in found}
    wrong = [name for name in config.devices if name not in by_name]
    if wrong or not config.devices or len(set(config.devices)) != len(config.devices):
        there = f"has {', '.join(by_name)}" if by_name else "sees no GPU"
        raise InvalidRequest(
            f"devices must name GPUs, each once; llama.cpp {there} here.", param="devices"
        )
    return [by_name[name] for name in config.devices]


def expert_layers(header: Header, config: LoadConfig) -> int:
    """The number of layers, from the first, whose experts are to stay in host memory.

    Raises
    ------
    InvalidRequest
        It is out of range, or the model has no experts.
    """
    wanted = config.experts_on_cpu or 0
    if not wanted:
        return 0
    if not header.integer(f"{header.architecture}.expert_count"):
        raise InvalidRequest(
            "experts_on_cpu: this model is no mixture of experts.", param="experts_on_cpu"
        )
    layers = header.integer(f"{header.architecture}.block_count") or 0
    if not -1 <= wanted <= layers:
        raise InvalidRequest(
            f"experts_on_cpu must lie between 0 and {layers} for this model, or be -1 for all.",
            param="experts_on_cpu",
        )
    return layers if wanted < 0 else wanted


def _gpu_layers(config: LoadConfig) -> int:
    if config.gpu_layers is not None and config.gpu_layers < -1:
        raise InvalidRequest("gpu_layers must be -1 (all) or more.", param="gpu_layers")
    if not native.supports_gpu_offload():
        return 0
    return -1 if config.gpu_layers is None else config.gpu_layers


def _split_mode(name: str) -> int:
    if name not in _SPLIT_MODES:
        raise InvalidRequest(
            f"split_mode must be one of {', '.join(_SPLIT_MODES)}, not {name!r}.",
            param="split_mode",
        )
    return _SPLIT_MODES[name]


def _tensor_split(config: LoadConfig) -> Any:
    shares = config.tensor_split or ()
    there = gpus(config)
    if len(shares) != len(there) or len(there) < 2:
        raise InvalidRequest(
            f"tensor_split has {len(shares)} shares; there are {len(there)} GPUs to split between.",
            param="tensor_split",
        )
    if not all(math.isfinite(share) and share >= 0 for share in shares) or not any(shares):
        raise InvalidRequest(
            "tensor_split must be numbers of at least 0, not all of them 0.", param="tensor_split"
        )
    array = (ctypes.c_float * L.llama_max_devices())()
    array[: len(shares)] = shares
    return array


def _patterns(header: Header, config: LoadConfig) -> list[bytes]:
    layers = expert_layers(header, config)
    if config.experts_on_cpu == -1:
        return [rf"\.{EXPERTS}".encode()]
    return [rf"blk\.{layer}\.{EXPERTS}".encode() for layer in range(layers)]


class _BufferOverride(ctypes.Structure):
    """llama.h, struct llama_model_tensor_buft_override."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


def _buffers(patterns: list[bytes]) -> Any:
    host = native.host_buffers()
    array = (_BufferOverride * (len(patterns) + 1))()
    for index, pattern in enumerate(patterns):
        array[index] = _BufferOverride(pattern, host)
    return array


def _overrides(header: Header, config: LoadConfig) -> Any:
    """The metadata overrides llama.cpp takes, ended by an empty one."""
    if config.num_experts is None:
        return None
    available = header.metadata.get(f"{header.architecture}.expert_count", 0)
    assert isinstance(available, int)
    if not 1 <= config.num_experts <= available:  # llama.cpp asserts this while loading
        raise InvalidRequest(
            f"num_experts must lie between 1 and {available} for this model."
            if available
            else "num_experts: this model has no experts.",
            param="num_experts",
        )
    array = (L.llama_model_kv_override * 2)()
    array[0].tag = 0  # integer
    array[0].key = f"{header.architecture}.expert_used_count".encode()
    array[0].value.val_i64 = config.num_experts
    return array
