"""The messages between the server and a worker: length-prefixed msgpack over a socketpair.

The worker is started with nothing but the file descriptor; `Load` is the first
message it gets, `Ready` or `Failed` its answer (with memory that is `promised`, `Fits` and
`Proceed` come between). After that both sides speak
freely, each reply carrying the `id` of its request. End of file is the end.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

# --- values -----------------------------------------------------------------


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Prompt text. With `special`, control tokens written in it are read as control tokens.

    `media`: an image or a sound that stands here instead, the bytes of its file.
    """

    text: str
    special: bool = False
    media: bytes | None = None


class LoadAdapter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA adapter to load with a model: a GGUF file, and the scale requests get by default.

    `name`, by which requests can choose it, is that of the file unless given.
    """

    path: str
    scale: float = 1.0
    name: str | None = None


class AdapterChoice(msgspec.Struct, frozen=True, array_like=True):
    """An adapter a request uses, by name or number, and how strongly. Scale 0 is not at all."""

    adapter: str | int
    scale: float = 1.0


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
        Embedding models: hold weights of F16 as BF16. Default on CPUs that multiply these faster.
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


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampling with every value filled in. The defaults are llama.cpp's server's.

    Source of the order and the defaults: llama.cpp, common/common.h (common_params_sampling).
    What each means is in the README, the ranges are in `lmnb.engine.sampling_options`.
    """

    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    logit_bias: dict[int, float] = {}


class Trigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Texts at which a grammar takes over an answer that is free until then.

    texts
        The grammar reads on from the beginning of the one that comes first. Control tokens in them
        count as the tokens only, not spelled out.
    leading
        They are looked for at the very beginning of the answer only, white space aside.
    """

    texts: tuple[str, ...]
    leading: bool = False


class ConstraintSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the answer must look like. `text` is a JSON schema, a regex or a Lark grammar.

    lenient
        Keywords of a JSON schema that cannot be enforced are left out instead of refused.
    after
        The constraint begins after this text, which ends the model's thinking; None: at once.
    opening
        The text that begins the thinking, if it is the model's choice whether to think at all;
        None with `after`: the prompt has begun it.
    trigger
        The answer is free, and may end, until one of these texts; thinking has none. None: the
        grammar binds from the beginning.
    closing
        From half of the most tokens it may have, the answer is drawn to its end, the more the
        closer it comes to them: closing quotes and brackets become likelier. A model that has
        something to say goes on nevertheless; one that rambles stops, instead of being cut.
    """

    kind: Literal["json_object", "json_schema", "regex", "lark"]
    text: str = ""
    lenient: bool = False
    after: str | None = None
    opening: str | None = None
    trigger: Trigger | None = None
    closing: bool = False


class ThinkingBudget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The most tokens a model may think, its marks left out.

    end
        What is written then, with control tokens: white space, and the text that ends the thinking.
    opening
        The text that begins it, where the model may begin it; "" is none.
    begun
        The prompt has begun it.
    between
        What stands before each further message of an answer that has several, all of which have
        this `end`; "": an answer is one message.
    shared
        The beginning of `opening` that other messages have, too. After the bound, messages that go on
        as `opening` does are not begun. "": they are ended at once.
    """

    tokens: int
    end: str
    opening: str = ""
    begun: bool = False
    between: str = ""
    shared: str = ""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token's text, bytes and natural-log probability before sampling, with alternatives."""

    token: str
    raw: bytes
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()


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


# --- server → worker ----------------------------------------------------------


class PrefixFolder(msgspec.Struct, frozen=True):
    """Where prefixes are kept that host memory has no room for, and at most how many bytes."""

    path: str
    bytes: int


class Memory(msgspec.Struct, frozen=True):
    """Bytes on the host and on GPUs."""

    host: int = 0
    gpu: int = 0


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Load the model file at `path` (part 1 of a split model); or its vocabulary, to tokenize.

    `promised` is memory that others give back once the worker has said `Fits`; it takes none, and
    chooses no options, before it hears `Proceed`.
    """

    path: str
    config: LoadConfig
    prefixes: PrefixFolder | None = None
    only_vocabulary: bool = False
    promised: Memory | None = None


class Proceed(msgspec.Struct, frozen=True, tag="proceed"):
    """What was promised has been given back."""


class Generate(msgspec.Struct, frozen=True, tag="generate", kw_only=True, omit_defaults=True):
    """Generate from a prompt: `segments` of text, or ready `tokens`.

    `add_bos`: put the model's BOS token in front unless the text already begins with it.
    `show_special`: control tokens that the model writes are spelled out in the text if they occur
    in one of these (markers of tool calls); else they are left out.
    `ends`: tokens that end the answer besides the model's own. Their text alone does not.
    `draft_model`: path of the model that drafts, loaded if need be; "" is none, None that of the
    load. `max_tokens` None is "until the context is full". Lower `priority` values go first.
    `thinking` bounds what it thinks. `adapters` None is what the model was loaded with.
    `cache_key`: requests of one session have the same; its prefixes are kept a little longer.
    `score_prompt`: report the log probabilities of the prompt's tokens, too, with `logprobs`
    alternatives. It is then read anew, a few tokens at a time.
    `verbatim`: say in the end what was generated, every control token spelled out.
    """

    id: int
    segments: tuple[Segment, ...] = ()
    tokens: tuple[int, ...] | None = None
    add_bos: bool = True
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    logprobs: int | None = None
    show_special: tuple[str, ...] = ()
    priority: int = 0
    cache_key: str | None = None
    constraint: ConstraintSpec | None = None
    thinking: ThinkingBudget | None = None
    adapters: tuple[AdapterChoice, ...] | None = None
    draft_model: str | None = None
    score_prompt: bool = False
    verbatim: bool = False


Truncate: TypeAlias = bool | Literal["start", "end"]
"""What happens to a text that is too long: an error (False), or its end (True, `end`) or start is cut off."""


class Embed(msgspec.Struct, frozen=True, tag="embed", kw_only=True, omit_defaults=True):
    """Embed texts (or token lists). `priority` as that of `Generate`."""

    id: int
    inputs: tuple[str | tuple[int, ...], ...]
    truncate: Truncate = False
    normalize: bool = True
    priority: int = 0


class Rerank(msgspec.Struct, frozen=True, tag="rerank", kw_only=True, omit_defaults=True):
    """Score how relevant each document is to the query. `truncate` is about the documents."""

    id: int
    query: str
    documents: tuple[str, ...]
    truncate: Truncate = False
    priority: int = 0


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize", kw_only=True):
    """Tokenize without queueing behind generations."""

    id: int
    segments: tuple[Segment, ...]
    add_bos: bool = True


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Stop the request. Acts inside a running forward pass."""

    id: int


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Ask for a `Pong`; answered by the reading thread, also in the middle of a forward pass."""

    id: int


Command: TypeAlias = Load | Proceed | Generate | Embed | Rerank | Tokenize | Abort | Ping

# --- worker → server ----------------------------------------------------------


class LoadProgress(msgspec.Struct, frozen=True, tag="load_progress"):
    """0 to 1; at most about twenty a second."""

    progress: float


class Fits(msgspec.Struct, frozen=True, tag="fits"):
    """The model is going to fit, with what was promised."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded."""

    info: ModelInfo


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """More of one generation, and the tokens that became final with it: there may be no text.

    `logprobs` of these tokens, if they were asked for; `ends`, where each of them ends in the whole
    text, in characters. `prompt`, in the first one: the tokens of a prompt that was to be scored.
    Nothing is known of the probability of the first of them.
    """

    id: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    ends: tuple[int, ...] = ()
    prompt: tuple[TokenLogprob, ...] = ()


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """Prefill of one generation: `done` of `total` prompt tokens, `cached` of them reused.

    Of a request to embed or rerank: `done` of `total` texts.
    """

    id: int
    done: int
    total: int
    cached: int


class End(msgspec.Struct, frozen=True, array_like=True):
    """One generation has ended. Times in seconds, as in `lmnb.chat.events.Timings`.

    Of the `drafted_tokens` that speculation had computed, the answer took `accepted_tokens`.
    `verbatim` is the text of all tokens of the answer, if it was asked for.
    """

    id: int
    reason: Literal["stop", "stop_string", "length", "context", "aborted"]
    stop: str | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_seconds: float
    prompt_seconds: float
    first_token_seconds: float
    generation_seconds: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    verbatim: str | None = None


class Step(msgspec.Struct, frozen=True, tag="step", omit_defaults=True):
    """All that one engine step has to say, in this order: progress, deltas, ends."""

    progress: tuple[Progress, ...] = ()
    deltas: tuple[Delta, ...] = ()
    ends: tuple[End, ...] = ()


class Embedded(msgspec.Struct, frozen=True, tag="embedded"):
    """`vectors`: little-endian float32, row-major, len(`tokens`) × `dimensions`."""

    id: int
    vectors: bytes
    dimensions: int
    tokens: tuple[int, ...]


class Ranked(msgspec.Struct, frozen=True, tag="ranked"):
    """`scores` of a `Rerank`, 0 to 1, in the order of the documents; `tokens` of each pair."""

    id: int
    scores: tuple[float, ...]
    tokens: tuple[int, ...]


class Tokenized(msgspec.Struct, frozen=True, tag="tokenized"):
    """Token ids of a `Tokenize`."""

    id: int
    tokens: tuple[int, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Request `id` failed (0: the load, or the worker itself, which then exits).

    `error` is `LmnbError.to_dict()`.
    """

    id: int
    error: dict[str, Any]


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """Answer to `Ping`: what the engine is doing now. Bytes; `cache_tokens` of `context_length`."""

    id: int
    memory: int
    running: int
    waiting: int
    cache_tokens: int


Reply: TypeAlias = (
    LoadProgress | Fits | Ready | Step | Embedded | Ranked | Tokenized | Failed | Pong
)
