"""What becomes of a request before it is queued: tokens, images, the grammar and the sampler.

All of it may take a while, so that the preparing thread does it and the loop goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from lmnb.engine.constraint import Constraint
from lmnb.engine.context import Context
from lmnb.engine.draft_model import DraftModel, DraftModels
from lmnb.engine.grammar import Grammars
from lmnb.engine.model import Model
from lmnb.engine.options import Segment
from lmnb.engine.prefixes import Tokens
from lmnb.engine.protocol import Generate
from lmnb.engine.sampling import Sampler
from lmnb.engine.thinking import ThinkingLimit
from lmnb.engine.triggered import Triggered
from lmnb.engine.vision import Part, Span, Vision
from lmnb.errors import ContextOverflow, InvalidRequest, LmnbError, NotSupported


class Prepared(NamedTuple):
    """A request that is ready to be queued.

    In the end the sampler is to be closed, and the lease of the drafter to be given back.
    """

    tokens: Tokens
    sampler: Sampler
    constraint: Constraint | None
    media: tuple[Span, ...]
    drafter: DraftModel | None


class Prompts:
    """Prepares requests for one model. `blindness` says why there is no `vision`, if so."""

    def __init__(
        self,
        model: Model,
        context: Context,
        draft_models: DraftModels,
        vision: Vision | None,
        blindness: str,
    ) -> None:
        self._model = model
        self._context_length = context.context_length
        self._batch_size = context.batch_size
        self._draft_models = draft_models
        self._vision = vision
        self._blindness = blindness
        self._grammars = Grammars(model)

    def prepare(self, command: Generate) -> Prepared:
        """Everything that is known of a generation before its first forward pass.

        Raises
        ------
        ContextOverflow, InvalidRequest, NotSupported
            The prompt is too long, empty, or has ids outside the vocabulary; a sampling option is
            out of its range; the answer's grammar cannot be enforced; or the draft model cannot
            draft for this one.
        InvalidModel, ModelLoadFailed
            The draft model cannot be loaded.
        """
        media: tuple[Span, ...] = ()
        if command.tokens is None:
            tokens, media = self.tokenize(command.segments, add_bos=command.add_bos)
        else:
            tokens = self._model.check_tokens(command.tokens, param="prompt")
        if not len(tokens):
            raise InvalidRequest("The prompt is empty.", param="prompt")
        if len(tokens) >= self._context_length:
            raise ContextOverflow(len(tokens), self._context_length)
        self._check_media(tokens, media)
        if not 0 <= (command.logprobs or 0) <= self._model.n_vocab:
            raise InvalidRequest("logprobs must not be negative.", param="logprobs")
        constraint = self._constraint(command, len(tokens))
        # Images are no tokens that a draft model could read.
        drafter = None if media else self._draft_models.lease(command.draft_model)
        try:
            sampler = Sampler(command.sampling, self._model, tokens[tokens >= 0])
        except LmnbError:
            if drafter is not None:
                self._draft_models.give_back()
            raise
        return Prepared(tokens, sampler, constraint, media, drafter)

    def tokenize(
        self, segments: Iterable[Segment], *, add_bos: bool
    ) -> tuple[Tokens, tuple[Span, ...]]:
        """The tokens of a prompt, and where there are images or sounds in it. Thread-safe."""
        segments = tuple(segments)
        if all(segment.media is None for segment in segments):
            return self._model.tokenize(segments, add_bos=add_bos), ()
        if self._vision is None:
            raise NotSupported(
                f"The model cannot read images or sounds: {self._blindness}.",
                hint="Put its projector (mmproj-….gguf) beside its file and load it again.",
                param="messages",
            )
        parts: list[Part] = []
        for is_text, group in groupby(segments, key=lambda segment: segment.media is None):
            if is_text:
                parts.extend(Part(*text) for text in self._model.joined(tuple(group)))
            else:
                parts.extend(Part("", special=False, media=segment.media) for segment in group)
        tokens, media = self._vision.tokenize(parts)
        whole = self._model.with_bos(tokens, add_bos=add_bos)
        shift = len(whole) - len(tokens)
        return whole, tuple(Span(s.start + shift, s.end + shift, s.medium) for s in media)

    def _constraint(self, command: Generate, prompt_length: int) -> Constraint | None:
        answer = self._answer_constraint(command, prompt_length)
        if command.thinking is None:
            return answer
        return ThinkingLimit(self._model, command.thinking, answer)

    def _answer_constraint(self, command: Generate, prompt_length: int) -> Constraint | None:
        if (spec := command.constraint) is None:
            return None
        most = self._context_length - prompt_length
        if command.max_tokens is not None and command.max_tokens >= 0:
            most = min(most, command.max_tokens)
        grammar = self._grammars.start(spec, most)
        if spec.trigger is None:
            return grammar
        return Triggered(grammar, self._model, spec, spec.trigger)

    def _check_media(self, tokens: Tokens, media: tuple[Span, ...]) -> None:
        if media and media[-1].end == len(tokens):
            raise InvalidRequest("A prompt must not end with an image.", param="messages")
        for span in media:
            if not span.medium.causal and span.medium.length > self._batch_size:
                raise InvalidRequest(
                    f"The image takes {span.medium.length} tokens, which have to fit a batch; "
                    f"the model is loaded with eval_batch_size {self._batch_size}.",
                    hint="Send a smaller image, or load the model with a larger eval_batch_size.",
                    param="messages",
                )
