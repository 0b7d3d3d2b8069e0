"""How an answer goes on: a token sampled from logits, and those that a grammar forces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lmnb.engine.constraint import Row
from lmnb.engine.logprobs import certain, logprob, spelled
from lmnb.engine.model import Model
from lmnb.engine.options import TokenLogprob
from lmnb.engine.sampling import Candidates
from lmnb.engine.sequence import Sequence

_MOST_SHOWN = 16
"""Vocabularies kept; a model's template makes for one or two."""


class Answers:
    """Extends the answers of one model, one at a time."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._candidates = Candidates(model.n_vocab)
        self._shown: dict[tuple[str, ...], list[bytes]] = {}

    def score(self, sequence: Sequence, rows: NDArray[np.float32], start: int) -> None:
        """Score the prompt's tokens after those from `start` on, whose logits are `rows`."""
        for place, row in enumerate(rows, start + 1):
            if len(sequence.scores) <= place < sequence.prompt_length:
                token, top = int(sequence.tokens[place]), sequence.command.logprobs or 0
                sequence.scores.append(
                    spelled(logprob(row, token, top, self._model), token, self._model)
                )

    def extend(self, sequence: Sequence, rows: NDArray[np.float32]) -> None:
        """Take tokens as far as there are logits: `rows`, after its last token and each draft.

        A token is always sampled from the model's logits, and a draft that is the very same token
        spares the forward pass before the next. So drafts never change an answer.

        Raises
        ------
        NumericError, InvalidRequest
            The logits are not numbers, or leave nothing to choose from.
        """
        start = sequence.computed
        while sequence.missing == 0 and sequence.reason is None:
            self._take_sampled(sequence, rows[sequence.computed - start])
            self.take_forced(sequence)

    def take_forced(self, sequence: Sequence) -> None:
        """Take the tokens about which the grammar leaves no choice: the model need not be asked."""
        constraint = sequence.constraint
        if constraint is None or sequence.reason is not None or sequence.length >= sequence.limit:
            return
        for token in constraint.forced():
            wanted = sequence.command.logprobs
            report = None if wanted is None else certain(token, wanted, self._model)
            if not self._take(sequence, token, report):
                return
        if constraint.finished:
            sequence.finish("stop")

    def _take_sampled(self, sequence: Sequence, row: Row) -> None:
        sequence.begin_token()
        wanted = sequence.command.logprobs
        before = row
        if wanted is not None and (sequence.sampler.rewrites or sequence.constraint is not None):
            before = row.copy()
        token = sequence.sampler.sample(row, self._candidates, sequence.constraint)
        report = None if wanted is None else logprob(before, token, wanted, self._model)
        self._take(sequence, token, report)

    def _take(self, sequence: Sequence, token: int, report: TokenLogprob | None) -> bool:
        """Add a token to the answer; False if it ends with it."""
        sequence.sampler.accept(token)
        if sequence.constraint is not None:
            sequence.constraint.accept(token)
        piece = self._pieces(sequence)[token]
        ends = token in self._model.end_tokens or token in sequence.command.ends
        return sequence.take(token, piece, ends=ends, logprob=report)

    def _pieces(self, sequence: Sequence) -> list[bytes]:
        """The text of every token, as the request wants to have it."""
        shown = sequence.command.show_special
        if not shown:
            return self._model.pieces
        pieces = self._shown.get(shown)
        if pieces is None:
            if len(self._shown) >= _MOST_SHOWN:
                self._shown.clear()
            pieces = self._shown[shown] = self._model.pieces.copy()
            for text, token in self._model.control_tokens.items():
                if any(text in marker for marker in shown):
                    pieces[token] = text.encode()
        return pieces
