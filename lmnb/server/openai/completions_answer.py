"""Answers of the legacy Completions, whole and in chunks: one shape for both."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from lmnb.chat.events import Event, Finished, Scored, TextDelta
from lmnb.engine.options import TokenLogprob
from lmnb.server.generation import Answer
from lmnb.server.openai import ids
from lmnb.server.openai.chat_answer import FINGERPRINT
from lmnb.server.openai.wire import LOWEST, Stats, Usage, stats, usage

FinishReason = Literal["stop", "length"]


class Logprobs(msgspec.Struct, frozen=True):
    """Four parallel lists. Offsets are characters from the start of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
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
    choices: list[Choice]
    system_fingerprint: str
    usage: Usage | None = None
    stats: Stats | None = None


def legacy_logprobs(
    tokens: Iterable[TokenLogprob], offset: int, prompt: Iterable[TokenLogprob] = ()
) -> Logprobs:
    """Log probabilities in the old form; `offset` characters come before the first token.

    With a `prompt` that is echoed: of its first token nothing is known, which is null.
    """
    found = Logprobs([], [], [], [])
    place = 0
    for token in prompt:
        _add(found, token, place, known=bool(found.tokens))
        place += len(token.token)
    for token in tokens:
        _add(found, token, offset, known=True)
        offset += len(token.token)
    return found


def _add(found: Logprobs, token: TokenLogprob, offset: int, *, known: bool) -> None:
    top = {_name(text, raw): max(value, LOWEST) for text, raw, value in token.top}
    found.tokens.append(_name(token.token, token.raw))
    found.token_logprobs.append(max(token.logprob, LOWEST) if known else None)
    found.top_logprobs.append(top if known else None)
    found.text_offset.append(offset)


def _name(text: str, raw: bytes) -> str:
    r"""A token's text, or `bytes:\xe2\x80` for a part of a character, as OpenAI writes it.

    All such parts have the same text, and would be one key.
    """
    if "\ufffd" not in text:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def likelihood(answer: Answer) -> float:
    """By which the best of several completions is found: the mean log probability of its tokens."""
    values = [max(token.logprob, LOWEST) for token in answer.logprobs]
    return sum(values) / len(values) if values else 0.0


def finish_reason(end: Finished) -> FinishReason:
    """`stop` or `length`; there is nothing else here."""
    return "length" if end.reason in {"length", "context"} else "stop"


class CompletionWriter:
    """Writes the answers to `prompts × n` generations. One per response.

    Parameters
    ----------
    prompts
        What is continued; put in front of each answer with `echo`.
    n
        Choices per prompt; these share the prompt's tokens in the usage.
    """

    def __init__(
        self,
        model: str,
        prompts: Sequence[str | tuple[int, ...]],
        n: int,
        *,
        echo: bool,
        with_logprobs: bool,
        with_usage: bool,
    ) -> None:
        self._id = ids.completion()
        self._created = int(time.time())
        self._model = model
        self._prompts = prompts
        self._n = n
        self._echo = echo
        self._with_logprobs = with_logprobs
        self._with_usage = with_usage
        self._offsets = [0] * len(prompts) * n
        self._ends: list[Finished | None] = [None for _ in self._offsets]

    def whole(self, answers: Sequence[Answer], tries: int) -> Completion:
        """The answer in one piece, with the best `n` of the `tries` answers to each prompt."""
        groups = [answers[i : i + tries] for i in range(0, len(answers), tries)]
        choices: list[Choice] = []
        for prompt, group in zip(self._prompts, groups, strict=True):
            best = sorted(group, key=lambda one: -likelihood(one)) if tries > self._n else group
            echo = self._echoed(prompt, group[0].prompt)
            for answer in best[: self._n]:
                known = None
                if self._with_logprobs:
                    known = legacy_logprobs(answer.logprobs, len(echo), group[0].prompt)
                text, reason = echo + answer.text, finish_reason(answer.finished)
                choices.append(Choice(len(choices), text, known, reason))
        ends = [[answer.finished for answer in group] for group in groups]
        return self._completion(choices, usage(ends), stats(ends[0][0]))

    def start(self) -> Iterator[Completion]:
        """The echoes, unless they come with their scores."""
        for i, prompt in enumerate(self._prompts):
            if self._echo and isinstance(prompt, str) and not self._with_logprobs:
                yield self._echoes(i, ())

    def feed(self, index: int, event: Event) -> Completion | None:
        """The chunk that says `event`, if it is one that clients hear of."""
        match event:
            case Scored(tokens=tokens):
                return self._echoes(index // self._n, tokens)
            case TextDelta(text=text, logprobs=tokens):
                known = None
                if self._with_logprobs:
                    known = legacy_logprobs(tokens, self._offsets[index])
                self._offsets[index] += len(text)
                return self._completion([Choice(index, text, known, None)])
            case Finished():
                self._ends[index] = event
                return self._completion([Choice(index, "", None, finish_reason(event))])
            case _:
                return None

    def _echoed(self, prompt: str | tuple[int, ...], tokens: Iterable[TokenLogprob]) -> str:
        if not self._echo:
            return ""
        return prompt if isinstance(prompt, str) else "".join(token.token for token in tokens)

    def _echoes(self, number: int, tokens: Sequence[TokenLogprob]) -> Completion:
        """The chunk with which all choices of a prompt begin."""
        text = self._echoed(self._prompts[number], tokens)
        known = legacy_logprobs((), 0, tokens) if self._with_logprobs else None
        places = range(number * self._n, (number + 1) * self._n)
        for index in places:
            self._offsets[index] = len(text)
        return self._completion([Choice(index, text, known, None) for index in places])

    def finish(self) -> Iterator[Completion]:
        """The usage, if it was asked for."""
        ends = [end for end in self._ends if end is not None]
        if self._with_usage and ends:
            groups = [ends[i : i + self._n] for i in range(0, len(ends), self._n)]
            yield self._completion([], usage(groups), stats(ends[0]))

    def _completion(
        self,
        choices: list[Choice],
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
