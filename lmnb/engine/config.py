"""How a model is loaded, and what came of it."""

from __future__ import annotations

from typing import Literal

import msgspec


class LoadAdapter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA adapter to load with a model: a GGUF file, and the scale requests get by default.

    `name`, by which requests can choose it, is that of the file unless given.
    """

    path: str
    scale: float = 1.0
    name: str | None = None


class LoadConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to load a model. `None` lets the engine choose.

    context_length
        Tokens a prompt and its answer may have together; default min(trained context, 8192).
    parallel
        Sequences decoded together, each with room for a whole context; the rest waits. Default 4,
        fewer where so many do not fit the free memory.
    eval_batch_size
        Most tokens of one forward pass (llama.cpp's n_ubatch); default 512, 256 without flash attention.
    gpu_layers
        Layers on the GPU; -1 is all; default all if the build can offload, else 0.
    experts_on_cpu
        Of a mixture of experts: keep the experts of this many layers, from the first, in host memory,
        the rest of them on the GPU; -1 is all layers; default 0, more where they do not fit.
    devices
        Names of the GPUs to use, in this order; default all.
    split_mode
        How several GPUs share a model: none (the first takes all), layer (default), row, tensor.
    tensor_split
        Shares of the model for each of the devices, in any unit; default by their free memory.
    flash_attention
        Default on a GPU as llama.cpp decides, on a CPU where a short measurement finds it fast.
    bf16_weights
        Hold weights of F16, and quantised ones, as BF16. Default for embedding models of F16, on CPUs
        that multiply these faster. A chat model reads prompts and answers many requests up to twice
        as fast there, for two to four times the memory and a slower answer to one alone.
    cache_type_k, cache_type_v
        KV cache element type: f16 (default), bf16, f32, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl.
        A quantised `cache_type_v` needs flash attention.
    swa_full
        Sliding-window models: keep the keys of the whole context in all layers, so that any prefix
        can be reused, not only those with a checkpoint. Default: where the KV cache is then at most
        1/32 of the memory.
    cache_ram
        Bytes of host memory for prefixes that have lost their slot, and for checkpoints; default
        1/16 of the memory; 0 keeps none.
    threads
        CPU threads; default as many as there are physical cores that others leave free, watched
        all the time.
    adapters
        LoRA adapters that requests can choose from. Those at a scale other than 0 apply to every
        request that chooses none.
    draft_model
        A smaller model that drafts for this one, in requests that name no other: for the worker
        its path, for everyone else its name.
    draft_tokens
        Length of the drafts that are verified in one forward pass; 0 turns speculation off, default
        as long as measured to pay.
    projector
        File with the encoder for images and sounds (mmproj); default the one that lies beside the
        model. "none" is without, which saves its memory.
    """

    context_length: int | None = None
    parallel: int | None = None
    eval_batch_size: int | None = None
    gpu_layers: int | None = None
    experts_on_cpu: int | None = None
    devices: tuple[str, ...] | None = None
    split_mode: Literal["none", "layer", "row", "tensor"] | None = None
    tensor_split: tuple[float, ...] | None = None
    flash_attention: bool | None = None
    bf16_weights: bool | None = None
    offload_kv_cache_to_gpu: bool | None = None
    num_experts: int | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    swa_full: bool | None = None
    cache_ram: int | None = None
    threads: int | None = None
    adapters: tuple[LoadAdapter, ...] | None = None
    draft_model: str | None = None
    draft_tokens: int | None = None
    projector: str | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A compute device as ggml sees it. Memory in bytes."""

    name: str
    description: str
    type: Literal["cpu", "gpu", "igpu", "accel"]
    memory_total: int
    memory_free: int


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is going to take, in bytes, and the options it was reckoned with.

    weights
        All tensors of all files, those of a draft model and a projector among them.
    cache
        KV cache and recurrent state of all slots.
    compute
        What a forward pass of the largest size needs, results included.
    other
        The vocabulary and the process itself.
    gpu
        The part of all this that lies on GPUs.
    free, gpu_free
        What there was, on the host and on the GPUs that are to be used.
    """

    weights: int
    cache: int
    compute: int
    other: int
    gpu: int
    free: int
    gpu_free: int
    context_length: int
    parallel: int
    gpu_layers: int
    experts_on_cpu: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.compute + self.other


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of the model it has loaded.

    `estimate` is what it was expected to take before it was loaded.
    `config` is the final configuration, every field set. `memory` is the resident set of the
    worker in bytes. `chat_templates` maps `default` and names such as `tool_use` to Jinja text.
    `bos_text`, `eos_text` are the texts of those tokens, for the template; `sampling` holds the
    defaults the author wrote into the file (general.sampling.*), in `Sampling`'s names. `sees`,
    `hears`: prompts may have images, sounds. `control_tokens` are the tokens of the vocabulary that
    no text can spell, by their text; `end_tokens` are those that end the answer. `infill` are the
    tokens, by their text, before a text's beginning, before its end, and before the middle that the
    model is to write; empty if it cannot.
    """

    architecture: str
    kind: Literal["llm", "embedding", "reranker"]
    context_length: int
    trained_context_length: int
    vocab_size: int
    embedding_length: int
    layers: int
    gpu_layers: int
    devices: tuple[Device, ...]
    device: str
    chat_templates: dict[str, str]
    bos_text: str
    eos_text: str
    adds_bos: bool
    sampling: dict[str, float]
    config: LoadConfig
    estimate: Estimate
    memory: int
    load_seconds: float
    system_info: str
    sees: bool = False
    hears: bool = False
    control_tokens: dict[str, int] = {}
    end_tokens: tuple[int, ...] = ()
    infill: tuple[str, ...] = ()
