"""A second, smaller model that drafts for the first.

It has a cache of its own with the same slots, and reads what the first has read before it can
guess: the prompt in slices, later the one or two tokens that came since its last draft.
"""

from __future__ import annotations

import threading
from pathlib import Path
from time import monotonic

import msgspec
import numpy as np

from lmnb.engine.config import LoadConfig
from lmnb.engine.context import Context
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.prefixes import Tokens, common_prefix
from lmnb.engine.sequence import Sequence
from lmnb.errors import InvalidRequest

_MOST_MORE_TOKENS = 128
_FIRST_SHARED_TOKEN = 5
"""What llama.cpp asks of two vocabularies that are to work together (common/speculative.cpp)."""
_SLICE = 128
"""Tokens it reads at most in a step, as long as others wait for theirs."""
_SURE = 0.4
"""Probability that a token must have in the draft model for the draft to go on."""


class _Cells:
    """A slot of the draft model's cache: `length` tokens, as the draft model has read them."""

    def __init__(self, capacity: int) -> None:
        self.tokens: Tokens = np.zeros(capacity, np.int32)
        self.length = 0
        self.owner = -1
        self.agreed = 0
        """Tokens known to be those of the owner."""


class DraftModel:
    """Drafts for the sequences of one target model."""

    def __init__(self, path: str, target: Model, context: Context, config: LoadConfig) -> None:
        """Load it.

        Raises
        ------
        InvalidRequest
            Its vocabulary is another one, or its memory cannot go back behind a wrong draft.
        InvalidModel, ModelLoadFailed
            As for any model.
        """
        self.path = path
        same = msgspec.structs.replace(
            config,
            context_length=context.context_length,
            parallel=context.parallel,
            num_experts=None,
            experts_on_cpu=None,
            draft_model=None,
        )
        header = read_header(Path(path))
        if header.kind != "llm":
            raise InvalidRequest("An embedding model cannot draft.", param="draft_model")
        self._model = Model.load(path, header, same, on_progress=lambda _: None)
        try:
            check_vocabulary(target, self._model)
            self._context = _context(self._model, same)
        except BaseException:
            self._model.close()
            raise
        self._n_vocab = min(target.n_vocab, self._model.n_vocab)
        self._cells = [_Cells(context.context_length) for _ in range(context.parallel)]
        self.seconds = 0.0

    def close(self) -> None:
        """Give the memory back."""
        self._context.close()
        self._model.close()

    def draft(self, sequences: list[Sequence], count: int, *, alone: bool) -> list[list[int]]:
        """Up to `count` guesses for each sequence; none for one that it is still reading.

        `sequences` are in the order of their slots. If they are not `alone`, others wait meanwhile.
        """
        guesses: list[list[int]] = [[] for _ in sequences]
        room = self._context.batch_size
        active = self._catch_up(sequences, room if alone else min(_SLICE, room))
        while active:
            rows = self._context.logits(len(active))
            sure = []
            for row, index in zip(rows, active, strict=True):
                token = int(row.argmax())
                # The probability of the likeliest token is 1 / sum(exp(logit - highest logit)).
                if token < self._n_vocab and _SURE * np.exp(row - row[token]).sum() <= 1:
                    guesses[index].append(token)
                    if token not in self._model.end_tokens:
                        sure.append(index)
            active = [index for index in sure if len(guesses[index]) < count]
            if active and not self._go_on([(sequences[i], guesses[i][-1]) for i in active]):
                break
        return guesses

    def _catch_up(self, sequences: list[Sequence], room: int) -> list[int]:
        """Read what came since the last draft; which of the sequences are read to their end."""
        batch = self._context.batch
        batch.clear()
        read: list[tuple[_Cells, int]] = []
        ready = []
        for index, sequence in enumerate(sequences):
            cells = self._synchronized(sequence)
            missing = sequence.tokens[cells.length :]
            taken = missing[: room - batch.size]
            if not len(taken) or taken.max() >= self._n_vocab:
                continue
            assert sequence.slot is not None
            done = len(taken) == len(missing)
            batch.add(taken, cells.length, sequence.slot, int(done))
            cells.tokens[cells.length : cells.length + len(taken)] = taken
            read.append((cells, len(taken)))
            if done:
                ready.append(index)
        return ready if read and self._decode(read) else []

    def _synchronized(self, sequence: Sequence) -> _Cells:
        """The cells of a sequence's slot, without what has turned out not to be its text."""
        assert sequence.slot is not None
        cells = self._cells[sequence.slot]
        if cells.owner != sequence.id:
            cells.owner, cells.agreed = sequence.id, 0
        known = sequence.tokens[cells.agreed : sequence.length - 1]  # the last gives the logits
        same = cells.agreed + common_prefix(cells.tokens[cells.agreed : cells.length], known)
        cells.length = cells.agreed = same if self._context.trim(sequence.slot, same) else 0
        return cells

    def _go_on(self, tokens: list[tuple[Sequence, int]]) -> bool:
        batch = self._context.batch
        batch.clear()
        read = []
        for sequence, token in tokens:
            assert sequence.slot is not None
            cells = self._cells[sequence.slot]
            cells.tokens[cells.length] = token
            batch.add(cells.tokens[cells.length : cells.length + 1], cells.length, sequence.slot, 1)
            read.append((cells, 1))
        began = monotonic()
        done = self._decode(read)
        measured = monotonic() - began
        self.seconds = 0.9 * self.seconds + 0.1 * measured if self.seconds else measured
        return done

    def _decode(self, read: list[tuple[_Cells, int]]) -> bool:
        if self._context.decode() != 0:
            for slot, cells in enumerate(self._cells):  # whatever they hold now, it is read again
                self._context.trim(slot, 0)
                cells.length = cells.agreed = 0
            return False
        self._context.synchronize()
        for cells, count in read:
            cells.length += count
        return True


class DraftModels:
    """The draft model of an engine: one at a time, loaded when it is first asked for.

    The preparing thread takes leases, the engine's thread gives them back. A model is replaced by
    another only when there are none, so that nothing that is at work is closed.
    """

    def __init__(
        self, target: Model, context: Context, config: LoadConfig, *, enabled: bool
    ) -> None:
        self._enabled = enabled
        self._target, self._context, self._config = target, context, config
        self._loaded: DraftModel | None = None
        self._leases = 0
        self._lock = threading.Lock()
        self.default = config.draft_model
        """Path of the one for requests that name none."""
        if self.default:
            self._load(self.default)

    def lease(self, path: str | None) -> DraftModel | None:
        """The draft model in that file (None: the default), until it is given back.

        Raises
        ------
        InvalidRequest
            It cannot draft for this model, nothing can, or another one is in use.
        InvalidModel, ModelLoadFailed
            It cannot be loaded.
        """
        path = self.default if path is None else path
        if not path:
            return None
        with self._lock:
            is_other = self._loaded is not None and self._loaded.path != path
            if is_other and self._leases:
                raise InvalidRequest(
                    "Another draft model is at work for this model right now.",
                    hint="Try again when those requests have ended, or name the same draft model.",
                    param="draft_model",
                )
            self._leases += 1
        try:
            return self._load(path)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """End a lease."""
        with self._lock:
            self._leases -= 1

    def close(self) -> None:
        """Give the memory back."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def _load(self, path: str) -> DraftModel:
        if not self._enabled:
            raise InvalidRequest(
                "This model cannot verify drafts: its memory cannot go back, or draft_tokens is 0.",
                hint="Leave out the draft model.",
                param="draft_model",
            )
        if self._loaded is not None and self._loaded.path != path:
            self.close()
        if self._loaded is None:
            self._loaded = DraftModel(path, self._target, self._context, self._config)
        return self._loaded


def _context(model: Model, config: LoadConfig) -> Context:
    context = Context(model, config)
    if not context.can_trim:
        context.close()
        raise InvalidRequest(
            "This model cannot draft: its memory cannot go back behind a wrong guess.",
            hint="Use a draft model without recurrent layers or sliding windows.",
            param="draft_model",
        )
    return context


def check_vocabulary(target: Model, draft: Model) -> None:
    """Two models can only work together if token ids mean the same to both.

    Raises
    ------
    InvalidRequest
        Naming the first difference.
    """
    hint = "Take a smaller model of the same family as the draft model."
    if target.bos != draft.bos or target.eos != draft.eos:
        raise InvalidRequest(
            "The draft model marks the beginning or end of a text by other tokens than the model.",
            hint=hint,
            param="draft_model",
        )
    if abs(target.n_vocab - draft.n_vocab) > _MOST_MORE_TOKENS:
        raise InvalidRequest(
            f"The draft model has {draft.n_vocab} tokens, the model {target.n_vocab}: "
            "they do not share a vocabulary.",
            hint=hint,
            param="draft_model",
        )
    for token, (ours, theirs) in enumerate(zip(target.pieces, draft.pieces, strict=False)):
        if ours != theirs and token >= _FIRST_SHARED_TOKEN:
            raise InvalidRequest(
                f"Token {token} is {ours!r} to the model and {theirs!r} to the draft model: "
                "they do not share a vocabulary.",
                hint=hint,
                param="draft_model",
            )
