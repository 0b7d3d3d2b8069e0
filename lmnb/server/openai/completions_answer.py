"""Answers of the legacy Completions, whole and in chunks: one shape for both."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from lmnb.chat.events import Event, Finished, TextDelta
from lmnb.engine.protocol import TokenLogprob
from lmnb.server.generation import Answer
from lmnb.server.openai import ids
from lmnb.server.openai.chat_answer import FINGERPRINT
from lmnb.server.openai.wire import LOWEST, Stats, Usage, stats, usage

FinishReason = Literal["stop", "length"]


class Logprobs(msgspec.Struct, frozen=True):
    """Four parallel lists. Offsets are characters from the start of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(msgspec.Struct, frozen=True):
    """One completion, or news of it."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: FinishReason | None


class Completion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What POST /v1/completions answers, and each of its chunks."""

    id: str
    object: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    system_fingerprint: str
    usage: Usage | None = None
    stats: Stats | None = None


def legacy_logprobs(tokens: Iterable[TokenLogprob], offset: int) -> Logprobs:
    """Log probabilities in the old form; `offset` characters come before the first token."""
    found = Logprobs([], [], [], [])
    for token in tokens:
        found.tokens.append(token.token)
        found.token_logprobs.append(max(token.logprob, LOWEST))
        found.top_logprobs.append({text: max(value, LOWEST) for text, _, value in token.top})
        found.text_offset.append(offset)
        offset += len(token.token)
    return found


def finish_reason(end: Finished) -> FinishReason:
    """`stop` or `length`; there is nothing else here."""
    return "length" if end.reason in {"length", "context"} else "stop"


class CompletionWriter:
    """Writes the answers to `prompts × n` generations. One per response.

    Parameters
    ----------
    echoes
        For each choice the text to put in front: its prompt with `echo`, else nothing.
    n
        Choices per prompt; these share the prompt's tokens in the usage.
    """

    def __init__(
        self, model: str, echoes: Sequence[str], n: int, *, with_logprobs: bool, with_usage: bool
    ) -> None:
        self._id = ids.completion()
        self._created = int(time.time())
        self._model = model
        self._echoes = echoes
        self._n = n
        self._with_logprobs = with_logprobs
        self._with_usage = with_usage
        self._offsets = [len(echo) for echo in echoes]
        self._ends: list[Finished | None] = [None] * len(echoes)

    def whole(self, answers: Sequence[Answer]) -> Completion:
        """The answer in one piece."""
        ends = [answer.finished for answer in answers]
        choices = tuple(
            Choice(
                i,
                self._echoes[i] + answer.text,
                legacy_logprobs(answer.logprobs, 0) if self._with_logprobs else None,
                finish_reason(answer.finished),
            )
            for i, answer in enumerate(answers)
        )
        return self._completion(choices, self._usage(ends), stats(ends[0]))

    def start(self) -> Iterator[Completion]:
        """The echoes."""
        for index, echo in enumerate(self._echoes):
            if echo:
                yield self._completion((Choice(index, echo, None, None),))

    def feed(self, index: int, event: Event) -> Completion | None:
        """The chunk that says `event`, if it is one that clients hear of."""
        match event:
            case TextDelta(text=text, logprobs=tokens):
                known = None
                if self._with_logprobs:
                    known = legacy_logprobs(tokens, self._offsets[index])
                self._offsets[index] += len(text)
                return self._completion((Choice(index, text, known, None),))
            case Finished():
                self._ends[index] = event
                return self._completion((Choice(index, "", None, finish_reason(event)),))
            case _:
                return None

    def finish(self) -> Iterator[Completion]:
        """The usage, if it was asked for."""
        ends = [end for end in self._ends if end is not None]
        if self._with_usage and ends:
            yield self._completion((), self._usage(ends), stats(ends[0]))

    def _usage(self, ends: Sequence[Finished]) -> Usage:
        return usage([ends[i : i + self._n] for i in range(0, len(ends), self._n)])

    def _completion(
        self,
        choices: tuple[Choice, ...],
        used: Usage | None = None,
        figures: Stats | None = None,
    ) -> Completion:
        return Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=FINGERPRINT,
            usage=used,
            stats=figures,
        )
