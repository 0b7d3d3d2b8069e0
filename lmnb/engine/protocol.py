"""The messages between the server and a worker: length-prefixed msgpack over a socketpair.

The worker is started with nothing but the file descriptor; `Load` is the first
message it gets, `Ready` or `Failed` its answer (with memory that is `promised`, `Fits` and
`Proceed` come between). After that both sides speak
freely, each reply carrying the `id` of its request. End of file is the end.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from lmnb.engine.config import LoadConfig, ModelInfo
from lmnb.engine.options import (
    AdapterChoice,
    ConstraintSpec,
    Sampling,
    Segment,
    ThinkingBudget,
    TokenLogprob,
    Truncate,
)

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


ChunkUnit: TypeAlias = Literal["tokens", "characters"]


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize", kw_only=True):
    """Tokenize without queueing behind generations."""

    id: int
    segments: tuple[Segment, ...]
    add_bos: bool = True


class Chunk(msgspec.Struct, frozen=True, tag="chunk", kw_only=True):
    """Cut texts into chunks of at most `size` tokens or characters, `overlap` of which are shared.

    0 ≤ `overlap` < `size`.
    """

    id: int
    texts: tuple[str, ...]
    size: int
    overlap: int = 0
    unit: ChunkUnit = "tokens"


class Count(msgspec.Struct, frozen=True, tag="count", kw_only=True):
    """Count the tokens of texts."""

    id: int
    texts: tuple[str, ...]


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Stop the request. Acts inside a running forward pass."""

    id: int


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Ask for a `Pong`; answered by the reading thread, also in the middle of a forward pass."""

    id: int


Command: TypeAlias = (
    Load | Proceed | Generate | Embed | Rerank | Tokenize | Chunk | Count | Abort | Ping
)

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


class Span(msgspec.Struct, frozen=True, array_like=True):
    """A part of a text: from the character `start` to before `end`, which is `tokens` long.

    As for `Counted`, marks that a model puts around a text are not among them.
    """

    start: int
    end: int
    tokens: int


class Chunked(msgspec.Struct, frozen=True, tag="chunked"):
    """The chunks of each text of a `Chunk`, in order; none of a text without words."""

    id: int
    spans: tuple[tuple[Span, ...], ...]


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """The tokens of each text of a `Count`."""

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
    LoadProgress
    | Fits
    | Ready
    | Step
    | Embedded
    | Ranked
    | Tokenized
    | Chunked
    | Counted
    | Failed
    | Pong
)
