"""The KV cache and the forward pass of one model."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from lmnb.engine import attention, native
from lmnb.engine.batch import Batch
from lmnb.engine.config import LoadConfig
from lmnb.engine.model import Loaded, Model
from lmnb.engine.native import L
from lmnb.engine.threads import Threads
from lmnb.errors import InvalidRequest, ModelLoadFailed, NotSupported

CACHE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30,
}  # fmt: skip
"""ggml's numbers of the KV cache element types (ggml.h, enum ggml_type)."""

_MROPE = {L.LLAMA_ROPE_TYPE_MROPE, L.LLAMA_ROPE_TYPE_IMROPE}
_PLAIN_TYPES = {0, 1, 30}
"""Those that attention can do without flash attention's conversions: f32, f16, bf16."""

MAX_PARALLEL = 256
"""llama.cpp's LLAMA_MAX_SEQ: a sequence id beyond it is an assertion failure."""

DEFAULT_CONTEXT_LENGTH = 8192
DEFAULT_PARALLEL = 4
DEFAULT_BATCH = 512
PLAIN_BATCH = 256
"""Without flash attention the scores of a whole batch are kept, and more at once gains nothing."""
_MEMORY_SHARE_OF_SCORES = 1 / 32
_MOST_CELLS = (1 << 31) - 1
"""llama.cpp counts the cells of a cache in 32 bits."""
MAX_DRAFTS = 16
"""Drafted tokens of all sequences together that one forward pass verifies at most."""


class Context:
    """A llama.cpp context for generating: `parallel` slots of `context_length` tokens each.

    Its memory is addressed by positions, of which tokens may take less than one (`positions`).
    """

    def __init__(self, model: Model, config: LoadConfig) -> None:
        self.model = model
        params = parameters(model, config)
        self.flash_attention = params.flash_attn_type != 0
        self.max_outputs: int = params.n_outputs_max
        self.abort = native.AbortFlag()
        params.abort_callback = self.abort.callback
        params.abort_callback_data = self.abort.data
        self.handle = create(model, params)
        self.memory = L.llama_get_memory(self.handle)
        if not self.memory or L.llama_model_has_encoder(model.handle):
            # Diffusion and encoder-decoder models: decoding them token by token would abort.
            raise NotSupported("This kind of model cannot be generated with here.", param="model")
        # llama.cpp rounds up to a multiple of 256; what was asked for is the promise.
        self.context_length: int = params.n_ctx // params.n_seq_max
        self.batch_size: int = L.llama_n_batch(self.handle)
        self.parallel: int = L.llama_n_seq_max(self.handle)
        self.threads: int = params.n_threads
        self._threads = Threads(self.threads, adaptive=config.threads is None)
        self.batch = Batch(self.batch_size)
        self.dimensions: int = 4 if L.llama_model_rope_type(model.handle) in _MROPE else 1
        """Of the position of an embedding."""
        self._taken = [0] * self.parallel
        self._logits = np.empty((0, 0), np.float32)
        self._seen_logits = (0, 0)
        self.swa_full = bool(params.swa_full)
        self.partial = not L.llama_model_is_recurrent(model.handle)
        self.can_retract = self._trims()
        """The tokens of the last pass can be dropped again, but maybe not those before."""
        # With `swa_full`, too: a slot may have all keys then, but a copy has those in the window.
        self.window: int = L.llama_model_n_swa(model.handle) if self.can_retract else 0
        self.can_trim = self.can_retract and not self.window
        self._threads.forget()

    def close(self) -> None:
        """Give the memory back."""
        if self.handle:
            L.llama_free(self.handle)
            self.handle = None

    def decode(self) -> int:
        """Run the batch. 0: done; 1: no room in the cache; 2: aborted; below 0: failed."""
        batch = self.batch
        # Each of these would be an assertion failure, hence the end of the process.
        if not 0 < batch.size <= self.batch_size or batch.outputs > self.max_outputs:
            raise AssertionError(f"bad batch: {batch.size} rows")
        # This one would be computed, without what should stand before it.
        if any(self.length(sequence) != start for sequence, start in batch.runs):
            raise AssertionError("bad batch: positions do not go on where the slot ends")
        batch.raw.n_tokens = batch.size
        set_threads(self.handle, self._threads)
        result: int = L.llama_decode(self.handle, batch.raw)
        return result

    def decode_embeddings(
        self,
        rows: NDArray[np.float32],
        places: NDArray[np.int32],
        slot: int,
        *,
        end: int,
        causal: bool,
    ) -> int:
        """Run embeddings, (tokens, width), in the place of tokens of a slot. Results as `decode`'s.

        places
            The positions of each, (dimensions, tokens).
        end
            The position that comes after them: with M-RoPE they may take more than they have.
        causal
            Whether each sees only those before it; else all see each other.
        """
        self._check(slot)
        # Each of these would be an assertion failure, or read beyond an array.
        if not 0 < len(rows) <= self.batch_size or places.shape != (self.dimensions, len(rows)):
            raise AssertionError(f"bad batch: {len(rows)} rows at {places.shape} positions")
        rows, places = np.ascontiguousarray(rows), np.ascontiguousarray(places)
        set_threads(self.handle, self._threads)
        L.llama_set_causal_attn(self.handle, causal)
        try:
            batch = self.batch.of_embeddings(rows, places, slot)
            result: int = L.llama_decode(self.handle, batch)
        finally:
            L.llama_set_causal_attn(self.handle, True)
        if result == 0:
            self._take(slot, end)
        return result

    @property
    def current_threads(self) -> int:
        """CPU threads of the last forward pass."""
        return self._threads.count

    def synchronize(self) -> None:
        """Wait until the device has computed what `decode` has queued."""
        L.llama_synchronize(self.handle)

    def logits(self, rows: int) -> NDArray[np.float32]:
        """The logits of the last forward pass, (rows, vocabulary), a writable view."""
        pointer = L.llama_get_logits(self.handle)
        # They lie where those of the last pass were, as long as passes have as many.
        seen = (native.address(pointer), rows)
        if seen != self._seen_logits:
            n_vocab = self.model.n_vocab
            self._logits = native.floats(pointer, rows * n_vocab).reshape(rows, n_vocab)
            self._seen_logits = seen
        return self._logits

    # --- slots of the cache ------------------------------------------------------

    def length(self, slot: int) -> int:
        """How many positions of a slot are taken: where it goes on."""
        self._check(slot)
        last: int = L.llama_memory_seq_pos_max(self.memory, slot)
        # llama.cpp does not know of those behind the cells of an image that ends there.
        return max(last + 1, self._taken[slot]) if last >= 0 else 0

    def wipe(self) -> None:
        """Forget all slots and overwrite their cells. No sequence may be running."""
        L.llama_memory_clear(self.memory, True)
        self._taken = [0] * self.parallel

    def start(self, slot: int) -> int:
        """First position of a slot of which all keys are there."""
        self._check(slot)
        first: int = L.llama_memory_seq_pos_min(self.memory, slot) if self.window else 0
        return max(first, 0)

    def trim(self, slot: int, length: int) -> bool:
        """Drop all of a slot from position `length` on.

        False, and an empty slot, if memory cannot go back that far.
        """
        now = self.length(slot)
        # Token n sees those from n - window + 1 on (llama-hparams.h, is_masked_swa); llama.cpp
        # would drop the others' cells all the same, and go on without the keys that are missing.
        blind = self.window and self.start(slot) > max(0, length - self.window + 1)
        is_there = now == length or (
            now > length and not blind and L.llama_memory_seq_rm(self.memory, slot, length, -1)
        )
        if not is_there:
            self._empty(slot)
            return length == 0
        self._take(slot, length)
        return True

    def size(self, slot: int, *, partial: bool = False) -> int:
        """Bytes of a copy of a slot's cells; `partial`: of what cannot be trimmed."""
        self._check(slot)
        size: int = L.llama_state_seq_get_size_ext(self.handle, slot, int(partial))
        return size

    def save(self, slot: int, *, partial: bool = False) -> NDArray[np.uint8]:
        """A copy of a slot's cells in host memory; `partial`: of what cannot be trimmed."""
        self._check(slot)
        size = self.size(slot, partial=partial)
        data = np.empty(size, np.uint8)
        written = L.llama_state_seq_get_data_ext(
            self.handle, _bytes(data), size, slot, int(partial)
        )
        return data[:written]

    def restore(self, slot: int, data: NDArray[np.uint8], length: int) -> bool:
        """Replace a slot's cells by a saved copy of so many positions.

        False, and an empty slot, if they do not fit.
        """
        self._empty(slot)
        if not self._read(slot, data, partial=False):
            return False
        self._take(slot, length)
        return True

    def rewind(self, slot: int, data: NDArray[np.uint8], length: int) -> bool:
        """Go back to a checkpoint of the slot's first `length` positions.

        False, and an empty slot, if that fails.
        """
        if not self._read(slot, data, partial=self.partial):
            return False
        # The rest of memory, which was not in the copy, is cut to the same length.
        L.llama_memory_seq_rm(self.memory, slot, length, -1)
        self._take(slot, length)
        if self.length(slot) == length:
            return True
        self._empty(slot)
        return False

    def _take(self, slot: int, length: int) -> None:
        """Note up to where positions are taken, with and without cells."""
        self._taken[slot] = length if self.dimensions > 1 else 0

    def _empty(self, slot: int) -> None:
        self._check(slot)
        L.llama_memory_seq_rm(self.memory, slot, -1, -1)
        self._taken[slot] = 0

    def _check(self, slot: int) -> None:
        if not 0 <= slot < self.parallel:  # llama.cpp asserts
            raise AssertionError(f"no slot {slot}")

    def _read(self, slot: int, data: NDArray[np.uint8], *, partial: bool) -> bool:
        self._check(slot)
        taken = L.llama_state_seq_set_data_ext(
            self.handle, _bytes(data), data.nbytes, slot, int(partial)
        )
        if taken != data.nbytes:
            self._empty(slot)
        return bool(taken == data.nbytes)

    def _trims(self) -> bool:
        """Whether the last tokens of a slot can be dropped: tried out, since no call tells.

        Recurrent memory may be able to go back `n_rs_seq` tokens, but not one more.
        """
        for position in range(L.llama_n_rs_seq(self.handle) + 2):
            self.batch.clear()
            self.batch.add(np.zeros(1, np.int32), position, 0, 1)
            self.decode()
        trims = bool(L.llama_memory_seq_rm(self.memory, 0, 1, -1))
        L.llama_memory_seq_rm(self.memory, 0, -1, -1)
        return trims


def _bytes(data: NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def create(model: Loaded, params: Any) -> Any:
    """A context handle, or the error that tells why not."""
    if params.type_v not in _PLAIN_TYPES and params.flash_attn_type == 0:
        raise InvalidRequest(
            "A quantised cache_type_v needs flash attention.", param="cache_type_v"
        )
    handle = L.llama_init_from_model(model.handle, params)
    if not handle:
        reasons = native.log.errors()
        detail = reasons[-1].rpartition(": ")[2] if reasons else "no reason was given"
        what = "The context could not be created"
        if any(native.OUT_OF_MEMORY.search(line) for line in reasons):
            what = f"There is not enough memory for {params.n_ctx} tokens of context"
        raise ModelLoadFailed(
            f"{what} ({detail}).",
            hint="Load the model with a smaller context_length, or unload another model.",
        )
    return handle


def parameters(model: Loaded, config: LoadConfig) -> Any:
    """The parameters of a context for generating.

    Raises
    ------
    InvalidRequest
        An option is out of range.
    """
    wanted = min(L.llama_model_n_ctx_train(model.handle), DEFAULT_CONTEXT_LENGTH)
    length = _positive("context_length", config.context_length, wanted, 1 << 30)
    usual = max(1, min(DEFAULT_PARALLEL, _MOST_CELLS // length))
    parallel = _positive("parallel", config.parallel, usual, MAX_PARALLEL)
    if length * parallel > _MOST_CELLS:
        raise InvalidRequest("context_length is too large.", param="context_length")
    params = L.llama_context_default_params()
    set_common(params, config)
    if config.flash_attention is None and _is_faster_without_flash(model, config, length):
        params.flash_attn_type = 0
    usual = PLAIN_BATCH if params.flash_attn_type == 0 else DEFAULT_BATCH
    batch = _positive("eval_batch_size", config.eval_batch_size, usual, 1 << 16)
    # One stream of the cache a slot, each with room for a whole context (see `cache`).
    params.n_ctx = length * parallel
    params.kv_unified = False
    params.n_batch = params.n_ubatch = max(batch, parallel)
    params.n_seq_max = parallel
    # Logits of the last token of each answer, and of drafts.
    params.n_outputs_max = min(params.n_batch, parallel + MAX_DRAFTS)
    params.swa_full = config.swa_full is not False
    params.offload_kqv = config.offload_kv_cache_to_gpu is not False
    params.no_perf = True
    return params


def uses_flash(model: Loaded, config: LoadConfig) -> bool:
    """Whether a context for these options has flash attention or, on a GPU, leaves it to llama.cpp."""
    return bool(parameters(model, config).flash_attn_type != 0)


def _is_faster_without_flash(model: Loaded, config: LoadConfig, length: int) -> bool:
    """Whether to switch flash attention off where nobody asked.

    That depends on the CPU and the length of the heads (`attention`). Where flash attention is
    slow, answers take 1.1 times as long after 150 tokens and 2.2 times after 3,000, and slices of
    a prompt below 64 tokens 6 times (SmolLM2). Plain attention reads long prompts up to 1.3 times
    slower, and its scores, (heads, batch, context) floats, take memory. A quantised cache of values
    cannot do without flash attention.
    """
    if model.gpu_layers or CACHE_TYPES[config.cache_type_v or "f16"] not in _PLAIN_TYPES:
        return False
    scores = 4 * L.llama_model_n_head(model.handle) * PLAIN_BATCH * length
    if scores > psutil.virtual_memory().total * _MEMORY_SHARE_OF_SCORES:
        return False
    found = attention.heads(model.header)
    return found is None or attention.is_flash_slow(found) is not False


def set_common(params: Any, config: LoadConfig) -> None:
    """Fill in what contexts of every kind have in common."""
    params.type_k = _cache_type("cache_type_k", config.cache_type_k)
    params.type_v = _cache_type("cache_type_v", config.cache_type_v)
    if config.flash_attention is not None:
        params.flash_attn_type = int(config.flash_attention)
    threads = _positive("threads", config.threads, default_threads(), 512)
    # llama.cpp uses the second for every batch of more than one row, so also for decoding many.
    params.n_threads = params.n_threads_batch = threads


def set_threads(handle: Any, threads: Threads) -> None:
    """Let the next forward pass use as many threads as the machine has free."""
    before = threads.count
    if (count := threads.update()) != before:
        L.llama_set_n_threads(handle, count, count)


def default_threads() -> int:
    """Physical cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, psutil.cpu_count(logical=False) or 1))


def _cache_type(name: str, value: str | None) -> int:
    if value is None:
        return CACHE_TYPES["f16"]
    if value not in CACHE_TYPES:
        raise InvalidRequest(
            f"{name} must be one of {', '.join(CACHE_TYPES)}, not {value!r}.", param=name
        )
    return CACHE_TYPES[value]


def _positive(name: str, value: int | None, default: int, limit: int) -> int:
    if value is None:
        return default
    if not 0 < value <= limit:
        raise InvalidRequest(f"{name} must lie between 1 and {limit}, not {value}.", param=name)
    return value
