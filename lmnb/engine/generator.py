"""The engine loop of a generating model: many sequences, one forward pass a step."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import monotonic
from typing import ClassVar

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from lmnb.engine import native, placement
from lmnb.engine.adapters import Adapters
from lmnb.engine.answers import Answers
from lmnb.engine.config import LoadConfig
from lmnb.engine.context import Context, default_threads
from lmnb.engine.draft import Assisted, Speculation
from lmnb.engine.draft_model import DraftModels
from lmnb.engine.host_memory import free_memory
from lmnb.engine.logprobs import certain, spelled
from lmnb.engine.model import Model
from lmnb.engine.next_tokens import NextTokens
from lmnb.engine.options import Segment
from lmnb.engine.prefixes import Tokens
from lmnb.engine.prompts import Prepared, Prompts
from lmnb.engine.protocol import Delta, Embed, End, Failed, Generate, Reply, Rerank, Step
from lmnb.engine.saved import Files
from lmnb.engine.scheduler import Scheduler
from lmnb.engine.sequence import Sequence
from lmnb.engine.vision import Span, Vision, open_vision
from lmnb.engine.watch import Watch
from lmnb.errors import InvalidRequest, LmnbError, NumericError

_CACHE_SHARE = 16
"""Prefixes saved to host memory take at most this fraction of it, if nothing else is asked for."""
_BATCH_FOR_IMAGES = 1024
_PATIENCE_SECONDS = 0.02
"""Longest sleep while an image is encoded, until new requests and cancels are looked for."""
_WORTH_ABORTING = 64
"""Prompt tokens in a step from which on a cancel interrupts it instead of waiting for its end."""
_NO_ROWS = np.empty((0, 0), np.float32)
_MOST_FAILED_PASSES = 3
"""Forward passes in a row that may fail until the process is given up."""


class Generator:
    """Generates for one loaded model. `step` is the loop's body; the rest fills and empties it."""

    command: ClassVar[type[Generate | Embed | Rerank]] = Generate

    def __init__(
        self,
        model: Model,
        config: LoadConfig,
        watch: Watch | None = None,
        files: Files | None = None,
    ) -> None:
        self.model = model
        self.watch = watch or Watch()
        self.adapters = Adapters(model, config.adapters or ())
        self.vision, blindness = open_vision(
            model, config, self.watch, threads=config.threads or default_threads()
        )
        if self.vision and not self.vision.causal and config.eval_batch_size is None:
            # All tokens of an image have to fit a batch.
            config = msgspec.structs.replace(config, eval_batch_size=_BATCH_FOR_IMAGES)
        self.context = Context(model, config)
        self.context_length = self.context.context_length
        self.batch_size = self.context.batch_size
        self.parallel = self.context.parallel
        self.threads = self.context.threads
        self.swa_full = self.context.swa_full
        self.cache_ram = _cache_bytes(config)
        self.scheduler = Scheduler(self.context, self.cache_ram, files)
        self.speculation = Speculation(self.context, config.draft_tokens)
        self.draft_models = DraftModels(
            model, self.context, config, enabled=self.speculation.enabled
        )
        self._next_tokens: NextTokens | None = None
        if self.speculation.enabled and placement.predicts_ahead(model.path, model.header, config):
            self._next_tokens = NextTokens(model, self.context, config)
        self._prompts = Prompts(model, self.context, self.draft_models, self.vision, blindness)
        self.answers = Answers(model)
        self._sequences: dict[int, Sequence] = {}
        self._cancelled: set[int] = set()
        self._failures: list[Reply] = []
        self._failed_passes = 0
        self._wipe_first = False
        self._interrupting = threading.Lock()
        self._reading: frozenset[int] = frozenset()  # ids whose prompts the running step reads

    def close(self) -> None:
        """Give the memory back."""
        if self.vision:
            self.vision.close()
        self.draft_models.close()
        if self._next_tokens is not None:
            self._next_tokens.close()
        self.context.close()
        self.model.close()

    # --- in ------------------------------------------------------------------------

    def prompt(self, command: Generate) -> Prepared:
        """What a request needs before it is queued; see `Prompts.prepare`. For any one thread."""
        return self._prompts.prepare(command)

    def tokenize(
        self, segments: Iterable[Segment], *, add_bos: bool
    ) -> tuple[Tokens, tuple[Span, ...]]:
        """The tokens of a prompt; see `Prompts.tokenize`. Thread-safe."""
        return self._prompts.tokenize(segments, add_bos=add_bos)

    def submit(self, command: Generate, prepared: Prepared) -> None:
        """Queue a generation; a wrong option is reported by the next step."""
        prompt, sampler, constraint, media, drafter = prepared
        limit = self.context.context_length
        if command.max_tokens is not None and command.max_tokens >= 0:
            limit = min(limit, len(prompt) + command.max_tokens)
        try:
            adapters = self.adapters.choose(command.adapters)
            sequence = Sequence(command, prompt, limit, sampler, constraint, adapters, media)
            if drafter is not None:
                sequence.assisted = Assisted(sequence, drafter)
            elif self._next_tokens is not None and command.draft_model is None and not media:
                sequence.assisted = Assisted(sequence, self._next_tokens)
            if command.score_prompt:
                first = int(prompt[0])
                sequence.scores.append(spelled(certain(first, 0, self.model), first, self.model))
            self.answers.take_forced(sequence)
        except LmnbError as error:
            sampler.close()
            if drafter is not None:
                self.draft_models.give_back()
            self._failures.append(Failed(command.id, error.to_dict()))
            return
        self._sequences[sequence.id] = sequence
        self.scheduler.add(sequence)

    def abort(self, request: int) -> None:
        """Stop a generation, if it is still there."""
        self._cancelled.add(request)

    def interrupt(self, request: int) -> None:
        """Break off the running forward pass if it reads this request's prompt. Any thread."""
        with self._interrupting:
            if request in self._reading:
                self.context.abort.set()

    def give_up(self) -> None:
        """Break off the running forward pass, whosever it is. Any thread."""
        self.context.abort.set()

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._sequences or self._failures)

    def tidy(self) -> bool:
        """Do a piece of what can wait until nobody does; False if there is nothing left."""
        return self.scheduler.cache.persist()

    def counts(self) -> tuple[int, int, int]:
        """Running and waiting sequences, and tokens in the KV cache."""
        scheduler = self.scheduler
        tokens = scheduler.cache.idle_tokens + sum(s.computed for s in scheduler.running)
        return len(scheduler.running), len(scheduler.waiting), tokens

    # --- the loop's body ---------------------------------------------------------------

    def step(self) -> list[Reply]:
        """The next token of every answer, a slice of the waiting prompts, and the news of both."""
        ends = self._drop_cancelled()
        if self._wipe_first and not self.scheduler.running:
            self.scheduler.cache.clear()
            self.context.wipe()
            if self._next_tokens is not None:
                self._next_tokens.wipe()
            self._wipe_first = False
        if not self._wipe_first:
            self.scheduler.admit()
        self.adapters.apply(self.context.handle, self.scheduler.take_turn())
        self.scheduler.close_gap()
        # Two passes, since llama.cpp would split a mixed batch anyway; only the second is long,
        # and only it can be interrupted.
        answering = self.scheduler.decoding()
        self.speculation.propose(answering)
        self._run(answering)
        self._run(self.scheduler.prefilling())
        if self.vision:
            self._look(self.vision)
        return self._report(ends)

    def _look(self, vision: Vision) -> None:
        """Have media encoded, and read one that is. With nothing else to do, wait for it."""
        for sequence in self.scheduler.running:
            ahead = (span.medium for span in sequence.media if span.start >= sequence.computed)
            vision.request(ahead, sequence.id)
        if (seeing := self.scheduler.seeing()) is not None:
            self._read_medium(vision, *seeing)
        elif (running := self.scheduler.running) and all(s.awaits_encoding for s in running):
            vision.wait(_PATIENCE_SECONDS)

    def _read_medium(self, vision: Vision, sequence: Sequence, count: int) -> None:
        """One forward pass over the next tokens of a medium."""
        span = sequence.medium_here
        assert span is not None
        assert span.medium.encoding is not None
        assert sequence.slot is not None
        try:
            rows = span.medium.encoding.result()
        except LmnbError as error:
            self._fail(sequence, error)
            return
        start, medium = sequence.position, span.medium
        part = slice(sequence.seen, sequence.seen + count)
        places = vision.places(medium, start, self.context.dimensions)[:, part]
        began = monotonic()
        with self.watch.passing(count, [sequence.id]):
            self._reading = frozenset({sequence.id})
            result = self.context.decode_embeddings(
                rows[part],
                places,
                sequence.slot,
                end=start + medium.positions,
                causal=medium.causal,
            )
            with self._interrupting:
                self._reading = frozenset()
                self.context.abort.clear()
            if result == 0:
                self.context.synchronize()
                self._failed_passes = 0
                sequence.see(count)
                self.scheduler.observe([(sequence, count)], monotonic() - began)
                self.scheduler.keep(sequence)
            else:
                self._recover([(sequence, 0)], result)

    def _drop_cancelled(self) -> list[End]:
        if not self._cancelled:
            return []
        cancelled = [self._sequences[i] for i in self._cancelled if i in self._sequences]
        self._cancelled.clear()
        for sequence in cancelled:
            self._release(sequence)
        return [sequence.end() for sequence in cancelled]

    def _run(self, plan: list[tuple[Sequence, int]]) -> None:
        """One forward pass over some tokens of each sequence, and the tokens it brings."""
        if not plan:
            return
        # llama.cpp computes neighbouring slots together only if they come in order.
        plan.sort(key=lambda row: row[0].slot or 0)
        tokens = sum(count for _, count in plan)
        with self.watch.passing(tokens, [sequence.id for sequence, _ in plan]):
            outputs = [_outputs(sequence, count) for sequence, count in plan]
            if self._forward(plan, outputs):
                self._failed_passes = 0
                self._extend([sequence for sequence, _ in plan], outputs)

    def _forward(self, plan: list[tuple[Sequence, int]], outputs: list[int]) -> bool:
        """Compute the planned tokens, with logits for the last `outputs` of each sequence.

        False if nothing was computed this time.
        """
        batch = self.context.batch
        batch.clear()
        for (sequence, count), wanted in zip(plan, outputs, strict=True):
            assert sequence.slot is not None
            batch.add(sequence.next_tokens(count), sequence.position, sequence.slot, wanted)
        reading = plan[0][0].reading
        if batch.size >= _WORTH_ABORTING and batch.size > len(plan):
            self._reading = frozenset(sequence.id for sequence, _ in plan)
        began = monotonic()
        result = self.context.decode()
        with self._interrupting:
            self._reading = frozenset()
            self.context.abort.clear()
        if result == 0:
            for sequence, count in plan:
                sequence.computed += count
            self.context.synchronize()  # a GPU is still at it
            if self._next_tokens is not None:
                self._next_tokens.follow([sequence for sequence, _ in plan])
            seconds = monotonic() - began
            if reading:
                self.scheduler.observe(plan, seconds)
            else:
                self.speculation.observe(batch.size, seconds)
            for sequence, _ in plan:
                self.scheduler.keep(sequence)
            return True
        self._recover(plan, result)
        return False

    def _recover(self, plan: list[tuple[Sequence, int]], result: int) -> None:
        """After a forward pass that was aborted (2), or failed (any other)."""
        stuck = self.watch.broken_off()
        if result == 2 and stuck is None:
            for sequence, _ in plan:
                assert sequence.slot is not None
                sequence.drafts = []
                self.scheduler.rewind(sequence)
            return
        self._failed_passes += 1
        error = stuck or native.decode_error(result)
        if self._failed_passes >= _MOST_FAILED_PASSES:
            raise error  # whatever is broken, a new process may not have it
        for sequence, _ in plan:
            sequence.computed = sequence.seen = 0  # nobody knows what these cells hold now
            self._fail(sequence, error)

    def _extend(self, sequences: list[Sequence], outputs: list[int]) -> None:
        """Sample where the logits are there: one token of each sequence, more after right drafts."""
        rows = self.context.logits(sum(outputs)) if any(outputs) else _NO_ROWS
        first = 0
        for sequence, count in zip(sequences, outputs, strict=True):
            mine = rows[first : first + count]
            first += count
            if sequence.command.score_prompt and count:
                self.answers.score(sequence, mine, sequence.computed - count)
                mine = mine[-1 - len(sequence.drafts) :]
            if sequence.missing or sequence.reason is not None:
                continue
            if sequence.length >= sequence.limit:
                sequence.finish("length")  # nothing was to be generated
            else:
                self._answer(sequence, mine)

    def _answer(self, sequence: Sequence, rows: NDArray[np.float32]) -> None:
        """Go on with an answer. `rows` are the logits after its last token and after each draft."""
        start = sequence.computed
        try:
            self.answers.extend(sequence, rows)
        except LmnbError as error:
            self._spoil(sequence, error)
            return
        if sequence.computed < start + len(rows) - 1:
            assert sequence.slot is not None
            if not self.context.trim(sequence.slot, sequence.position):
                sequence.computed = 0
        sequence.drafts = []

    def _spoil(self, sequence: Sequence, error: LmnbError) -> None:
        """Fail a sequence whose cells nobody may find again: the values may not be numbers."""
        sequence.computed = 0
        self._fail(sequence, error)
        if isinstance(error, NumericError):
            # Attention multiplies cells that it is not to see by zero, and zero times NaN is NaN: the
            # next request in this slot would fail, too. So nobody starts until all can be wiped.
            self._wipe_first = True

    # --- out ---------------------------------------------------------------------------

    def _report(self, ends: list[End]) -> list[Reply]:
        running = self.scheduler.running
        progress = [p for s in running if s.reported < s.prompt_length and (p := s.progress())]
        # Text may be held back only if the next step is sure to come soon.
        patient = not any(s.reading for s in running)
        deltas: list[Delta] = [d for s in running if (d := s.delta(patient=patient))]
        deltas += [d for s in self.scheduler.suspended if (d := s.delta())]
        finished = [sequence for sequence in running if sequence.reason is not None]
        for sequence in finished:
            self._release(sequence)
            verbatim = sequence.command.verbatim
            ends.append(sequence.end(self.model.spell(sequence.output) if verbatim else None))
        replies = list(self._failures)
        self._failures.clear()
        if progress or deltas or ends:
            replies.append(Step(tuple(progress), tuple(deltas), tuple(ends)))
        return replies

    def _fail(self, sequence: Sequence, error: LmnbError) -> None:
        if last := sequence.delta():
            self._failures.append(Step((), (last,), ()))
        self._failures.append(Failed(sequence.id, error.to_dict()))
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        del self._sequences[sequence.id]
        self.scheduler.remove(sequence)
        sequence.sampler.close()
        if sequence.assisted is not None and sequence.assisted.drafter is not self._next_tokens:
            self.draft_models.give_back()


def _outputs(sequence: Sequence, count: int) -> int:
    """How many of the next `count` tokens, and the drafts after them, need logits."""
    samples = count == sequence.missing and sequence.length < sequence.limit
    if sequence.command.score_prompt and sequence.reading:
        return count
    return 1 + len(sequence.drafts) if samples else 0


def _cache_bytes(config: LoadConfig) -> int:
    """Host memory for prefixes that have lost their slot, and for checkpoints."""
    if config.cache_ram is None:
        return min(int(psutil.virtual_memory().total) // _CACHE_SHARE, free_memory() // 4)
    if config.cache_ram < 0:
        raise InvalidRequest("cache_ram must not be negative.", param="cache_ram")
    return config.cache_ram
