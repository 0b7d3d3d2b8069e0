"""The engine loop of a model that pools: texts packed by length, one vector or one score each."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from time import monotonic
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmnb.engine import native
from lmnb.engine.adapters import Adapters
from lmnb.engine.config import LoadConfig
from lmnb.engine.lanes import PACK_TEXTS, Lane, make_lanes
from lmnb.engine.model import Loaded, Model
from lmnb.engine.native import L
from lmnb.engine.options import Truncate
from lmnb.engine.packing import BLOCK, Row, Texts
from lmnb.engine.prefixes import Tokens
from lmnb.engine.protocol import Embed, Embedded, Failed, Generate, Progress, Reply, Rerank, Step
from lmnb.engine.threads import Threads
from lmnb.engine.watch import Watch
from lmnb.errors import InvalidRequest, LmnbError, NumericError

_PACK_TOKENS, _GPU_PACK_TOKENS = 192, 2048
"""Tokens of a pack of several texts, at most: three tiles of attention. Measured on a CPU with MiniLM,
packs of 128 to 256 are equally fast, smaller and larger ones slower."""
_SMALL_PACK = BLOCK
"""Tokens below which a pass is slow for its size: without a whole tile there is no fast attention."""
_LOGITS_BYTES = 1 << 30
_OLDEST_EVERY = 4
_PROGRESS_INTERVAL = 0.2


class _Part(NamedTuple):
    """One text of a job, in a pass."""

    job: _Job
    row: Row


class _Job:
    """One request: its texts still to do, and the rows that are done."""

    def __init__(self, command: Embed | Rerank, texts: Sequence[Tokens], width: int) -> None:
        self.command = command
        self.lengths = tuple(len(text) for text in texts)
        self.todo = Texts(texts)
        self.missing = len(texts)
        self.rows = np.empty((len(texts), width), np.float32)
        self.told = monotonic()

    def finish(self, row: Row, values: NDArray[np.float32]) -> None:
        """Keep a result.

        Raises
        ------
        NumericError
            It is not a number.
        """
        if not np.isfinite(values).all():
            raise NumericError(
                f"The model computed values of input {row.number} that are no numbers."
            )
        self.rows[row.number] = values
        self.missing -= 1


class Pooler(abc.ABC):
    """The loop. Same face as `Generator`; subclasses say what a request is and what its answer."""

    command: ClassVar[type[Generate | Embed | Rerank]]
    can: ClassVar[str]

    def __init__(
        self, model: Model, config: LoadConfig, watch: Watch | None = None, *, width: int
    ) -> None:
        self.model = model
        self.watch = watch or Watch()
        self.width = width
        self.context_length = longest_text(model, config)
        self.adapters = Adapters(model, config.adapters or ())
        self._pack_tokens = _pack_tokens(model)
        self.batch_size = batch_tokens(model, config)
        self._lanes = make_lanes(model, config, self.batch_size)
        for lane in self._lanes:
            self.adapters.apply(lane.handle, self.adapters.choose(None))
        self.threads = self._lanes[0].threads
        self.swa_full, self.cache_ram = False, 0  # There is no cache: a text is read at once.
        self._threads = Threads(self.threads, adaptive=config.threads is None)
        self.parallel = PACK_TEXTS
        self._jobs: list[_Job] = []
        self._turn = 0
        self._pool = ThreadPoolExecutor(len(self._lanes))
        self._running: dict[Lane, tuple[Future[tuple[int, NDArray[np.float32]]], list[_Part]]] = {}

    def close(self) -> None:
        """Give the memory back."""
        self._pool.shutdown()
        for lane in self._lanes:
            lane.close()
        self.model.close()

    # --- in ------------------------------------------------------------------------

    def submit(self, command: Embed | Rerank, prompt: Sequence[Tokens]) -> None:
        """Queue a request."""
        self._jobs.append(_Job(command, prompt, self.width))

    def abort(self, request: int) -> None:
        """Drop a request, if it is still there."""
        self._jobs = [job for job in self._jobs if job.command.id != request]

    def interrupt(self, request: int) -> None:
        """Break off running passes that are this request's alone. Any thread."""
        for lane, (_, parts) in tuple(self._running.items()):
            if all(part.job.command.id == request for part in parts):
                lane.abort_flag.set()

    def give_up(self) -> None:
        """Break off the running passes, whosever they are. Any thread."""
        for lane in tuple(self._running):
            lane.abort_flag.set()

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._jobs or self._running)

    def tidy(self) -> bool:
        """There is nothing to keep."""
        return False

    def counts(self) -> tuple[int, int, int]:
        """Running and waiting requests; nothing is kept in a cache."""
        packs = [parts for _, parts in tuple(self._running.values())]
        running = {part.job.command.id for parts in packs for part in parts}
        return len(running), max(0, len(self._jobs) - len(running)), 0

    # --- the loop's body -------------------------------------------------------------

    def step(self) -> list[Reply]:
        """Give every free lane a pack of texts, and wait until one of them is done."""
        replies: list[Reply] = []
        self._start()
        if self._running:
            parts = [part for _, parts in self._running.values() for part in parts]
            tokens = sum(len(part.row.tokens) for part in parts)
            with self.watch.passing(tokens, {part.job.command.id for part in parts}):
                wait([future for future, _ in self._running.values()], None, FIRST_COMPLETED)
                for lane in [lane for lane in self._running if self._running[lane][0].done()]:
                    replies += self._collect(lane)
        return replies + self._report()

    def _start(self) -> None:
        """Fill the free lanes. What is too long for any but the first has the machine to itself."""
        if not self._running and (lone := self._lone()):
            self._run(self._lanes[0], lone, self._threads.update())
            return
        share = max(1, self.threads // len(self._lanes))
        for lane in self._lanes:
            if lane in self._running or not (jobs := self._order()):
                continue
            if jobs[0].todo.longest > self._lanes[-1].capacity:
                return
            waiting = sum(job.todo.tokens for job in jobs)
            size = max(_SMALL_PACK, min(self._pack_tokens, -(-waiting // len(self._lanes))))
            self._run(lane, self._pack(jobs, size), share)

    def _lone(self) -> list[_Part]:
        """A pack for all threads: the only one there is, or a text for which one lane has room."""
        jobs = self._order()
        if not jobs:
            return []
        waiting = sum(job.todo.tokens for job in jobs)
        long = jobs[0].todo.longest > self._lanes[-1].capacity
        if len(self._lanes) == 1 or waiting <= self._pack_tokens or long:
            return self._pack(jobs, self._pack_tokens)
        return []

    def _order(self) -> list[_Job]:
        """The urgent ones first; of these those with the least left to do, or the oldest now and then."""
        jobs = [job for job in self._jobs if job.todo]
        by_length = self._turn % _OLDEST_EVERY
        jobs.sort(key=lambda job: (job.command.priority, job.todo.tokens if by_length else 0))
        return jobs

    def _pack(self, jobs: list[_Job], size: int) -> list[_Part]:
        """A long text and what goes well with it, of several jobs if one does not fill the pack."""
        self._turn += 1
        pack: list[_Part] = []
        used = 0
        for job in jobs:
            while job.todo and len(pack) < PACK_TEXTS:
                length = job.todo.next_to(used, size) if pack else job.todo.longest
                if length is None:
                    break
                pack.append(_Part(job, job.todo.take(length)))
                used += length
        return pack

    def _run(self, lane: Lane, parts: list[_Part], threads: int) -> None:
        texts = [part.row.tokens for part in parts]
        future = self._pool.submit(lane.compute, texts, self.width, threads)
        self._running[lane] = (future, parts)

    def _collect(self, lane: Lane) -> list[Failed]:
        """The results of a pass that is done."""
        future, parts = self._running.pop(lane)
        lane.abort_flag.clear()
        try:
            result, values = future.result()
            if result != 0:
                stuck = self.watch.broken_off()
                if result != 2 or stuck:
                    raise stuck or native.decode_error(result)
                for job, row in parts:  # Aborted: its request is gone, or goes on.
                    job.todo.add(row)
                return []
        except LmnbError as error:
            return self._fail([part.job for part in parts], error)
        failed = []
        for (job, row), value in zip(parts, values, strict=True):
            try:
                job.finish(row, value)
            except NumericError as error:
                failed += self._fail([job], error)
        return failed

    def _fail(self, jobs: Sequence[_Job], error: LmnbError) -> list[Failed]:
        gone = [job for job in self._jobs if job in jobs]
        self._jobs = [job for job in self._jobs if job not in gone]
        return [Failed(job.command.id, error.to_dict()) for job in gone]

    def _report(self) -> list[Reply]:
        done = [job for job in self._jobs if not job.missing]
        self._jobs = [job for job in self._jobs if job.missing]
        replies = [self.answer(job.command, job.rows, job.lengths) for job in done]
        now = monotonic()
        slow = [job for job in self._jobs if now - job.told > _PROGRESS_INTERVAL]
        if slow:
            replies.append(Step(progress=tuple(_progress(job) for job in slow)))
        for job in slow:
            job.told = now
        return replies

    @abc.abstractmethod
    def answer(
        self, command: Embed | Rerank, rows: NDArray[np.float32], lengths: tuple[int, ...]
    ) -> Reply:
        """The reply, from the pooled rows (texts, width) and the texts' lengths in tokens."""

    def fit(self, tokens: Tokens, index: int, truncate: Truncate) -> Tokens:
        """A text's tokens, cut if they are too many and that is wanted.

        Raises
        ------
        InvalidRequest
            It is empty, or too long.
        """
        if not len(tokens):
            raise InvalidRequest(f"Input {index} is empty.", param="input")
        limit = self.context_length
        if len(tokens) <= limit:
            return tokens
        if not truncate:
            raise InvalidRequest(
                f"Input {index} has {len(tokens)} tokens; this model takes at most {limit}.",
                hint="Split it, or ask for truncation.",
                param="input",
            )
        # The marks around a text ([CLS], [SEP]) are its first and last token, and stay.
        if truncate == "start" and limit > 1:
            return np.concatenate([tokens[:1], tokens[1 - limit :]])
        return np.concatenate([tokens[: limit - 1], tokens[-1:]])


class Embedder(Pooler):
    """Embeds with one loaded model: one vector a text.

    Pooling is the model's: mean, cls or last token. For a model that has none, it is the mean.
    """

    command: ClassVar[type[Generate | Embed | Rerank]] = Embed
    can = "embeds only"

    def __init__(self, model: Model, config: LoadConfig, watch: Watch | None = None) -> None:
        dimensions: int = L.llama_model_n_embd_out(model.handle)
        super().__init__(model, config, watch, width=dimensions)

    def prompt(self, command: Embed) -> list[Tokens]:
        """Token ids of each input. Thread-safe.

        Raises
        ------
        InvalidRequest
            An input is empty, too long (without `truncate`), or has ids outside the vocabulary.
        """
        return [
            self.fit(self._tokens(value), index, command.truncate)
            for index, value in enumerate(command.inputs)
        ]

    def _tokens(self, value: str | tuple[int, ...]) -> Tokens:
        if isinstance(value, str):
            return self.model.tokenize_for_embedding(value)
        return self.model.check_tokens(value, param="input")

    def answer(
        self, command: Embed | Rerank, rows: NDArray[np.float32], lengths: tuple[int, ...]
    ) -> Embedded:
        """The vectors, of length 1 unless asked otherwise."""
        assert isinstance(command, Embed)
        if command.normalize:
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows / np.maximum(norms, 1e-12)
        return Embedded(command.id, rows.astype("<f4").tobytes(), self.width, lengths)


def _progress(job: _Job) -> Progress:
    return Progress(job.command.id, len(job.lengths) - job.missing, len(job.lengths), 0)


def longest_text(model: Loaded, config: LoadConfig) -> int:
    """Tokens of the longest text; if not told otherwise what the model was trained for, within limits.

    llama.cpp makes room for the logits of every token even where nobody wants them.
    """
    trained: int = L.llama_model_n_ctx_train(model.handle)
    vocabulary = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model.handle))
    affordable = max(512, _LOGITS_BYTES // (4 * vocabulary))
    wanted = min(2048, affordable) if config.context_length is None else config.context_length
    if wanted < 1:
        raise InvalidRequest("context_length must be at least 1.", param="context_length")
    return min(wanted, trained)


def batch_tokens(model: Loaded, config: LoadConfig) -> int:
    """Room of the first lane."""
    return max(longest_text(model, config), _pack_tokens(model))


def _pack_tokens(model: Loaded) -> int:
    return _GPU_PACK_TOKENS if model.gpu_layers else _PACK_TOKENS
