"""Constrained decoding: which tokens a schema, a regex or a Lark grammar allows next.

llguidance does the work; here it gets the model's vocabulary, and its masks reach the logits. A
grammar may begin later than the answer, after the model's thinking.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from itertools import islice

import msgspec
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from lmnb.engine import grammar_source, native
from lmnb.engine.constraint import Row, only
from lmnb.engine.crossing import Crossings
from lmnb.engine.model import Model
from lmnb.engine.options import ConstraintSpec, Segment
from lmnb.errors import InvalidRequest, LmnbError

CONTROL = b"\xff"
"""Stands before the text of a control token. No other text has this byte."""

_MOST_COMPILED = 32
_MOST_CROSSED = 16
_MOST_FORCED = 64
_CLOSER = re.compile(rb"\s*(?:[\"'\])}]+\s*|</[^<]*|<\|\"\|>)")
_STRONGEST_PULL = 40.0
"""What closers gain at the limit: more than a model is ever sure of going on. A call that is cut is
worth nothing."""
_PENALTIES = np.where(
    np.arange(256)[:, None] >> np.arange(8) & 1, np.float32(0), np.float32(-np.inf)
)
"""What the eight bits of each byte add to the logits, (256, 8)."""
_TOO_COMPLEX = re.compile(r"too (many|complex|big)", re.IGNORECASE)


class Vocabulary:
    """The model's tokens as llguidance sees them, and memory for one mask.

    A token that shows no text (end of turn, tool-call markers) is a special token: no text of a
    grammar can be made of it.
    """

    def __init__(self, model: Model) -> None:
        self.pieces = model.special_pieces()
        self.marked = [
            CONTROL + piece if piece and not shown else piece
            for piece, shown in zip(self.pieces, model.pieces, strict=True)
        ]
        """The pieces as llguidance wants them: those that show no text begin with `CONTROL`.

        Tokens without any text have none here either: `CONTROL` alone would pass for the beginning of
        whatever control token a grammar demands.
        """
        self.ends = np.array(sorted(model.end_tokens), np.int64)
        closers = (token for token, piece in enumerate(self.pieces) if _CLOSER.fullmatch(piece))
        self.closers = np.array(sorted({*closers, *model.end_tokens}), np.int64)
        self.tokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=self.marked,
            vocab_ptr=model.vocab,
            tokenize_fptr=native.address_of_tokenize(),
            eos_token=sorted(model.end_tokens),
        )
        self.mask = np.zeros((model.n_vocab + 31) // 32 * 4, np.uint8)
        self._crossings: dict[bytes, Crossings] = {}

    def crossings(self, text: bytes) -> Crossings:
        """The tokens that may end this text and say more. A model's template makes for one or two."""
        found = self._crossings.get(text)
        if found is None:
            if len(self._crossings) >= _MOST_CROSSED:
                self._crossings.clear()
            found = self._crossings[text] = Crossings(self.pieces, text)
        return found

    def tokens(self, text: bytes) -> list[int]:
        """Tokens of a text in mid-answer: nothing is put in front of it, no control token is read."""
        found: list[int] = self.tokenizer.tokenize_bytes(text)
        return found


class Grammars:
    """The grammars of one model, compiled once each. For one thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._vocabulary: Vocabulary | None = None
        self._compiled: OrderedDict[tuple[str, str, bool], LLMatcher] = OrderedDict()

    def start(self, spec: ConstraintSpec, most: int | None = None) -> Grammar:
        """The grammar at the beginning of an answer, or of what follows its trigger.

        `most`: tokens the answer may have.

        The first call takes about 0.1 s per 50,000 tokens of the vocabulary, for which llguidance
        keeps the GIL, so that running answers pause once; models that never meet a grammar are
        spared it. Compiling happens in this thread, and lets the others go on.

        Raises
        ------
        InvalidRequest
            As `grammar_source.check`; or no text at all fits the grammar.
        """
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self._model)
        key = (spec.kind, spec.text, spec.lenient)
        matcher = self._compiled.pop(key, None)
        if matcher is None:
            matcher = grammar_source.compiled(spec, self._vocabulary.tokenizer)
        self._compiled[key] = matcher
        if len(self._compiled) > _MOST_COMPILED:
            self._compiled.popitem(last=False)
        opening = self._model.tokenize((Segment(spec.opening or "", special=True),), add_bos=False)
        if spec.trigger is not None:  # whoever looks for it sees to the thinking too
            spec = msgspec.structs.replace(spec, after=None)
        grammar = Grammar(matcher.deep_copy(), self._vocabulary, spec, opening.tolist())
        if spec.closing:
            grammar.most = most
        return grammar


class Grammar:
    """A `Constraint`: the grammar of one answer, at the place the answer has reached.

    It waits while the model thinks, that is until `after` has been written, if the spec says so.
    With an `opening` the model may begin to think or answer at once; its first token decides.
    While it waits everything is allowed but an end, since an answer that ended in mid-thought would
    have escaped the grammar; and but tokens that end the thinking and go on as the grammar does not.
    Where the model wants one of those, the thinking is ended.
    """

    def __init__(
        self, matcher: LLMatcher, vocabulary: Vocabulary, spec: ConstraintSpec, opening: list[int]
    ) -> None:
        self.vocabulary = vocabulary
        self._matcher = matcher
        self._after = (spec.after or "").encode()
        self._opening = opening if self._after else []
        self._waiting = bool(self._after) and not self._opening
        self._crossings = vocabulary.crossings(self._after) if self._after else None
        self._seen = b""  # the end of the thinking, as far as `after` may have begun in it
        self._ending: list[int] = []  # what ends the thinking, if the next token is the first of it
        self._ahead: deque[int] = deque()
        self.most: int | None = None
        """Tokens the answer may have, if it is to be drawn to its end."""
        self.written = 0

    @property
    def begun(self) -> bool:
        """Whether it binds, and no longer waits for the thinking to begin or to end."""
        return not (self._waiting or self._opening)

    @property
    def finished(self) -> bool:
        """Whether only the end of the text may follow."""
        return self.begun and self._matcher.is_stopped()

    def mask(self, row: Row) -> None:
        """Set the logits of forbidden tokens to -inf, in place. `row` is (vocabulary,).

        Raises
        ------
        InvalidRequest
            The grammar is too complex at this place.
        """
        if self._ahead:
            only(self._ahead[0], row)
            return
        if self._crossings is not None and self._waiting:
            row[self.vocabulary.ends] = -np.inf
            self._stop_at_the_border(self._crossings, row)
            return
        mask = self.vocabulary.mask
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._check()
        if self._opening:
            first = self._opening[0]
            mask[first // 8] |= 1 << first % 8
        apply(mask, row)
        if self.most is not None and 2 * self.written > self.most:
            nearness = min(1.0, 2 * self.written / self.most - 1)
            row[self.vocabulary.closers] += _STRONGEST_PULL * nearness**2

    def accept(self, token: int) -> None:
        """Advance by a token.

        Raises
        ------
        LmnbError
            The grammar does not allow it: an error of the engine.
        """
        self.written += 1
        if self._ahead and self._ahead[0] == token:
            self._ahead.popleft()
        else:
            self._ahead.clear()
        ending, self._ending = self._ending, []
        if ending and ending[0] == token:
            self._ahead.extend(ending[1:])
        opening, self._opening = self._opening, []
        if opening and opening[0] == token:
            self._waiting = True
            self._ahead.extend(opening[1:])
        elif self._waiting:
            self._watch(token)
        else:
            self._consume([token])

    def begin(self, tokens: list[int]) -> bool:
        """Begin with tokens that have been written; False, and nothing done, if it does not so."""
        if not self._may_begin(tokens):
            return False
        self._consume(tokens)
        return True

    def forced(self) -> list[int]:
        """The next tokens, as far as the grammar leaves no choice about them; at most 64.

        They are those that the tokenizer would make of the text.
        """
        if self.begun and not self._ahead:
            self._ahead.extend(self._matcher.compute_ff_tokens())
            self._check()
        return list(islice(self._ahead, _MOST_FORCED))

    def allowed(self, tokens: list[int]) -> int:
        """How many of these, in order, the grammar would accept."""
        if self._opening or (self._waiting and self._ahead):
            return 0  # rare: nobody guesses how a model begins to think
        if not self._waiting:
            return self._matcher.validate_tokens(tokens)
        seen = self._seen
        for count, token in enumerate(tokens):
            if token in self.vocabulary.ends:
                return count
            seen += self.vocabulary.pieces[token]
            if self._after in seen:
                return count + 1  # what comes then is for the grammar to say
        return len(tokens)

    def _may_begin(self, tokens: list[int]) -> bool:
        return self._matcher.validate_tokens(tokens) == len(tokens)

    def _stop_at_the_border(self, crossings: Crossings, row: Row) -> None:
        """Forbid what ends the thinking and goes on wrongly. If it is likely, so is the end alone."""
        best, ending = np.float32(-np.inf), b""
        for one in crossings.at(self._seen):
            if not self._may_begin(self.vocabulary.tokens(one.beyond)):
                if row[one.token] > best:
                    best, ending = row[one.token], one.ending
                row[one.token] = -np.inf
        if ending:
            tokens = self.vocabulary.tokens(ending)
            if row[tokens[0]] < best:
                row[tokens[0]] = best
                self._ending = tokens

    def _watch(self, token: int) -> None:
        """See whether the thinking is over. What its last token says beyond is the answer's."""
        seen = self._seen + self.vocabulary.pieces[token]
        _, over, begun = seen.partition(self._after)
        if not over:
            self._seen = seen[-len(self._after) :]
            return
        self._waiting, self._seen = False, b""
        if begun := begun.lstrip():
            self._consume(self.vocabulary.tokens(begun))

    def _consume(self, tokens: list[int]) -> None:
        if not self._matcher.consume_tokens(tokens):
            self._check()

    def _check(self) -> None:
        """Fail once the matcher has: it never recovers, and nothing may be generated without it."""
        matcher = self._matcher
        if not matcher.is_error():
            return
        text = matcher.get_error().partition("\n")[0]
        if _TOO_COMPLEX.search(text):
            raise InvalidRequest(
                f"The output format is too complex to follow ({text}).",
                hint="Make its patterns simpler.",
            )
        raise LmnbError(f"The grammar of the answer failed: {text}.")


def apply(mask: NDArray[np.uint8], row: Row) -> None:
    """Set the logits whose bits are 0 to -inf.

    A table lookup per byte costs the same for any mask: 11 µs for 50,000 tokens, where the faster
    of gathering and masked copying takes from 10 to 200.
    """
    row += _PENALTIES.take(mask, axis=0).reshape(-1)[: len(row)]
