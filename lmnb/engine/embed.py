"""The engine loop of an embedding model: texts packed by length, pooled, normalised."""

from __future__ import annotations

from collections import deque
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lmnb.engine import native
from lmnb.engine.adapters import Adapters
from lmnb.engine.context import Batch, create, set_common, set_threads
from lmnb.engine.model import Model
from lmnb.engine.native import L
from lmnb.engine.protocol import Embed, Embedded, Failed, Generate, LoadConfig, Reply
from lmnb.engine.threads import Threads
from lmnb.engine.watch import Watch
from lmnb.errors import InvalidRequest, LmnbError, NotSupported, NumericError

_PACK_TOKENS = 512
"""Tokens of one pack, at least. Attention looks at a whole pack at once, masked, so that larger
packs of short texts waste more than they save on a CPU."""
_PACK_TEXTS = 64
_LOGITS_BYTES = 1 << 30
_MEAN, _RANK = 1, 4  # llama.h, enum llama_pooling_type


def _default_length(model: Model) -> int:
    """Tokens of the longest text, unless told otherwise: what the model was trained for, within limits.

    llama.cpp makes room for the logits of every token even where nobody wants them.
    """
    affordable = max(_PACK_TOKENS, _LOGITS_BYTES // (4 * model.n_vocab))
    return min(model.trained_context_length, 2048, affordable)


class _Job:
    """One request: its texts still to do, longest first, and the rows that are done."""

    def __init__(self, command: Embed, texts: list[NDArray[np.int32]], dimensions: int) -> None:
        self.command = command
        self.lengths = tuple(len(text) for text in texts)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        self.todo = [(row, texts[row]) for row in order]
        self.vectors = np.zeros((len(texts), dimensions), np.float32)


class Embedder:
    """Embeds with one loaded model. Same face as `Generator`."""

    command: ClassVar[type[Generate | Embed]] = Embed

    def __init__(self, model: Model, config: LoadConfig, watch: Watch | None = None) -> None:
        self.model = model
        self.watch = watch or Watch()
        if model.header.pooling_type == _RANK:
            raise NotSupported("Reranking models are not supported.", param="model")
        trained = model.trained_context_length
        self.context_length = min(config.context_length or _default_length(model), trained)
        if self.context_length < 1:
            raise InvalidRequest("context_length must be at least 1.", param="context_length")
        self.adapters = Adapters(model, config.adapters or ())
        # Attention without a cache sees one batch only, so a text must fit a batch whole.
        self.batch_size = max(self.context_length, _PACK_TOKENS)
        params = L.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self.batch_size
        params.n_seq_max = _PACK_TEXTS
        params.embeddings = True
        if not model.header.pooling_type:
            params.pooling_type = _MEAN
        params.kv_unified = True
        params.no_perf = True
        set_common(params, config)
        self.abort_flag = native.AbortFlag()
        params.abort_callback = self.abort_flag.callback
        params.abort_callback_data = self.abort_flag.data
        self.handle = create(model, params)
        self.adapters.apply(self.handle, self.adapters.choose(None))
        self.memory = L.llama_get_memory(self.handle)
        self.threads: int = params.n_threads
        self._threads = Threads(self.threads, adaptive=config.threads is None)
        self.parallel = _PACK_TEXTS
        self.dimensions: int = L.llama_model_n_embd_out(model.handle)
        self._batch = Batch(self.batch_size)
        self._jobs: deque[_Job] = deque()
        self._running: int | None = None

    def close(self) -> None:
        """Give the memory back."""
        L.llama_free(self.handle)
        self.model.close()

    def prompt(self, command: Embed) -> list[NDArray[np.int32]]:
        """Token ids of each input. Thread-safe.

        Raises
        ------
        InvalidRequest
            An input is empty, too long (without `truncate`), or has ids outside the vocabulary.
        """
        return [self._tokens(command, index) for index in range(len(command.inputs))]

    def _tokens(self, command: Embed, index: int) -> NDArray[np.int32]:
        value = command.inputs[index]
        if isinstance(value, str):
            tokens = self.model.tokenize_for_embedding(value)
        else:
            tokens = self.model.check_tokens(value, param="input")
        if not len(tokens):
            raise InvalidRequest(f"Input {index} is empty.", param="input")
        if len(tokens) <= self.context_length:
            return tokens
        if not command.truncate:
            raise InvalidRequest(
                f"Input {index} has {len(tokens)} tokens; this model takes at most {self.context_length}.",
                hint="Split it, or ask for truncation.",
                param="input",
            )
        # The last token closes the text ([SEP]) and stays.
        return np.concatenate([tokens[: self.context_length - 1], tokens[-1:]])

    def submit(self, command: Embed, texts: list[NDArray[np.int32]]) -> None:
        """Queue a request."""
        self._jobs.append(_Job(command, texts, self.dimensions))

    def abort(self, request: int) -> None:
        """Drop a request, if it is still there."""
        self._jobs = deque(job for job in self._jobs if job.command.id != request)

    def interrupt(self, request: int) -> None:
        """Break off the running pass if it is this request's. Any thread."""
        if request == self._running:
            self.abort_flag.set()

    def give_up(self) -> None:
        """Break off the running pass, whosever it is. Any thread."""
        self.abort_flag.set()

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._jobs)

    def counts(self) -> tuple[int, int, int]:
        """Running and waiting requests; nothing is kept in a cache."""
        return min(1, len(self._jobs)), max(0, len(self._jobs) - 1), 0

    def step(self) -> list[Reply]:
        """Embed one pack of texts; requests take turns."""
        job = self._jobs.popleft()
        request = job.command.id
        if job.todo:
            self._running = request
            try:
                self._embed(job)
            except LmnbError as error:
                return [Failed(request, error.to_dict())]
            finally:
                self._running = None
                self.abort_flag.clear()
        if job.todo:
            self._jobs.append(job)
            return []
        vectors = job.vectors
        if job.command.normalize:
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(norms, 1e-12)
        data = vectors.astype("<f4").tobytes()
        return [Embedded(request, data, self.dimensions, job.lengths)]

    def _embed(self, job: _Job) -> None:
        pack: list[tuple[int, NDArray[np.int32]]] = []
        size = 0
        while job.todo and len(pack) < _PACK_TEXTS:
            tokens = job.todo[-1][1]
            if pack and size + len(tokens) > _PACK_TOKENS:
                break
            pack.append(job.todo.pop())
            size += len(tokens)
        self._batch.clear()
        for sequence, (_, tokens) in enumerate(pack):
            self._batch.add(tokens, 0, sequence, len(tokens))
        self._batch.raw.n_tokens = self._batch.size
        set_threads(self.handle, self._threads)
        with self.watch.passing(size, (job.command.id,)):
            self._compute(job, pack)

    def _compute(self, job: _Job, pack: list[tuple[int, NDArray[np.int32]]]) -> None:
        if self.memory:
            L.llama_memory_clear(self.memory, False)
            result = L.llama_decode(self.handle, self._batch.raw)
        else:
            result = L.llama_encode(self.handle, self._batch.raw)
        if result != 0:
            stuck = self.watch.broken_off()
            if result != 2 or stuck:
                raise stuck or native.decode_error(result)
            # Aborted: the request is gone by the next step, or goes on.
            job.todo.extend(reversed(pack))
            return
        for sequence, (row, _) in enumerate(pack):
            pointer = L.llama_get_embeddings_seq(self.handle, sequence)
            vector = native.floats(pointer, self.dimensions)
            if not np.isfinite(vector).all():
                raise NumericError(f"The model computed values of input {row} that are no numbers.")
            job.vectors[row] = vector
